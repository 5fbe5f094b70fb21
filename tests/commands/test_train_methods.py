"""Every method through its command: trains, logs, continues bit-identically, and its checkpoint is evaluated."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.commands import evaluate, training_run
from cgc.engine.loop import Trainer
from cgc.models.backbones import build_backbone
from tests.commands.runs import (
    checkpoint,
    error_line,
    refused,
    rows,
    train,
    training_differences,
    training_folder,
)
from tests.data.boxed_fixture import voc, voc_object
from tests.data.images import save_photograph
from tests.models.test_key_names import swav_pretrained

pytestmark = pytest.mark.usefixtures("plain_panels")

CASES = {
    "grid": ("grid", []),
    "grid with max pooling": ("grid", ["--maxpool"]),
    "sgc": ("sgc", []),
    "energy": ("cgc", ["--method", "energy", "--boxes", "BOXES"]),
    "semi cgc": ("semi-cgc", ["--lr", "0.02", "--decay_epochs", "1", "--gamma", "0.5"]),
    "unlabelled cgc": ("cgc", ["--unlabeled", "UNLABELLED"]),
    "semi sgc": ("semi-sgc", ["--saliency", "SALIENCY"]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled, unlabelled and held-out images, masks of all of them, boxes of some."""
    root = training_folder(tmp_path_factory.mktemp("methods") / "data")
    for k in range(7):
        save_photograph(root / "unlabeled" / "deep" / f"{k}.png", 40, 36, 500 + k)
    (root / "boxes").mkdir()
    square = np.zeros((36, 36), dtype=np.uint8)
    square[6:30, 8:28] = 255
    for path in sorted([*(root / "train").rglob("*.png"), *(root / "unlabeled").rglob("*.png")]):
        with Image.open(path) as image:
            mask = Image.fromarray(square).resize(image.size)
        place = root / "saliency" / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        mask.save(place)
    for name in ("ant", "bee"):
        folder = root / "boxes" / name
        folder.mkdir()
        (folder / "1.xml").write_text(
            voc(voc_object(name, (5, 5, 30, 30)), voc_object("other", (1, 1, 2, 2)))
        )
    return root


def arguments(data: Path, words: list[str]) -> list[str]:
    places = {"BOXES": data / "boxes", "UNLABELLED": data / "unlabeled", "SALIENCY": data / "saliency"}
    return [str(places.get(word, word)) for word in words]


