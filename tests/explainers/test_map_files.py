"""Damaged and lying files are a MapProblem, whatever is wrong with them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cgc.explainers.stored import MapProblem, StoredMaps
from tests.explainers.test_stored import SIZE, folder, problem, root

__all__ = ["folder", "root"]  # fixtures


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000), }\n"
DAMAGED = {
    "text.npy": b"0.1 0.2\n0.3 0.4\n",
    "empty.npy": b"",
    "huge.npy": npy(HUGE, b"\0" * 64),
    "negative.npy": npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 3), }\n"),
    "code.npy": npy(b"{'descr': __import__('os'), 'fortran_order': False, 'shape': (1, 1), }\n"),
    "short.npy": npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n", b"\0" * 40),
    "version.npy": b"\x93NUMPY\x09\x00" + b"\0" * 60,
    "pickle.npy": pickle.dumps([[1.0]]),
    "text.npz": b"not a zip",
    "empty.npz": b"",
    "text.png": b"hello",
    "cut.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\0\0\0\0",
    "empty.tif": b"II*\0",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(root: Path, folder: Path, name: str) -> None:
    path = folder / f"1{Path(name).suffix}"
    path.write_bytes(DAMAGED[name])
    found = problem(folder, root)
    assert found.reason == "unreadable map"
    assert "\n" not in found.what


def test_archives_that_lie(root: Path, folder: Path) -> None:
    path = folder / "1.npz"
    # 20 MB of zeros in 20 kB, and a header that says still more.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dog.npy", npy(HUGE, b"\0" * 20_000_000))
    assert path.stat().st_size < 50_000
    found = problem(folder, root)
    assert found.reason == "unreadable map"
    assert "(100000, 100000)" in found.what

    whole = io.BytesIO()
    np.savez_compressed(whole, dog=np.random.default_rng(0).random((40, 60)))
    path.write_bytes(whole.getvalue()[:-200])
    assert problem(folder, root).reason == "unreadable map"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert problem(folder, root).reason == "no map"


def test_pictures_that_are_not_grey_maps(root: Path, folder: Path) -> None:
    path = folder / "1.png"
    for mode in ("RGB", "RGBA", "P", "LA"):
        Image.new(mode, (6, 4)).save(path)
        found = problem(folder, root)
        assert found.reason == "unreadable map"
        assert f"mode {mode}" in found.what
    Image.new("1", (9000, 8000)).save(path, compress_level=1)
    assert "9000x8000" in problem(folder, root).what


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".npy", ".npz", ".png", ".tif"]),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    keep=st.floats(0.1, 1),
)
def test_any_damage_is_a_map_problem(
    root: Path, folder: Path, suffix: str, edits: list[tuple[int, int]], keep: float
) -> None:
    stream = io.BytesIO()
    values = np.random.default_rng(0).random((5, 8)).astype(np.float32)
    if suffix == ".npy":
        np.save(stream, values)
    elif suffix == ".npz":
        np.savez_compressed(stream, dog=values)
    else:
        picture = Image.fromarray((values * 255).astype(np.uint8))
        picture.save(stream, format="PNG" if suffix == ".png" else "TIFF")
    content = bytearray(stream.getvalue())
    for place, value in edits:
        content[place % len(content)] = value
    path = folder / f"1{suffix}"
    path.write_bytes(content[: max(1, int(keep * len(content)))])
    try:
        found = StoredMaps(folder, root).load(root / "dog/1.jpg", "dog", SIZE)
    except MapProblem:
        pass
    else:
        assert found.dtype == torch.float32
        assert found.ndim == 2
        assert found.isfinite().all()
        assert (found >= 0).all()
    finally:
        path.unlink()
