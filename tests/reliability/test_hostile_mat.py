"""MATLAB files that contradict themselves: refused before the library sees them, whose process they would end."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from cgc.data.annotations import Choice
from cgc.data.mat_files import load_mat
from cgc.data.unrel import read_unrel
from tests.reliability.fuzz_changes import put
from tests.reliability.fuzz_watch import refusal

pytest.importorskip("scipy.io")
DOUBLE, CELL, STRUCT, SPARSE = 6, 1, 2, 5


def part(kind: int, data: bytes, size: int | None = None) -> bytes:
    """An element; ``size`` is what it says to be."""
    padding = bytes(-len(data) % 8 if kind != 15 else 0)
    return struct.pack("<II", kind, len(data) if size is None else size) + data + padding


def array(kind: int, sizes: tuple[int, ...], *parts: bytes, name: bytes = b"") -> bytes:
    dims = struct.pack(f"<{len(sizes)}i", *sizes)
    return part(14, part(6, struct.pack("<II", kind, 0)) + part(5, dims) + part(1, name) + b"".join(parts))


def mat(*variables: bytes) -> bytes:
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"".join(variables)


def doubles(count: int, **changes: int) -> bytes:
    return part(9, bytes(8 * count), **changes)


def fields(names: bytes, length: int) -> bytes:
    return part(5, struct.pack("<i", length)) + part(1, names)


def nested(levels: int) -> bytes:
    inner = array(DOUBLE, (1, 1), doubles(1))
    for _ in range(levels):
        inner = array(CELL, (1, 1), inner)
    return array(CELL, (1, 1), inner, name=b"annotations")


HUGE = 1 << 30
ONE = b"annotations"
CONTRADICTIONS: dict[str, bytes] = {
    "more numbers than said": mat(array(DOUBLE, (1, 1), doubles(2000), name=ONE)),
    "fewer numbers than said": mat(array(DOUBLE, (1000, 1000), doubles(1), name=ONE)),
    "a negative size": mat(array(DOUBLE, (-1, -1), doubles(1), name=ONE)),
    "a size of one": mat(array(DOUBLE, (1,), doubles(1), name=ONE)),
    "an element beyond the end": mat(array(DOUBLE, (1, 1), doubles(1, size=HUGE), name=ONE)),
    "cells that are not there": mat(array(CELL, (HUGE, 1), name=ONE)),
    "structs without fields": mat(array(STRUCT, (HUGE, 1), fields(b"", 32), name=ONE)),
    "names of no length": mat(array(STRUCT, (1, 1), fields(b"abc", 0), name=ONE)),
    "names that are cut off": mat(array(STRUCT, (1, 1), fields(b"abc", 2), name=ONE)),
    "letters of numbers": mat(array(4, (1, 9), doubles(9), name=ONE)),
    "letters that are missing": mat(array(4, (1, 9), part(2, b"abc"), name=ONE)),
    "numbers of no type": mat(array(DOUBLE, (1, 1), part(77, bytes(8)), name=ONE)),
    "a sparse array": mat(array(SPARSE, (1, 1), doubles(1), name=ONE)),
    "cells in cells": mat(nested(40)),
    "no array": mat(part(9, bytes(8))),
    "no variable": mat(part(14, b"")),
    "cut off": mat(array(DOUBLE, (1, 1), doubles(1), name=ONE))[:-9],
    "packed and cut off": mat(part(15, zlib.compress(nested(1))[:-6])),
    "packed without end": mat(part(15, zlib.compress(bytes(300 << 20), 1))),
    "an older format": b"\0\0\0\0" + mat()[4:],
    "nothing": b"",
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "annotations.mat", CONTRADICTIONS[kind])
    said = refusal(tmp_path, lambda: list(read_unrel(tmp_path, Choice()).images))
    assert "not a MATLAB file that can be read: " in said


def cells(*values: object) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def saved(content: dict[str, object], packed: bool) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, content, do_compression=packed)
    return file.getvalue()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        1.5,
        "text é",
        np.array(["ab", "cde"]),
        "",
        np.zeros((0, 3)),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.array([1 + 2j, 3]),
        np.array([True, False]),
        cells("a", np.arange(3.0), cells(1, "b")),
        {"filename": "a.jpg", "objects": cells({"box": np.arange(4.0)}, {"box": np.zeros(0)})},
        np.array([(1, "a"), (2, "b")], dtype=[("number", object), ("name", object)]),
        {},
    ],
    ids=range(12),
)
def test_what_scipy_writes_is_read(value: object, packed: bool) -> None:
    from scipy.io import loadmat

    content = saved({"wanted": value, "sparse": np.zeros(3)}, packed)
    expected = loadmat(io.BytesIO(content), simplify_cells=True)["wanted"]
    assert repr(load_mat(content, ["wanted"])["wanted"]) == repr(expected)


def test_variables_that_nobody_wants_may_be_of_any_kind() -> None:
    content = mat(array(SPARSE, (1, 1), name=b"other"), array(DOUBLE, (1, 1), doubles(1), name=ONE))
    assert load_mat(content, ["annotations"])["annotations"] == 0


def test_the_builder_builds_what_can_be_read() -> None:
    """Else all of the above would be refused for another reason."""

    def make(content: bytes) -> object:
        return load_mat(content, ["annotations"])["annotations"]

    assert make(mat(array(DOUBLE, (1, 1), doubles(1), name=ONE))) == 0
    assert make(mat(nested(3))) is not None
    assert make(mat(part(15, zlib.compress(nested(3))))) is not None
    assert make(
        mat(array(STRUCT, (1, 1), fields(b"a\0b\0", 2), *[array(DOUBLE, (1, 1), doubles(1))] * 2, name=ONE))
    ) == {
        "a": 0,
        "b": 0,
    }
    assert make(mat(array(4, (1, 3), part(2, b"abc"), name=ONE))) == "abc"
