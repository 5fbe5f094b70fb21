"""The trainer from its command line: what it leaves behind, every option, stopping and continuing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cgc.commands import training_methods
from cgc.commands.train_options import TrainOptions, parse
from cgc.commands.train_presets import PRESETS
from cgc.methods import CGCMethod
from cgc.models.backbones import TinyResNet
from tests.commands.runs import (
    checkpoint,
    checkpoints,
    result,
    rows,
    train,
    training_differences,
    training_folder,
)
from tests.data.images import save_photograph

ROOT = Path(__file__).parents[2]
plain_panels = pytest.mark.usefixtures("plain_panels")


def parse_cgc(words: list[str]) -> TrainOptions:
    return parse(words, PRESETS["cgc"])


@pytest.fixture(scope="module")
def finished(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything on, panels drawn for real."""
    save_dir = tmp_path_factory.mktemp("finished") / "run"
    assert train(training_data, "--epochs", "3", "--keep", "2", "-p", "2", save_dir=save_dir) == 0
    return save_dir


def test_a_run_leaves_its_records(finished: Path, training_data: Path) -> None:
    arguments = json.loads((finished / "args.json").read_text())
    assert arguments["data"] == str(training_data)
    assert (arguments["arch"], arguments["weight"], arguments["temperature"]) == ("resnet_tiny", 0.5, 0.5)
    assert arguments["classes"] == ["ant", "bee", "cow"]
    assert arguments["versions"]["torch"] == torch.__version__

    table = rows(finished)
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    for row in table:
        values = {name: float(value) for name, value in row.items()}
        assert all(np.isfinite(value) for value in values.values())
        assert values["lr"] == pytest.approx(0.1)
        assert values["train_loss"] == pytest.approx(
            values["train_cross_entropy"] + 0.5 * values["train_consistency"], rel=1e-4
        )
        for name in ("train_top1", "val_top1", "val_top5", "train_near_zero"):
            assert 0 <= values[name] <= 100
        assert values["val_top5"] == 100  # of three classes
        assert values["val_top1"] * 6 / 100 == pytest.approx(round(values["val_top1"] * 6 / 100))
        assert 0 <= values["val_cosine"] <= 1 + 1e-6
        assert values["train_grad_norm_max"] >= values["train_grad_norm"] > 0

    last = result(finished)
    assert last["completed"] is True
    assert last["epoch"] == 3
    assert last["best_acc1"] == max(float(row["val_top1"]) for row in table)
    assert last["val_top1"] == float(table[-1]["val_top1"])
    assert last["unreadable_images"] == []


def test_tensorboard_holds_scalars_and_the_heatmaps(finished: Path) -> None:
    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("epoch/val_top1")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("epoch/train_loss")] == pytest.approx(
        [float(row["train_loss"]) for row in rows(finished)], rel=1e-6
    )
    assert [e.step for e in events.Scalars("step/loss")] == [2, 3, 5, 6, 8, 9]
    panels = events.Images("heatmaps")
    assert [e.step for e in panels] == [1, 2, 3]
    assert min(panels[0].width, panels[0].height) >= 32


def test_checkpoints_have_the_released_format(finished: Path) -> None:
    assert checkpoints(finished) == ["checkpoint_002.pth.tar", "checkpoint_003.pth.tar", "model_best.pth.tar"]
    content = checkpoint(finished / "checkpoint_003.pth.tar")
    assert {"epoch", "arch", "state_dict", "best_acc1", "optimizer"} <= content.keys()
    assert (content["epoch"], content["arch"]) == (3, "resnet_tiny")
    assert content["best_acc1"] == result(finished)["best_acc1"]
    assert all(name.startswith("module.") for name in content["state_dict"])
    model = nn.DataParallel(TinyResNet(3))
    model.load_state_dict(content["state_dict"])
    torch.optim.SGD(model.parameters(), lr=1).load_state_dict(content["optimizer"])
    best = checkpoint(finished / "model_best.pth.tar")
    scores = [float(row["val_top1"]) for row in rows(finished)]
    assert best["epoch"] == 1 + scores.index(max(scores))


