"""Grid consistency on a COCO-style set through its command, end to end, without pycocotools."""

from __future__ import annotations

import json
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.commands import evaluate, extract_negatives, training_network
from cgc.commands.train_options import parse
from cgc.commands.train_presets import PRESETS
from cgc.engine.loop import Trainer
from cgc.models.backbones import build_backbone
from tests.commands.runs import (
    checkpoint,
    error_line,
    result,
    rows,
    train,
    training_differences,
)
from tests.data.boxed_fixture import coco_image, coco_json, coco_object
from tests.data.images import photograph

pytestmark = pytest.mark.usefixtures("plain_panels")

SCRIPT = Path(__file__).parents[2] / "train_gcam_multiclass_grid_consistency.py"
COLOURS = {2: ("red thing", (255, 0, 0)), 5: ("green thing", (0, 255, 0)), 6: ("blue thing", (0, 0, 255))}
SHOWN = [[2], [5], [6], [2, 5], [5, 6], [2, 6], [2], [5], [6], [2, 5], [6], [2]]
FIGURES = [f"val_{over}_{what}" for over in ("overall", "class") for what in ("f1", "precision", "recall")]


def draw_split(root: Path, split: str, shown: list[list[int]], seed: int) -> Path:
    """Square photographs with a coloured square for each category."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, objects = [], []
    for i, keys in enumerate(shown):
        pixels = np.array(photograph(32, 32, seed + i)) // 3
        for place, key in enumerate(keys):
            x, y = 3 + 15 * place, 4 + 3 * (i % 5)
            pixels[y : y + 10, x : x + 10] = COLOURS[key][1]
            objects.append(coco_object(len(objects), i, key, [x, y, 10, 10]))
        Image.fromarray(pixels.astype(np.uint8)).save(root / split / f"{i}.png")
        images.append(coco_image(i, f"{i}.png", (32, 32)))
    path = root / "annotations" / f"instances_{split}.json"
    names = {key: name for key, (name, _) in COLOURS.items()}
    path.write_text(json.dumps(coco_json(images, objects, names)))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco") / "data"
    draw_split(root, "train2014", SHOWN, 0)
    draw_split(root, "val2014", SHOWN[:7], 100)
    return root


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of a thousand classes, as a file of the released layout."""
    torch.manual_seed(5)
    weights = {f"module.{k}": v for k, v in build_backbone("resnet_tiny", 1000).state_dict().items()}
    path = tmp_path_factory.mktemp("imagenet") / "imagenet.pth.tar"
    torch.save({"epoch": 90, "arch": "resnet_tiny", "state_dict": weights, "optimizer": {}}, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], data: Path, *words: object) -> str:
    try:
        status = train(data, *words, preset="multi-grid")
    except SystemExit as stop:  # the parser's own
        status = stop.code
    assert status == 2
    return error_line(capsys.readouterr().err)


def test_published_defaults() -> None:
    options = parse(["DATA"], PRESETS["multi-grid"])
    assert (options.weight, options.lr, options.weight_decay, options.epochs) == (1, 0.01, 5e-4, 36)
    assert (options.schedule, options.decay_epochs, options.gamma) == ("multistep", [24, 30], 0.1)
    assert (options.batch_size, options.method, options.other_head) == (256, "grid", "initialise")
    assert options.multi_label
    assert not parse(["DATA"], PRESETS["grid"]).multi_label
    assert parse(["DATA", "--decay_epochs", "3"], PRESETS["multi-grid"]).decay_epochs == [3]