@pytest.mark.parametrize("case", CASES)
def test_trains_continues_and_is_evaluated(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset, words = CASES[case]
    words = arguments(data, words)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    seen = []
    step = Trainer._step

    def recorded(self, batch, totals):
        step(self, batch, totals)
        seen.append(totals.read())

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", recorded)
        assert train(data, *words, save_dir=whole, preset=preset) == 0
    assert len(seen) == 6
    assert all(np.isfinite(total["loss"]) for total in seen)
    assert seen[-1]["consistency"] > 0 or case == "energy"
    done = [0]

    def interrupted(self, batch, totals):
        step(self, batch, totals)
        done[0] += 1
        if done[0] == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        assert train(data, *words, save_dir=parts, preset=preset) == 130
    latest = parts / "checkpoint_001_step000001.pth.tar"
    assert train(data, *words, "--resume", latest, save_dir=parts, preset=preset) == 0
    assert training_differences(whole / "checkpoint_002.pth.tar", parts / "checkpoint_002.pth.tar") == []
    assert rows(whole) == rows(parts)
    out = tmp_path / "scores.json"
    scored = [
        str(whole / "checkpoint_002.pth.tar"),
        str(data),
        "--metrics",
        "top1,insertion",
        "--insertion-size",
        "32",
    ]
    scored += ["--input_resize", "32", "--steps", "2", "-j", "0", "--device", "cpu", "--out", str(out)]
    assert evaluate.main(scored) == 0
    assert json.loads(out.read_text())["counted"]["top1"] == 6


def test_published_defaults() -> None:
    from cgc.commands.train_options import parse
    from cgc.commands.train_presets import PRESETS

    semi = parse(["DATA"], PRESETS["semi-cgc"])
    assert (semi.lr, semi.lr_last_layer, semi.weight_decay, semi.schedule) == (0.02, 5, 0, "multistep")
    assert (semi.decay_epochs, semi.gamma, semi.epochs, semi.batch_size) == ([12, 16], 0.2, 50, 128)
    assert (semi.weight, semi.temperature, semi.unlabelled) == (0.25, 0.5, Path("DATA/unlabeled"))
    grid = parse(["DATA"], PRESETS["grid"])
    assert (grid.weight, grid.lr, grid.epochs, grid.batch_size, grid.method) == (25, 0.1, 90, 256, "grid")
    sgc = parse(["DATA"], PRESETS["sgc"])
    assert (sgc.weight, sgc.lr, sgc.epochs, sgc.batch_size) == (0.5, 0.01, 200, 192)
    assert parse(["DATA"], PRESETS["semi-sgc"]).weight == 0.5


def test_the_classifier_has_its_own_rate(data: Path, tmp_path: Path) -> None:
    assert train(data, "--epochs", "1", save_dir=tmp_path / "run", preset="semi-cgc") == 0
    groups = checkpoint(tmp_path / "run" / "checkpoint_001.pth.tar")["optimizer"]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [0.02, 5.0]
    assert [len(group["params"]) for group in groups][1] == 2


def test_a_swav_file_starts_the_network(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trunk loaded completely, head fresh and said so; the file's epoch and optimizer are not taken up."""
    backbone = build_backbone("resnet_tiny", 3)
    trunk = {f"module.{k}": v for k, v in backbone.state_dict().items() if not k.startswith("fc.")}
    head = {
        "module.projection_head.0.weight": torch.zeros(8, 96),
        "module.projection_head.0.bias": torch.zeros(8),
        "module.prototypes.weight": torch.zeros(5, 8),
    }
    torch.save({"epoch": 800, "state_dict": trunk | head, "optimizer": {}}, tmp_path / "swav.pth.tar")
    words = ["--resume", tmp_path / "swav.pth.tar", "--epochs", "1"]
    assert train(data, *words, save_dir=tmp_path / "run", preset="semi-cgc") == 0
    said = capsys.readouterr().err
    assert "fresh classifier" in said
    assert "prototypes" in said
    assert len(rows(tmp_path / "run")) == 1
    # One key less, and it is refused.
    del trunk["module.layer3.conv1.weight"]
    torch.save({"epoch": 800, "state_dict": trunk | head}, tmp_path / "swav.pth.tar")
    assert train(data, *words, save_dir=tmp_path / "other", preset="semi-cgc") == 2
    assert "swav.pth.tar" in error_line(capsys.readouterr().err)


def test_the_official_swav_layout_at_full_size(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every key of SwAV's ResNet-50 with random weights starts a run; with one key less none starts."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"module.{name}": torch.zeros((), dtype=torch.int64)
        if name.endswith("num_batches_tracked")
        else torch.rand(like.shape, generator=generator) * 0.02
        for name, like in swav_pretrained().items()
    }
    torch.save(weights, tmp_path / "swav.pth.tar")
    words = ["--resume", tmp_path / "swav.pth.tar", "--epochs", "1", "--lr_last_layer", "0.1"]
    words += ["--image-size", "64"]
    options = {"save_dir": tmp_path / "run", "preset": "semi-cgc", "arch": "resnet50"}
    assert train(data, *words, **options) == 0  # type: ignore[arg-type]
    assert "318 of 320 keys loaded" in capsys.readouterr().err
    del weights["module.layer3.5.bn2.running_var"]
    torch.save(weights, tmp_path / "swav.pth.tar")
    shutil.rmtree(tmp_path / "run")
    assert train(data, *words, **options) == 2  # type: ignore[arg-type]
    assert "1 missing (layer3.5.bn2.running_var)" in error_line(capsys.readouterr().err)


def test_another_validation_folder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(data / "train", tmp_path / "elsewhere")
    assert train(data, "--val", tmp_path / "elsewhere", "--epochs", "1", save_dir=tmp_path / "run") == 0
    capsys.readouterr()
    assert "no such folder" in refused(capsys, data, "--val", tmp_path / "nowhere")


def test_what_a_method_lacks_is_said_before_it_trains(
    training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(training_data, save_dir=tmp_path / "a", preset="sgc") == 2
    assert "saliency-masks" in error_line(capsys.readouterr().err)
    assert train(training_data, save_dir=tmp_path / "b", preset="semi-cgc") == 2
    assert "unlabeled: no such folder" in error_line(capsys.readouterr().err)
    assert "no boxes of training images" in refused(capsys, training_data, "--method", "energy")
    (tmp_path / "few").mkdir()
    save_photograph(tmp_path / "few" / "1.png", 36, 36, 1)
    assert "fewer than a batch" in refused(capsys, training_data, "--unlabeled", tmp_path / "few")
    for method in ("baseline", "grid"):
        said = refused(capsys, training_data, "--method", method, "--unlabeled", training_data / "train")
        assert "--unlabeled is for the methods cgc and sgc" in said


def test_one_class_gives_no_distractors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = training_folder(tmp_path / "data")
    for name in ("bee", "cow"):
        shutil.rmtree(root / "train" / name)
        shutil.rmtree(root / "val" / name)
    assert train(root, save_dir=tmp_path / "run", preset="grid") == 2
    assert "two classes" in error_line(capsys.readouterr().err)


def test_training_run_knows_every_method() -> None:
    from cgc.commands.train_presets import WEIGHTS
    from cgc.commands.training_methods import METHODS

    assert set(METHODS) == set(WEIGHTS)
    assert training_run.TrainingRun