def test_evaluate_scores_the_checkpoints_own_head(
    finished: Path, training_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same figures as at the end of training, whatever the batch size; nothing is written."""
    before = checkpoints(finished)
    for batch in ("5", "2"):
        assert train(training_data, "-e", "--resume", finished / "checkpoint_003.pth.tar", "-b", batch) == 0
        shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
        for name in ("val_top1", "val_top5", "val_consistency", "val_cosine"):
            assert float(shown[name]) == pytest.approx(float(rows(finished)[-1][name]), abs=2e-4)
    assert checkpoints(finished) == before


@plain_panels
@pytest.mark.parametrize("keep", [0, 1])
def test_keep(training_data: Path, tmp_path: Path, keep: int) -> None:
    assert train(training_data, "--keep", keep, "--method", "baseline", save_dir=tmp_path / "run") == 0
    expected = [*["checkpoint_001.pth.tar", "checkpoint_002.pth.tar"][-keep:], "model_best.pth.tar"]
    assert checkpoints(tmp_path / "run") == expected


@plain_panels
@pytest.mark.parametrize(
    "options",
    [
        "--method l2 --schedule cosine",
        "--method baseline --schedule onecycle",
        "--anchor query --map-floor 0",
        "--amp bf16",
        "--lambda 0",
        "--clip-grad-norm 0.5 --lambda-warmup 2 -t 0.1",
    ],
)
def test_options_train(training_data: Path, tmp_path: Path, options: str) -> None:
    assert train(training_data, *options.split(), "--epochs", "1", save_dir=tmp_path / "run") == 0
    (row,) = rows(tmp_path / "run")
    assert np.isfinite(float(row["train_loss"]))
    assert np.isfinite(float(row["val_consistency"]))
    assert ("train_consistency" in row) == ("baseline" not in options and "--lambda 0" not in f"{options} ")
    assert ("train_clipped" in row) == ("clip" in options)


@plain_panels
def test_options_reach_the_method(
    training_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    weights: list[float] = []

    class Recording(CGCMethod):
        def __init__(self, model: Any, **options: Any) -> None:
            made.append(options)
            super().__init__(model, **options)

        def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            weights.append(self.weight)
            return super().forward(*inputs)

    monkeypatch.setattr(training_methods, "CGCMethod", Recording)
    options = "--lambda 0.8 -t 0.2 --anchor query --map-floor 0.3 --method l2 --lambda-warmup 1"
    assert train(training_data, *options.split(), save_dir=tmp_path / "run") == 0
    assert made == [{"weight": 0.8, "temperature": 0.2, "anchor": "query", "floor": 0.3, "consistency": "l2"}]
    assert weights == pytest.approx([0.8 / 3, 1.6 / 3, 0.8, 0.8, 0.8, 0.8])


def test_defaults_are_those_of_the_readmes() -> None:
    options = parse_cgc(["DATA"])
    assert (options.weight, options.temperature, options.batch_size, options.epochs) == (0.5, 0.5, 256, 90)
    assert (options.lr, options.momentum, options.weight_decay) == (0.1, 0.9, 1e-4)
    assert (options.method, options.anchor, options.schedule, options.image_size) == (
        "cgc",
        "augmented",
        "step",
        224,
    )


def test_every_published_option_is_taken() -> None:
    line = (
        "DATA -a resnet50 -j 16 --epochs 90 --start-epoch 3 -b 256 --lr 0.2 --momentum 0.8 --wd 1e-5 -p 5 "
        "--resume FILE -e --pretrained --world-size 2 --rank 1 --dist-url tcp://h:1 --dist-backend nccl --seed 4 "
        "--gpu 1 --multiprocessing-distributed --save_dir S --log_dir L --dataset cub -t 0.3 --lambda 0.25"
    )
    options = parse_cgc(line.split())
    assert (options.lr, options.weight_decay, options.weight, options.temperature) == (0.2, 1e-5, 0.25, 0.3)
    assert (options.start_epoch, options.print_freq, options.workers, options.gpu) == (3, 5, 16, 1)
    long = "DATA --arch x --workers 1 --batch-size 2 --learning-rate 3 --weight-decay 4 --print-freq 5 --evaluate"
    options = parse_cgc(long.split())
    assert (options.arch, options.workers, options.batch_size) == ("x", 1, 2)
    assert (options.lr, options.weight_decay, options.print_freq, options.evaluate) == (3, 4, 5, True)


@plain_panels
def test_a_test_folder_serves_where_val_is_missing(tmp_path: Path) -> None:
    data = training_folder(tmp_path / "data", held_out="test")
    assert train(data, "--epochs", "1", "--method", "baseline", save_dir=tmp_path / "run") == 0
    assert result(tmp_path / "run")["completed"] is True


@plain_panels
def test_tiny_imagenets_own_layout(tmp_path: Path) -> None:
    data = tmp_path / "data"
    lines = []
    for c, name in enumerate(("n01", "n02")):
        for k in range(3):
            save_photograph(data / "train" / name / "images" / f"{name}_{k}.JPEG", 36, 36, 10 * c + k)
        save_photograph(data / "val" / "images" / f"val_{c}.JPEG", 36, 36, 100 + c)
        lines.append(f"val_{c}.JPEG\t{name}\t0\t0\t9\t9\n")
    (data / "val" / "val_annotations.txt").write_text("".join(lines))
    assert train(data, "--epochs", "1", "-b", "3", save_dir=tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "args.json").read_text())["classes"] == ["n01", "n02"]


@plain_panels
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_seed_fixes_the_weights_whatever_the_number_of_workers(
    training_data: Path, tmp_path: Path
) -> None:
    for name, options in {
        "alone": ["-j", "0"],
        "workers": ["-j", "2"],
        "other": ["-j", "0", "--seed", "1"],
    }.items():
        assert train(training_data, *options, save_dir=tmp_path / name) == 0
    paths = {name: tmp_path / name / "checkpoint_002.pth.tar" for name in ("alone", "workers", "other")}
    assert training_differences(paths["alone"], paths["workers"]) == []
    assert rows(tmp_path / "alone") == rows(tmp_path / "workers")
    assert "/state_dict/module.conv1.weight" in training_differences(paths["alone"], paths["other"])


@pytest.mark.slow
def test_the_published_command_as_it_stands(tmp_path: Path) -> None:
    """ResNet-50 at 224 px with every option of the README but one epoch, on a folder small enough for a CPU."""
    data = training_folder(tmp_path / "data", (2, 1))
    command = "-a resnet50 -b 256 -j 16 --lambda 0.5 -t 0.5 --save_dir RUN --log_dir LOGS"
    (line,) = [s for s in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if command in s]
    words = line.replace("DATA", str(data)).split()
    assert words[:2] == ["python", "train_eval_cgc.py"]
    words = [sys.executable, str(ROOT / "train_eval_cgc.py"), *words[2:], "--epochs", "1"]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=600)
    assert (tmp_path / "RUN" / "checkpoint_001.pth.tar").exists()
    assert list((tmp_path / "LOGS").iterdir())
