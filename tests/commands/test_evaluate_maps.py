"""Maps in folders: written by an evaluation, scored again without the model, and damaged in every way."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.commands.evaluate import main
from cgc.models.backbones import build_backbone
from tests.data.boxed_fixture import make_image, voc, voc_object


@pytest.fixture
def data(tmp_path):
    """Five images of a cat on the left and a dog on the right."""
    root = tmp_path / "data"
    (root / "annotation").mkdir(parents=True)
    for index in range(5):
        size = (90, 60) if index % 2 else (60, 90)
        make_image(root / "val" / "deep" / f"{index}.JPEG", size=size)
        xml = voc(voc_object("cat", (1, 1, 30, 60)), voc_object("dog", (31, 1, 60, 60)))
        (root / "annotation" / f"{index}.xml").write_text(xml)
    (root / "names.txt").write_text("cat\ndog\n")
    return root


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    state = build_backbone("resnet_tiny", 2).state_dict()
    torch.save({"arch": "resnet_tiny", "state_dict": state}, tmp_path / "model.pth.tar")
    return tmp_path / "model.pth.tar"


def evaluate(data, tmp_path, *arguments, name="scores"):
    out = tmp_path / f"{name}.json"
    words = [
        *map(str, arguments),
        "--classes",
        str(data / "names.txt"),
        "--input_resize",
        "48",
        "--insertion-size",
        "32",
    ]
    status = main(
        [*words, "--steps", "4", "-j", "0", "--device", "cpu", "--bootstrap", "0", "--out", str(out)]
    )
    if status:
        return status, None, None
    with out.with_suffix(".csv").open(newline="") as file:
        return status, json.loads(out.read_text()), list(csv.DictReader(file))


def test_saved_maps_score_the_same_without_the_model(data, checkpoint, tmp_path):
    maps = tmp_path / "maps"
    _, first, rows = evaluate(data, tmp_path, checkpoint, data, "--save-maps", maps, "--zero-maps", "uniform")
    assert sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.*")) == [
        f"val/deep/{i}.npz" for i in range(5)
    ]
    with np.load(maps / "val" / "deep" / "3.npz") as file:
        assert sorted(file) == ["cat", "dog"]
        assert file["cat"].shape == (6, 9)
        assert file["cat"].dtype == np.float32
    _, second, again = evaluate(data, tmp_path, data, "--maps", maps, "--zero-maps", "uniform", name="again")
    assert (len(rows), len(again)) == (10, 10)
    for a, b in zip(rows, again, strict=True):
        assert (a["path"], a["class"]) == (b["path"], b["class"])
        for column in ("ch", "pg", "spg", "uniform_ch", "random_pg", "zero_map"):
            assert float(a[column]) == pytest.approx(float(b[column]), abs=1e-6)
        assert b["prediction"] == ""
    assert "top1" not in second
    _, third, _ = evaluate(data, tmp_path, data, "--maps", maps, "--metrics", "ch,top1", name="third")
    assert third["notes"] == ["not measured without a model: top1"]
    assert first["top1"] == 0.5


def test_insertion_asks_a_model_about_stored_maps(data, checkpoint, tmp_path):
    maps = tmp_path / "maps"
    for index in range(5):
        (maps / "val" / "deep").mkdir(parents=True, exist_ok=True)
        np.save(maps / "val" / "deep" / f"{index}.npy", np.eye(4, dtype=np.float32))
    arguments = ["--maps", maps, "--metrics", "ch,insertion,top1", "--trivial-images", 0]
    _, content, rows = evaluate(data, tmp_path, checkpoint, data, *arguments)
    assert content["counted"] == {"ch": 10, "insertion": 10, "top1": 10}
    values = {row["insertion"] for row in rows}
    assert all(0 < float(value) < 1 for value in values)
    assert evaluate(data, tmp_path, data, "--maps", maps, "--metrics", "insertion")[0] == 2


def test_bad_maps_are_counted_named_and_left_out(data, tmp_path, capsys):
    maps = tmp_path / "maps" / "val" / "deep"
    maps.mkdir(parents=True)
    good = np.zeros((6, 4), dtype=np.float32)
    good[:, :2] = 1
    np.savez(maps / "0.npz", cat=good, dog=np.full_like(good, np.nan))
    np.save(maps / "1.npy", np.ones((300, 200), dtype=np.float32))  # the image lies, 60×90
    (maps / "2.npy").write_text("no array")
    Image.fromarray((good * 255).astype(np.uint8)).save(maps / "3.png")
    _, content, rows = evaluate(data, tmp_path, data, "--maps", tmp_path / "maps")
    assert [(row["path"][-6:], row["class"]) for row in rows] == [
        ("0.JPEG", "cat"),
        ("3.JPEG", "cat"),
        ("3.JPEG", "dog"),
    ]
    assert {reason: len(files) for reason, files in content["skipped"].items()} == {
        "map not finite": 1,
        "map of another size": 2,
        "unreadable map": 2,
        "no map": 2,
    }
    shown = capsys.readouterr().out
    for text in ("skipped: 7", "map of another size: 2", "1.npy"):
        assert text in shown
    # The cat lies on columns 0 to 29 of 60 and rows 0 to 59 of 90; each cell of the map covers 15 columns.
    column = np.interp(np.clip((np.arange(60) + 0.5) / 15 - 0.5, 0, 3), range(4), (1, 1, 0, 0))
    assert float(rows[0]["ch"]) == pytest.approx(column[:30].sum() / column.sum() * 60 / 90, abs=1e-6)
    _, content, rows = evaluate(data, tmp_path, data, "--maps", tmp_path / "maps", "--stretch-maps")
    assert len(rows) == 5


def test_no_usable_map_is_status_1_and_no_folder_2(data, tmp_path, capsys):
    (tmp_path / "maps").mkdir()
    assert evaluate(data, tmp_path, data, "--maps", tmp_path / "maps")[0] == 1
    assert "not one of 10 images could be scored" in capsys.readouterr().err
    assert evaluate(data, tmp_path, data, "--maps", tmp_path / "none")[0] == 2
    assert "none" in capsys.readouterr().err
