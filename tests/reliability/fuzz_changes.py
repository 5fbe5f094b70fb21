"""How valid files are changed at random, so that they get past the first check of their reader."""

from __future__ import annotations

import functools
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cgc.errors import InputError
from tests.data.images import photograph

LONGEST = 1 << 20  # bytes of an input
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_NUMBERS = (
    *b"0 -1 1 2 7 255 256 65536 2147483647 2147483648 -2147483649 9223372036854775807 9223372036854775808".split(),
    *b"1e308 -1e308 1e999 NaN nan inf -inf Infinity 0.5 1e-320 00001 000000000123456789 1_000 0x10".split(),
    b"",
    b"9" * 5000,
    "٣".encode(),
)
_PATHS = (
    b"../../../etc/passwd",
    b"/etc/passwd",
    b"..",
    b"a/../../b",
    b"\\..\\x",
    b"~",
    b".",
    b"x" * 300,
    b"a//b",
)
_TEXTS = (
    b"\0",
    b"\n",
    b"\r",
    b"\t",
    b" ",
    b",",
    b'"',
    b"\xff",
    b"\xed\xa0\x80",
    "\u2028é".encode(),
    b"\x1b[2J",
    b"#",
)
_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 2**63, 10**400, 1e308, float("nan"), [], {}, [[[]]], [1e308] * 4, [0, 0, 1e308, 1e308]),
    *("", "\0", "\n", "\ud800", "\ud800/x", "../../x", "/etc/passwd", "x" * 300),
)


@dataclass(frozen=True)
class Target:
    """A reader. ``call`` takes a folder to write into and the bytes; ``allowed`` are the errors that it documents.

    ``seeds`` makes valid inputs, with a folder to work in. ``repair`` makes checksums right again, in half of the
    inputs.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    call: Callable[[Path, bytes], object]
    allowed: tuple[type[BaseException], ...]
    tokens: tuple[bytes, ...] = ()
    repair: Callable[[bytes], bytes] | None = None


TARGETS: dict[str, Target] = {}
BETWEEN = b"\n=8<=\n"  # between the files of an input that is several


def target(
    name: str,
    seeds: Callable[[Path], list[bytes]],
    *,
    allowed: tuple[type[BaseException], ...] = (InputError,),
    tokens: Sequence[bytes] = (),
    repair: Callable[[bytes], bytes] | None = None,
) -> Callable[[Callable[[Path, bytes], object]], None]:
    """Registers the function below it as the ``call`` of a target."""

    def register(call: Callable[[Path, bytes], object]) -> None:
        TARGETS[name] = Target(name, seeds, call, allowed, tuple(tokens), repair)

    return register


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_all(data: bytes, paths: Sequence[Path]) -> None:
    """The files of an input that is several; those that a change has cut off are empty."""
    parts = data.split(BETWEEN)
    for number, path in enumerate(paths):
        put(path, parts[number] if number < len(parts) else b"")


@functools.cache
def png() -> bytes:
    buffer = io.BytesIO()
    photograph(40, 30).save(buffer, "PNG")
    return buffer.getvalue()


def picture(path: Path) -> Path:
    """A PNG of 40×30, once."""
    return path if path.exists() else put(path, png())


def png_checksums(data: bytes) -> bytes:
    """CRC-32 of a PNG's chunks, as far as it is one."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        parts += [data[at:end], struct.pack(">I", zlib.crc32(data[at + 4 : end]))]
        at = end + 4
    return b"".join(parts) + data[at:]


def zipped(path: Path, entries: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive whose own checksums are right."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)  # without the time
    return path


def mutated(of: Target, seeds: list[bytes], seed: int, number: int) -> bytes:
    """Input ``number`` of a target, a function of these four; the first ones are the seeds themselves."""
    if number < len(seeds):
        return seeds[number]
    chance = random.Random(f"{seed}/{of.name}/{number}")
    data = chance.choice(seeds)
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = chance.choice(_CHANGES)(chance, data, of, seeds)[:LONGEST]
    return of.repair(data) if of.repair is not None and chance.random() < 0.5 else data


def _span(chance: random.Random, data: bytes, most: int = 64) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.randrange(most))


def _bytes(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 4, 16)) if data else 0):
        place = chance.randrange(len(changed))
        flipped = changed[place] ^ 1 << chance.randrange(8)
        changed[place] = chance.choice((flipped, 0, 255, chance.randrange(256)))
    return bytes(changed)


def _binary(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    """A binary number that is extreme, or about the length."""
    width = chance.choice((1, 2, 4, 8))
    top = 1 << 8 * width
    value = chance.choice((0, 1, top - 1, top // 2, top // 2 - 1, len(data) % top, top // 16))
    number = value.to_bytes(width, "little")
    start = chance.randrange(len(data) + 1)
    return data[:start] + chance.choice((number, number[::-1])) + data[start + width :]


def _cut(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    start, stop = _span(chance, data)
    return chance.choice((data[:start], data[start:], data[:start] + data[stop:]))


def _splice(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    other = chance.choice(seeds)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _repeat(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    start, stop = _span(chance, data)
    return data[:stop] + data[start:stop] * chance.choice((1, 2, 100, 1000)) + data[stop:]


def _number(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data[: 1 << 14]))
    if not found:
        return data
    place = chance.choice(found)
    return data[: place.start()] + chance.choice(_NUMBERS) + data[place.end() :]


def _token(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    """A word of the format, or a hostile one; now and then nested or repeated absurdly."""
    own = of.tokens if of.tokens and chance.random() < 0.5 else (*_TEXTS, *_PATHS, *_NUMBERS)
    start, stop = _span(chance, data, 12)
    return (
        data[:start]
        + chance.choice(own) * chance.choice((1, 1, 1, 1, 1, 1, 3, 20_000))
        + data[chance.choice((start, stop)) :]
    )


def _field(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    """A field or a line is doubled, or another one, a hostile name or number stands in its place."""
    mark = chance.choice((b"\n", b"\t", b" ", b",", b"\0", b"/", b">"))
    parts = data.split(mark)
    one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    hostile = chance.choice((*_PATHS, *_NUMBERS, *_TEXTS))
    parts[one] = chance.choice((parts[other], b"", hostile, parts[one] + mark + parts[one]))
    return mark.join(parts)


def _json(chance: random.Random, data: bytes, of: Target, seeds: list[bytes]) -> bytes:
    """A value somewhere becomes another kind of value, goes, or is that of another place."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return _field(chance, data, of, seeds)
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting and len(places) < 5000:
        node = waiting.pop()
        keys = (
            list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        )
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    if not places:
        return data
    (node, key), (other, name) = chance.choice(places), chance.choice(places)
    kind = chance.random()
    if kind < 0.1:
        del node[key]
    elif kind < 0.3:
        node[key] = json.loads(json.dumps(other[name]))
    elif kind < 0.4 and isinstance(node, dict):
        node[chance.choice(("", "\ud800", "../x", "x\ny"))] = node.pop(key)
    else:
        node[key] = chance.choice(_VALUES)
    try:
        return json.dumps(content).encode()
    except (ValueError, RecursionError):  # a number of thousands of digits
        return data


_CHANGES = (_bytes, _binary, _cut, _splice, _repeat, _number, _number, _token, _token, _field, _json, _json)
