"""Samples in tar files, found by their headers alone.

WebDataset: members whose names are equal up to the first dot of the last part, standing next to each other, are one
sample; the image's name goes on with its suffix, that of the class index with `.cls`. The headers are read here, not by
`tarfile`, which trusts some of their fields with its memory and its loop. Formats: ustar, with the extended headers of
pax and GNU for long names and large files; what is no plain file is passed over. Sources: POSIX.1-2001, pax; the manual
of GNU tar, "Basic Tar Format".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from cgc.data.folders import IMAGE_SUFFIXES

BLOCK = 512
LABEL_SUFFIX = "cls"
_MOST_EXTENDED = 1 << 20  # bytes of an extended header, which holds a name
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
_UNSAFE = re.compile(r"(^|/)\.\.(/|$)|^/|^$|[\x00-\x1f\x7f\\]")


class Sample(NamedTuple):
    """An image in a tar file: the member's name, where its bytes are, and the text beside it, if there is one."""

    name: str
    offset: int
    size: int
    label: bytes | None


class Scan(NamedTuple):
    """What a tar file holds; ``left_out`` has a line for each member not used, ``damage`` says where it broke."""

    samples: list[Sample]
    left_out: list[str]
    damage: str | None


class _Damage(Exception):
    """One line."""


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def is_safe(name: str) -> bool:
    """Whether a name stays below the folder it is joined to, and on its line."""
    return _UNSAFE.search(name) is None


def scan(file: int) -> Scan:
    """The samples of an open tar file (a descriptor), in their order; names are unique."""
    samples: dict[str, Sample] = {}
    left_out: list[str] = []
    damage = None
    group: dict[str, _Member] = {}
    key = None

    def finish() -> None:
        sample = _sample(file, group)
        if sample is not None and sample.name in samples:
            left_out.append(f"{sample.name}: a second one of this name")
        elif sample is not None:
            samples[sample.name] = sample

    try:
        for member in _members(file):
            name = member.name.removeprefix("./")
            parts = _NAME.fullmatch(name)
            if not is_safe(name):
                left_out.append(f"{name!r}: not a name below the shard")
                continue
            if parts is None:
                continue
            if parts[1] != key:
                finish()
                group, key = {}, parts[1]
            suffix = parts[2].lower()
            if suffix in group:
                left_out.append(f"{group[suffix].name}: another {suffix} of the same sample follows")
            group[suffix] = member._replace(name=name)
    except _Damage as error:
        damage = str(error)
        if LABEL_SUFFIX not in group:  # the class may have stood behind
            group = {}
    finish()
    return Scan(list(samples.values()), left_out, damage)


def _sample(file: int, group: dict[str, _Member]) -> Sample | None:
    image = next((m for suffix, m in group.items() if f".{suffix}" in IMAGE_SUFFIXES), None)
    if image is None:
        return None
    label = group.get(LABEL_SUFFIX)
    text = os.pread(file, label.size, label.offset) if label and label.size <= BLOCK else None
    return Sample(image.name, image.offset, image.size, text)


def _members(file: int) -> Iterator[_Member]:
    """Every plain file whose bytes are all there. Raises _Damage where the archive does not go on as it should."""
    end, at = os.fstat(file).st_size, 0
    name: str | None = None
    size: int | None = None
    while True:
        header = os.pread(file, BLOCK, at)
        if len(header) < BLOCK:
            raise _Damage(f"it ends after {end} bytes, without the mark of an end: truncated")
        if not header.strip(b"\0"):
            return
        kind, own_size = header[156:157], _checked_size(header, at)
        extended = kind in b"xgLK"
        bytes_here = own_size if extended or size is None else size
        start = at + BLOCK + (_sparse_map(file, header, at + BLOCK) if kind == b"S" else 0)
        at = start + -(-bytes_here // BLOCK) * BLOCK
        if start + bytes_here > end:
            raise _Damage(f"it ends after {end} bytes, inside a member that begins at {start}: truncated")
        if extended:
            if bytes_here > _MOST_EXTENDED:
                raise _Damage(f"a name of {bytes_here} bytes at {start}")
            content = os.pread(file, bytes_here, start)
            if kind == b"x":
                fields = _pax_fields(content, start)
                name, size = fields.get("path", name), _pax_size(fields, start, size)
            elif kind == b"L":
                name = os.fsdecode(content.rstrip(b"\0"))
            continue
        if kind in b"0\0":
            yield _Member(_own_name(header) if name is None else name, start, bytes_here)
        name = size = None


def _sparse_map(file: int, header: bytes, at: int) -> int:
    """Bytes of the blocks that go on with the header of GNU's sparse files; each says whether another follows."""
    length, more = 0, header[482:483]
    while more.strip(b"\0"):
        more = os.pread(file, BLOCK, at + length)[504:505]
        length += BLOCK
    return length


def _checked_size(header: bytes, at: int) -> int:
    """The size in a header whose checksum is right."""
    try:
        told = int(header[148:156].strip(b" \0") or b"0", 8)
        field = header[124:136]
        # GNU's form for what octal digits cannot hold: the top bit, then a binary number (a negative one has more set).
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        raise _Damage(f"no tar header at {at}") from None
    if sum(header[:148]) + sum(header[156:]) + 8 * ord(" ") != told or size < 0:
        raise _Damage(f"no tar header at {at}")
    return size


def _own_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    return os.fsdecode(name)


def _pax_fields(content: bytes, at: int) -> dict[str, str]:
    """Records `LENGTH key=value` and a line feed; the length counts the whole record."""
    fields, first, end = {}, 0, len(content.rstrip(b"\0"))
    while first < end:
        space = content.find(b" ", first, first + 9)
        length = content[first : max(space, first)]
        count = int(length) if length.isdigit() else 0
        key, equals, value = content[space + 1 : max(first + count - 1, 0)].partition(b"=")
        if not 5 <= count <= len(content) - first or not equals:
            raise _Damage(f"an extended header at {at} that is none")
        fields[os.fsdecode(key)] = os.fsdecode(value)
        first += count
    return fields


def _pax_size(fields: dict[str, str], at: int, default: int | None) -> int | None:
    text = fields.get("size")
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _Damage(f"an extended header at {at} with the size {text[:20]!r}")
    return int(text)
