"""Boxes of training images: from tiny-imagenet's tables or VOC files, of all images or of a share."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cgc.data.folders import ImageList, open_split
from cgc.data.label_subset import draw_subset
from cgc.data.training_boxes import as_boxed_images, read_training_boxes, share_of_boxes
from cgc.errors import InputError
from tests.data.boxed_fixture import voc, voc_object
from tests.data.images import save_photograph

COUNTS = {"n01": 20, "n02": 7, "n03": 1}


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    """tiny-imagenet's layout with files of no content; every image has a box that its number tells."""
    for name, count in COUNTS.items():
        folder = tmp_path / "train" / name / "images"
        folder.mkdir(parents=True)
        for k in range(count):
            (folder / f"{name}_{k}.JPEG").touch()
        table = "".join(f"{name}_{k}.JPEG\t{k}\t1\t40\t50\n" for k in range(count))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text(table)
    return open_split(tmp_path, "train")


def by_class(boxes: dict[Path, np.ndarray]) -> Counter[str]:
    return Counter(path.name.split("_")[0] for path in boxes)


def test_tables_beside_the_images(images: ImageList) -> None:
    boxes = read_training_boxes(images, None)
    assert by_class(boxes) == COUNTS
    for index in range(len(images)):
        path = images.path(index)
        assert boxes[path].tolist() == [[int(path.stem.split("_")[1]), 1, 40, 50]]


@pytest.mark.parametrize("percent", [Fraction(1, 2), Fraction(10), Fraction(50), Fraction(100)])
def test_a_share_is_drawn_class_by_class(percent: Fraction, images: ImageList) -> None:
    """Each class's number is rounded to the nearest, halves up, and is one at least; the boxes are the images' own."""
    boxes = read_training_boxes(images, None)
    few = share_of_boxes(images, boxes, percent)
    expected = {name: max(1, int(count * percent / 100 + Fraction(1, 2))) for name, count in COUNTS.items()}
    assert by_class(few) == expected
    assert all(few[path] is boxes[path] for path in few)


def test_shares_are_nested_and_of_their_seed(images: ImageList) -> None:
    boxes = read_training_boxes(images, None)
    shares = [set(share_of_boxes(images, boxes, Fraction(p), seed=4)) for p in (1, 5, 10, 37, 80, 100)]
    assert all(small <= large for small, large in pairwise(shares))
    assert len(shares[0]) < len(shares[3]) < len(shares[-1]) == len(boxes)
    assert set(share_of_boxes(images, boxes, Fraction(37), seed=4)) == shares[3]
    assert set(share_of_boxes(images, boxes, Fraction(37), seed=5)) != shares[3]


def test_the_draw_is_that_of_labels(images: ImageList) -> None:
    """Where every image has boxes: the images that label-subset would choose."""
    drawn = draw_subset(images, Fraction(37), seed=2).tolist()
    few = share_of_boxes(images, read_training_boxes(images, None), Fraction(37), seed=2)
    assert list(few) == [images.path(index) for index in drawn]


def test_images_without_boxes_are_not_counted(images: ImageList) -> None:
    """A share of what is annotated: half of ten, and none of a class without any."""
    boxes = read_training_boxes(images, None)
    annotated = {path: boxes[path] for path in list(boxes)[:10]}
    assert by_class(share_of_boxes(images, annotated, Fraction(50))) == {"n01": 5}
    for wrong in (0, 101):
        with pytest.raises(ValueError, match="percent"):
            share_of_boxes(images, boxes, Fraction(wrong))


def test_voc_files_in_class_folders_or_not(tmp_path: Path) -> None:
    """Objects of the image's own class count; boxes are VOC's, from 1, and are clipped to the image for rows."""
    for name in ("ant", "bee"):
        for k in range(2):
            save_photograph(tmp_path / "data" / "train" / name / f"{name}{k}.png", 40, 30, k)
    images = open_split(tmp_path / "data", "train")
    (tmp_path / "boxes" / "ant").mkdir(parents=True)
    objects = (
        voc_object("ant", (3, 2, 10, 9)),
        voc_object("bee", (1, 1, 5, 5)),
        voc_object("ant", (30, 20, 99, 99)),
    )
    (tmp_path / "boxes" / "ant" / "ant1.xml").write_text(voc(*objects))
    (tmp_path / "boxes" / "bee0.xml").write_text(voc(voc_object("bee", (1, 1, 4, 4))))
    (tmp_path / "boxes" / "bee1.xml").write_text(voc(voc_object("ant", (1, 1, 4, 4))))
    boxes = read_training_boxes(images, tmp_path / "boxes")
    assert {path.stem: own.tolist() for path, own in boxes.items()} == {
        "ant1": [[2, 1, 9, 8], [29, 19, 98, 98]],
        "bee0": [[0, 0, 3, 3]],
    }
    rows = as_boxed_images(images, boxes).images
    assert [row.path.stem for row in rows] == ["ant1", "bee0"]
    assert rows[0].region.tolist() == [[2, 1, 9, 8], [29, 19, 39, 29]]


def test_no_boxes_at_all(tmp_path: Path, images: ImageList) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none: no boxes of training images"):
        read_training_boxes(images, tmp_path / "none")
    with pytest.raises(InputError, match="no such folder"):
        read_training_boxes(images, tmp_path / "nowhere")
    (tmp_path / "none" / "n01_0.xml").write_text("<annotation>")
    with pytest.raises(InputError, match=r"n01_0\.xml"):
        read_training_boxes(images, tmp_path / "none")
