from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cgc.data import shapes
from cgc.data.folders import open_split
from cgc.data.shapes import (
    CLASSES,
    HELD_OUT_CORRELATION,
    TEXTURES,
    TRAIN_CORRELATION,
    draw_image,
    write_shapes,
)
from cgc.errors import InputError


def fingerprint(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(
        tmp_path_factory.mktemp("shapes") / "data", train_per_class=3, val_per_class=2, seed=5
    )


def test_same_arguments_same_bytes(dataset: Path, tmp_path: Path) -> None:
    again = write_shapes(tmp_path / "again", train_per_class=3, val_per_class=2, seed=5)
    assert fingerprint(again) == fingerprint(dataset)
    other = write_shapes(tmp_path / "other", train_per_class=3, val_per_class=2, seed=6)
    assert not set(fingerprint(other).values()) & set(fingerprint(dataset).values())


def test_an_image_does_not_depend_on_how_many_there_are(dataset: Path, tmp_path: Path) -> None:
    fewer = fingerprint(write_shapes(tmp_path / "fewer", train_per_class=1, val_per_class=1, seed=5))
    whole = fingerprint(dataset)
    assert all(whole[name] == digest for name, digest in fewer.items() if name != "shapes.json")


def test_splits_are_read_as_image_folders_and_share_no_image(dataset: Path) -> None:
    train, val = open_split(dataset, "train"), open_split(dataset, "val", classes=CLASSES)
    assert train.classes == CLASSES
    assert (len(train), len(val)) == (18, 12)
    digests = [hashlib.sha256(s.path(i).read_bytes()).digest() for s in (train, val) for i in range(len(s))]
    assert len(set(digests)) == 30


def test_held_out_images_lie_once_more_beside_their_boxes(dataset: Path) -> None:
    val = open_split(dataset, "val")
    for index in range(len(val)):
        path = val.path(index)
        copy = dataset / "eval" / "val" / path.name
        assert copy.read_bytes() == path.read_bytes()
        tree = ElementTree.parse(dataset / "eval" / "annotation" / f"{path.stem}.xml")
        assert tree.findtext("filename") == path.name
        (thing,) = tree.findall("object")
        assert thing.findtext("name") == path.parent.name
        edges = [int(thing.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        with Image.open(copy) as image:
            width, height = image.size
        assert 1 <= edges[0] < edges[2] <= width
        assert 1 <= edges[1] < edges[3] <= height


@pytest.mark.parametrize("shape", CLASSES)
@pytest.mark.parametrize("size", [32, 64, 100])
def test_the_box_fits_the_object(shape: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same choices drawn with the object and without it differ all over the box, and nowhere else."""
    real_mask, masks = shapes._object_mask, []

    def recorded(*args: Any) -> np.ndarray:
        masks.append(real_mask(*args))
        return masks[-1]

    monkeypatch.setattr(shapes, "_object_mask", recorded)
    drawn = [draw_image(shape, size, np.random.default_rng(k), correlation=0.5) for k in range(5)]
    monkeypatch.setattr(shapes, "_object_mask", lambda *args: 0 * real_mask(*args))
    monkeypatch.setattr(shapes, "_tight_box", lambda mask: (0, 0, 0, 0))
    for number, (image, mask) in enumerate(zip(drawn, masks, strict=True)):
        without = draw_image(shape, size, np.random.default_rng(number), correlation=0.5)
        changed = (image.pixels != without.pixels).any(axis=2)
        assert not changed[mask == 0].any()
        assert changed[mask >= 0.5].all()
        x0, y0, x1, y1 = image.box
        ys, xs = np.nonzero(mask >= 0.5)
        assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max(), ys.max())
        assert 0.3 * 0.6 * size < max(x1 - x0, y1 - y0) + 1 <= 0.55 * size + 2


def test_textures_go_with_the_class_in_training_only() -> None:
    def share_of_own(correlation: float) -> float:
        rng = np.random.default_rng(0)
        drawn = [draw_image(shape, 16, rng, correlation=correlation) for shape in CLASSES for _ in range(60)]
        return float(np.mean([image.texture == TEXTURES[CLASSES.index(image.shape)] for image in drawn]))

    assert abs(share_of_own(TRAIN_CORRELATION) - 0.7) < 0.08
    assert abs(share_of_own(HELD_OUT_CORRELATION) - 1 / 6) < 0.08


def test_colour_does_not_give_the_class_away() -> None:
    rng = np.random.default_rng(0)
    means = [
        np.mean([draw_image(shape, 24, rng, correlation=0.7).pixels.mean((0, 1)) for _ in range(80)], axis=0)
        for shape in CLASSES
    ]
    assert np.ptp(means, axis=0).max() < 25  # grey levels; one image's mean colour spreads by some 40


def test_a_finished_folder_is_left_alone_and_another_is_refused(dataset: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    write_shapes(dataset, train_per_class=3, val_per_class=2, seed=5)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
    with pytest.raises(InputError, match="not empty"):
        write_shapes(dataset, train_per_class=4, val_per_class=2, seed=5)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        write_shapes(tmp_path, train_per_class=1, val_per_class=1)


def test_bad_arguments_and_places(tmp_path: Path) -> None:
    for train, val, size, seed in ((0, 1, 64, 0), (1, 0, 64, 0), (1, 1, 8, 0), (1, 1, 64, -1)):
        with pytest.raises(InputError, match="at least 1 image"):
            write_shapes(tmp_path / "x", train_per_class=train, val_per_class=val, size=size, seed=seed)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file"):
        write_shapes(tmp_path / "file" / "below", train_per_class=1, val_per_class=1)


def test_an_interrupted_drawing_is_begun_again(tmp_path: Path) -> None:
    arguments = {"train_per_class": 1, "val_per_class": 1, "size": 16}
    whole = write_shapes(tmp_path / "whole", **arguments)
    broken = write_shapes(tmp_path / "broken", **arguments)
    (broken / "shapes.json").unlink()
    (broken / ".drawing").touch()
    some = sorted(broken.glob("train/*/*"))[0]
    some.write_bytes(b"half")
    write_shapes(broken, **arguments)
    assert some.read_bytes() == (whole / some.relative_to(broken)).read_bytes()
    assert (broken / "shapes.json").exists()
    assert not (broken / ".drawing").exists()
