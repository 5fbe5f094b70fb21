"""MATLAB files of versions 5 to 7, looked through before a library reads them.

scipy's reader is compiled and believes what a file says of itself: sizes that contradict each other end the process.
Format: "MAT-File Format" of The MathWorks, level 5.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from cgc.optional_packages import optional_package

_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}  # of a number, by its type
_LETTERS = {1, 2, 4, 16, 17, 18}  # types that letters may be of
_CELL, _STRUCT, _OBJECT, _CHAR, _NUMBERS = 1, 2, 3, 4, range(6, 16)  # classes of arrays
_DEEPEST = 30
_LARGEST = 1 << 28  # bytes of a variable, unpacked


class _Part(NamedTuple):
    kind: int
    data: memoryview


def load_mat(content: bytes, names: Collection[str]) -> dict[str, Any]:
    """Variables of a MATLAB file by their names, as scipy gives them with `simplify_cells`.

    Raises:
        InputError: scipy is missing.
        NotImplementedError: a file of MATLAB 7.3.
        ValueError: another file, or one that contradicts itself; and whatever scipy raises.
    """
    scipy = optional_package("scipy.io", "scipy", "MATLAB files")
    if len(content) < 128 or 0 in content[:4] or content[126:128] not in (b"IM", b"MI"):
        raise ValueError("no MATLAB file")
    order = "<" if content[126:128] == b"IM" else ">"
    if struct.unpack(f"{order}H", content[124:126])[0] >> 8 == 1:  # else it is for scipy to say what it is
        _check(memoryview(content)[128:], order, {name.encode() for name in names})
    found: dict[str, Any] = scipy.loadmat(
        io.BytesIO(content), simplify_cells=True, variable_names=list(names)
    )
    return found


def _check(data: memoryview, order: str, names: Collection[bytes]) -> None:
    for part in _parts(data, order):
        if part.kind == _COMPRESSED:
            unpacking = zlib.decompressobj()
            inner = unpacking.decompress(part.data, _LARGEST)
            if not unpacking.eof:
                raise ValueError("a variable that is cut off, or far too large")
            (part,) = _parts(memoryview(inner), order)
        if part.kind != _MATRIX:
            raise ValueError(f"type {part.kind} where a variable should be")
        _check_array(part.data, order, 0, names)


def _parts(data: memoryview, order: str) -> Iterator[_Part]:
    """The elements that stand one after the other: type, size and content; small ones in eight bytes."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("an element that is cut off")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, following = at + 8, at + 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
        if kind >> 16:
            kind, size, start, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + size > min(len(data), max(following, start)):
            raise ValueError(f"an element of {size} bytes where there are {len(data) - start}")
        yield _Part(kind, data[start : start + size])
        at = following


def _check_array(data: memoryview, order: str, depth: int, names: Collection[bytes] = ()) -> None:
    """Raise ValueError unless sizes and types agree. ``names``: of other variables only the beginning is looked at."""
    if not data and depth:
        return
    if depth > _DEEPEST:
        raise ValueError(f"nested deeper than {_DEEPEST}")
    parts = _parts(data, order)
    flags = _integers(next(parts, None), _UINT32, order)
    sizes = _integers(next(parts, None), _INT32, order)
    name = next(parts, None)
    if len(flags) != 2 or not 2 <= len(sizes) <= 32 or min(sizes) < 0 or name is None or name.kind != _INT8:
        raise ValueError("an array without its size and name")
    kind, count = flags[0] & 0xFF, math.prod(sizes)
    if depth == 0 and bytes(name.data) not in names:
        return
    if kind in (_STRUCT, _OBJECT):
        fields = _fields(parts, order, named=kind == _OBJECT)
        if not fields and count > 1:  # nothing in the file bounds how many
            raise ValueError(f"{count} structs without fields")
        count *= fields
    if kind in (_CELL, _STRUCT, _OBJECT):
        found = 0
        for part in parts:
            if part.kind != _MATRIX:
                raise ValueError("a cell that is no array")
            _check_array(part.data, order, depth + 1)
            found += 1
        _agree(found, count)
    elif kind == _CHAR or kind in _NUMBERS:
        _check_values(list(parts), count, letters=kind == _CHAR, two=bool(flags[0] & 0x800))
    else:
        raise ValueError(f"an array of class {kind}")


def _fields(parts: Iterator[_Part], order: str, *, named: bool) -> int:
    """How many fields a struct has."""
    if named and next(parts, None) is None:
        raise ValueError("an object without a class")
    length = _integers(next(parts, None), _INT32, order)
    names = next(parts, None)
    if len(length) != 1 or not 1 <= length[0] <= 1024 or names is None or names.kind != _INT8:
        raise ValueError("a struct without names")
    if len(names.data) % length[0]:
        raise ValueError("names of fields that are cut off")
    return len(names.data) // length[0]


def _check_values(parts: list[_Part], count: int, *, letters: bool, two: bool) -> None:
    _agree(len(parts), 1 + (two and not letters))
    for part in parts:
        if letters:
            if part.kind not in _LETTERS or count > len(part.data):
                raise ValueError("letters that are none")
        elif part.kind not in _BYTES:
            raise ValueError(f"numbers of type {part.kind}")
        else:
            _agree(len(part.data), count * _BYTES[part.kind])


def _integers(part: _Part | None, kind: int, order: str) -> tuple[int, ...]:
    if part is None or part.kind != kind or len(part.data) % 4:
        raise ValueError("a number is missing")
    letter = "i" if kind == _INT32 else "I"
    return struct.unpack(f"{order}{len(part.data) // 4}{letter}", part.data)


def _agree(found: int, said: int) -> None:
    if found != said:
        raise ValueError(f"an array of {said} that has {found}")
