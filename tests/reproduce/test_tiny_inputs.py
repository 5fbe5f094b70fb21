"""What the tiny scale draws is what the project's own readers take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cgc.data.boxes import open_boxes
from cgc.data.multi_label import open_distractors, open_multi_label
from cgc.data.shapes import CLASSES
from cgc.errors import InputError
from cgc.models.backbones import build_backbone
from cgc.models.checkpoint_layouts import load_weights, read_checkpoint
from cgc.models.key_names import is_swav_pretrained
from cgc.models.u2net import load_u2net
from cgc.reproduce.plan import inputs_of
from cgc.reproduce.scale import TINY
from cgc.reproduce.tables import TABLES
from cgc.reproduce.tiny_inputs import Drawn


def made(table: str, folder: Path, given: dict[str, str] | None = None) -> dict[str, str]:
    found = TABLES[table]
    drawn, needs = Drawn(folder, found.layout, 6, 3), inputs_of(found, found.rows, TINY)
    places = drawn.make(needs, given or {})
    assert places == drawn.places(needs, given or {})
    assert all(Path(path).exists() for path in places.values())
    return places


def test_boxes(tmp_path: Path) -> None:
    data = made("cgc-imagenet", tmp_path)["DATA"]
    found = open_boxes(data)
    assert found.classes == CLASSES
    assert len(found.images) == 3 * len(CLASSES)
    assert not found.skipped
    assert all(image.boxes.shape == (1, 4) for image in found.images)


def test_other_data_sets_are_the_same_folder(tmp_path: Path) -> None:
    places = made("cgc-finegrained", tmp_path)
    assert set(places) == {"DATA", "CUB", "AIRCRAFT", "CARS", "FLOWERS"}
    assert len(set(places.values())) == 1


def test_coco(tmp_path: Path) -> None:
    data = Path(made("gc-coco", tmp_path)["DATA"])
    images, _ = open_multi_label(data, "train", dataset="coco")
    assert len(images) == 18
    distractors, _ = open_distractors(images, None)
    assert distractors.usable_K[: len(CLASSES)].all()
    held_out = open_boxes(data, dataset="coco")
    assert held_out.multi_label
    for row in held_out.images:
        height, width = row.size
        for x0, y0, x1, y1 in np.asarray(row.boxes).tolist():
            assert 0 <= x0 < x1 < width
            assert 0 <= y0 < y1 < height
            assert (x0 < width // 2) == (x1 < width // 2), "a box lies in the half of its shape"


def test_coco_masks_are_the_boxes(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    data = made("gc-coco", tmp_path)["DATA"]
    boxes, masks = open_boxes(data, dataset="coco"), open_boxes(data, dataset="coco", regions="masks")
    for one, other in zip(boxes.images[:5], masks.images[:5], strict=True):
        drawn = np.zeros(one.size, dtype=bool)
        for x0, y0, x1, y1 in np.asarray(one.boxes).tolist():
            drawn[y0 : y1 + 1, x0 : x1 + 1] = True
        assert (other.region == drawn).all()


def test_unrel(tmp_path: Path) -> None:
    places = made("unrel", tmp_path)
    found = open_boxes(
        places["UNREL"],
        dataset="unrel",
        class_map=places["CLASS_MAP"],
        classes=Path(places["DATA"]) / "train",
    )
    assert found.classes == CLASSES
    assert not found.multi_label
    assert len(found.images) >= 30


def test_weights(tmp_path: Path) -> None:
    swav = read_checkpoint(made("cgc-1pct", tmp_path)["SWAV"])
    assert is_swav_pretrained(swav.weights)
    backbone = build_backbone("resnet_tiny", 6)
    assert "fresh classifier" in load_weights(backbone, swav, other_head="initialise")
    imagenet = read_checkpoint(made("gc-coco", tmp_path / "coco")["IMAGENET"])
    assert "fresh classifier" in load_weights(backbone, imagenet, other_head="initialise")
    assert "optimizer" not in imagenet.extra, "weights to start from, not a run to go on with"
    assert load_u2net(made("sgc-1pct", tmp_path)["U2NET"]).size == "u2netp"


def test_weights_are_the_same_every_time_and_touch_no_random_state(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = (read_checkpoint(made("cgc-1pct", tmp_path / name)["SWAV"]) for name in "ab")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(w, other.weights[name]) for name, w in one.weights.items())


def test_given_inputs_stay(tmp_path: Path) -> None:
    given = {"DATA": made("cgc-imagenet", tmp_path / "a")["DATA"], "SWAV": str(tmp_path / "own")}
    (tmp_path / "own").touch()
    places = made("cgc-1pct", tmp_path / "b", given)
    assert places == given
    assert not list((tmp_path / "b").iterdir())


def test_another_drawing_is_not_taken_for_this_one(tmp_path: Path) -> None:
    made("cgc-imagenet", tmp_path)
    table = TABLES["cgc-imagenet"]
    with pytest.raises(InputError, match="not this shapes dataset"):
        Drawn(tmp_path, table.layout, 7, 3).make(table.inputs, {})
