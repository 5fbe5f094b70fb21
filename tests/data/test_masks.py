"""Masks against pycocotools as the oracle, and against input that lies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from cgc.data.masks import Polygons, RunLengths, Trimap, UnionMask, decode_counts, parse_segmentation

# pycocotools' own decoding, here as the oracle, is not yet written for NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def column_runs(mask_HW):
    """Lengths of equal runs down the columns, the first of them of background: one pixel at a time."""
    runs, current = [0], False
    for value in mask_HW.T.ravel():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


def painted(part, size):
    mask = np.zeros(size, dtype=bool)
    part.check(size)
    part.paint(mask)
    return mask


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_run_lengths_as_numbers_and_as_string(mask_HW):
    coco = pytest.importorskip("pycocotools.mask")
    size = list(mask_HW.shape)
    text = coco.encode(np.asfortranarray(mask_HW.astype(np.uint8)))["counts"].decode()
    for counts in (column_runs(mask_HW), text):
        part = parse_segmentation({"size": size, "counts": counts})
        assert np.array_equal(painted(part, mask_HW.shape), mask_HW)


def test_long_runs_in_a_string():
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((700, 900), dtype=np.uint8, order="F")
    mask[100:650, 3] = mask[5, 800:] = mask[:, 700] = 1
    assert decode_counts(coco.encode(mask)["counts"]) == column_runs(mask)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-5, 40, width=32), min_size=6, max_size=16).filter(lambda points: len(points) % 2 == 0)
)
def test_polygons_are_filled_as_pycocotools_fills_them(points):
    coco = pytest.importorskip("pycocotools.mask")
    other = [20.0, 20.0, 30.0, 20.0, 30.0, 25.0]
    runs = coco.frPyObjects([list(points), other], 30, 40)
    expected = (coco.decode(runs[0]) | coco.decode(runs[1])).astype(bool)
    assert np.array_equal(painted(parse_segmentation([points, other]), (30, 40)), expected)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "no segmentation"),
        ("abc", "no segmentation"),
        ([], "no polygon"),
        ([[1, 2, 3, 4, 5]], "three points"),
        ([1, 2, 3, 4, 5, 6], "three points"),
        ([[1, 2, 3, 4, 5, "6"]], "not all numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "not all numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, float("-inf")]], "not finite"),
        ({"counts": [4]}, "size of two whole numbers"),
        ({"size": [2, 2.0], "counts": [4]}, "size of two whole numbers"),
        ({"size": [2, 2], "counts": 4}, "whole numbers or a string"),
        ({"size": [2, 2], "counts": [1, "3"]}, "whole numbers or a string"),
        ({"size": [2, 2], "counts": "ä"}, "whole numbers or a string"),
        ({"size": [2, 2], "counts": [10**30]}, "absurd"),
    ],
)
def test_segmentations_of_no_known_form(written, message):
    with pytest.raises(ValueError, match=message):
        parse_segmentation(written)


@pytest.mark.parametrize(
    "counts", [[], [3], [5], [2, -1, 3], [2**62, 2**62], "1", "", " ", "~~", "o", "oooooooooo0"]
)
def test_run_lengths_that_lie_are_refused_when_decoded(counts):
    part = RunLengths.parse({"size": [2, 2], "counts": counts})
    with pytest.raises(ValueError, match="run lengths"):
        UnionMask((2, 2), (part,)).decode()


def test_sizes_must_be_the_image_s():
    with pytest.raises(ValueError, match="run lengths of 3×2 px in an image of 2×3"):
        UnionMask((2, 3), (RunLengths.parse({"size": [3, 2], "counts": [0, 6]}),)).decode()
    with pytest.raises(ValueError, match="far outside"):
        Polygons.parse([[0, 0, 81, 0, 5, 5]]).check((30, 40))
    Polygons.parse([[0, 0, 80, -40, 5, 5]]).check((30, 40))


def test_trimaps(tmp_path):
    values = np.array([[1, 2, 3], [1, 1, 2]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    palette.putdata(values.ravel().tolist())
    palette.save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        mask = UnionMask((2, 3), (Trimap(tmp_path / name),))
        assert pickle.loads(pickle.dumps(mask)).decode().tolist() == [
            [True, False, False],
            [True, True, False],
        ]
    with pytest.raises(ValueError, match=r"a\.png: is 2×3 px, the image 3×2"):
        UnionMask((3, 2), (Trimap(tmp_path / "a.png"),)).decode()
    Image.fromarray(np.full((2, 3), 2, dtype=np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match="the mask is empty"):
        UnionMask((2, 3), (Trimap(tmp_path / "c.png"),)).decode()
    Image.new("RGB", (3, 2)).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r"no trimap \(mode RGB\)"):
        UnionMask((2, 3), (Trimap(tmp_path / "d.png"),)).decode()
    (tmp_path / "e.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    for broken in ("e.png", "nowhere.png"):
        with pytest.raises((ValueError, OSError), match=broken):
            UnionMask((2, 3), (Trimap(tmp_path / broken),)).decode()