def test_trains_and_continues(
    data: Path, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """From a file of another head; stopped inside the second epoch and continued, to the same bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    step, seen = Trainer._step, []

    def recorded(self, batch, totals):
        step(self, batch, totals)
        seen.append(totals.read())

    start = ["--resume", imagenet, "--decay_epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", recorded)
        assert train(data, *start, save_dir=whole, preset="multi-grid") == 0
    said = capsys.readouterr().err
    assert "12 images with annotations, 3 categories" in said
    assert "fresh classifier (fc.weight, fc.bias): the file's has 1000 classes" in said
    assert len(seen) == 6
    assert seen[-1]["samples"] == 12
    assert seen[-1]["consistency"] > 0
    assert seen[-1]["unusable"] == 0
    done = [0]

    def interrupted(self, batch, totals):
        step(self, batch, totals)
        done[0] += 1
        if done[0] == 4:  # the step is finished, and everything saved
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        assert train(data, *start, save_dir=parts, preset="multi-grid") == 128 + signal.SIGINT
    latest = sorted(parts.glob("checkpoint_*.pth.tar"))[-1]
    assert latest.name == "checkpoint_001_step000001.pth.tar"
    words = ["--resume", latest, "--decay_epochs", "1"]
    assert train(data, *words, "-j", "1", save_dir=parts, preset="multi-grid") == 0
    assert training_differences(whole / "checkpoint_002.pth.tar", parts / "checkpoint_002.pth.tar") == []
    assert rows(whole) == rows(parts)

    last = rows(whole)[-1]
    assert all(0 <= float(last[name]) <= 100 for name in FIGURES)
    assert "val_top1" not in last
    outcome = result(whole)
    best = max(float(row["val_overall_f1"]) for row in rows(whole))
    assert (outcome["best_by"], outcome["best_acc1"]) == ("val_overall_f1", best)
    assert checkpoint(whole / "model_best.pth.tar")["best_acc1"] == best


def test_the_evaluator_reads_its_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes need no pycocotools; squares of the network's size are seen alike, so the F1 are the same."""
    for name in ("pycocotools", "pycocotools.mask"):
        monkeypatch.setitem(sys.modules, name, None)
    words = ["--lr", "0.3", "--epochs", "6", "--keep", "0"]
    assert train(data, *words, save_dir=tmp_path / "run", preset="multi-grid") == 0
    out = tmp_path / "scores.json"
    scored = [str(tmp_path / "run" / "checkpoint_006.pth.tar"), str(data), "--metrics", "ch,f1"]
    scored += ["--input_resize", "32", "-j", "0", "--device", "cpu", "--out", str(out)]
    assert evaluate.main(scored) == 0
    found = json.loads(out.read_text())
    last = rows(tmp_path / "run")[-1]
    assert float(last["val_overall_f1"]) > 0  # else the two could agree about nothing
    text = json.dumps(found)
    assert "class_f1" in text
    labels = found["multi_label"]
    for name in FIGURES:
        assert 100 * labels[name.removeprefix("val_")] == pytest.approx(float(last[name]))


def test_the_published_script_with_its_list_of_negatives(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of the same annotations: the very same run as without it."""
    file = tmp_path / "negatives.npz"
    assert extract_negatives.main([str(data / "annotations" / "instances_train2014.json"), str(file)]) == 0
    assert train(data, "--epochs", "1", save_dir=tmp_path / "own", preset="multi-grid") == 0
    words = [str(data), "-a", "resnet_tiny", "--image-size", "32", "-j", "0", "-b", "5", "--epochs", "1"]
    words += ["--device", "cpu", "--save_dir", str(tmp_path / "listed"), "--negatives", str(file)]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    name = "checkpoint_001.pth.tar"
    assert training_differences(tmp_path / "own" / name, tmp_path / "listed" / name) == []


def test_validates_a_checkpoint(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(data, "--epochs", "1", save_dir=tmp_path / "run", preset="multi-grid") == 0
    capsys.readouterr()
    words = ["-e", "--resume", tmp_path / "run" / "checkpoint_001.pth.tar"]
    assert train(data, *words, preset="multi-grid") == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert list(said) == FIGURES
    last = rows(tmp_path / "run")[-1]
    assert all(float(said[name]) == pytest.approx(float(last[name]), abs=1e-4) for name in FIGURES)


def test_published_weights_get_a_fresh_head(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def downloaded(arch, classes, *, pretrained, maxpool):
        assert pretrained
        return build_backbone(arch, classes)

    monkeypatch.setattr(training_network, "build_backbone", downloaded)
    assert train(data, "-e", "--pretrained", preset="multi-grid") == 0
    assert "resnet_tiny: published weights, fresh classifier of 3 classes" in capsys.readouterr().err


def test_a_category_in_every_image_is_learnt_and_not_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    draw_split(root, "train2017", [[2], [2, 5], [2, 6], [2, 5], [2, 6], [2]], 0)
    draw_split(root, "val2017", [[2, 5], [2, 6]], 100)
    assert train(root, "--epochs", "1", save_dir=tmp_path / "run", preset="multi-grid") == 0
    said = capsys.readouterr().err
    assert "fewer than 3 images lack them: 'red thing'; 2 images show nothing else" in said
    assert float(rows(tmp_path / "run")[-1]["train_unusable"]) == pytest.approx(2 / 6)


def test_input_that_cannot_be_used_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "all"
    draw_split(root, "train2014", [[2, 5, 6]] * 4, 0)
    held_out = draw_split(root, "val2014", [[2]], 9)
    assert "every category is in all images but 0" in refused(capsys, root)
    content = json.loads(held_out.read_text())
    content["categories"][0]["name"] = "other"
    held_out.write_text(json.dumps(content))
    assert "by ascending id is 'other'" in refused(capsys, root)
    path = root / "annotations" / "instances_train2014.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": []}))
    assert "has no categories" in refused(capsys, root)
    assert "no such folder" in refused(capsys, tmp_path / "nowhere")
    assert "no JSON in" in refused(capsys, tmp_path)
    assert "none.npz" in refused(capsys, data, "--negatives", tmp_path / "none.npz")
    assert "--unlabeled" in refused(capsys, data, "--unlabeled", data)
    assert "--resize-size" in refused(capsys, data, "--resize-size", 40)
    assert "invalid choice: 'cgc'" in refused(capsys, data, "--method", "cgc")
    assert "3 categories, but coco has 80" in refused(capsys, data, "--dataset", "coco")
    with pytest.raises(SystemExit) as stop:
        parse(["DATA", "--negatives", "x.npz"], PRESETS["grid"])
    assert stop.value.code == 2
