"""Stopping a training run and continuing it: bit-identical, or one clear line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from cgc.commands import training_network
from cgc.engine.optim import Schedule, make_optimizer, make_schedule
from cgc.models.backbones import TinyResNet
from tests.commands.runs import (
    checkpoint,
    checkpoints,
    error_line,
    result,
    rows,
    signal_after,
    train,
    training_differences,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("plain_panels")


@pytest.fixture(scope="module")
def finished(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_dir = tmp_path_factory.mktemp("finished") / "run"
    assert train(training_data, "--epochs", "3", "--keep", "2", save_dir=save_dir) == 0
    return save_dir


def _with_dropout(arch: str, num_classes: int, **_: object) -> nn.Module:
    """A network that draws random numbers in every step."""
    backbone = TinyResNet(num_classes)
    backbone.layer3 = nn.Sequential(nn.Dropout2d(0.3), backbone.layer3)  # type: ignore[assignment]
    return backbone


@pytest.fixture
def uninterrupted(training_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(training_network, "build_backbone", _with_dropout)
    whole = tmp_path / "whole"
    assert train(training_data, "--epochs", "3", "--schedule", "cosine", "--keep", "0", save_dir=whole) == 0
    return whole


@pytest.mark.parametrize("steps", [2, 4])
def test_stopped_by_a_signal_and_continued_ends_bit_identical(
    training_data: Path,
    tmp_path: Path,
    uninterrupted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: int,
) -> None:
    parts, options = tmp_path / "parts", ["--epochs", "3", "--schedule", "cosine"]
    with monkeypatch.context() as patch:
        signal_after(patch, steps)
        assert train(training_data, *options, save_dir=parts) == 130
    said = capsys.readouterr().err
    assert "SIGINT: finishing the step" in said
    assert "Traceback" not in said
    path = Path(said.strip().split("--resume ")[-1])
    epoch, step = divmod(steps, 3)
    assert path.name == f"checkpoint_{epoch:03d}_step{step:06d}.pth.tar"
    stopped = result(parts)
    assert (stopped["completed"], stopped["epoch"]) == (False, epoch)
    assert train(training_data, *options, "--resume", path, save_dir=parts) == 0
    last = "checkpoint_003.pth.tar"
    assert training_differences(parts / last, uninterrupted / last) == []
    assert rows(parts) == rows(uninterrupted)
    ours, theirs = result(parts), result(uninterrupted)
    assert ours.pop("seconds") > 0
    theirs.pop("seconds")
    assert ours == theirs


def test_continued_from_an_earlier_epoch_drops_the_rows_after_it(
    training_data: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    """As after a crash: epochs beyond the checkpoint are run again, in the same folder."""
    again = uninterrupted.rename(tmp_path / "again")
    expected = rows(again)
    before = checkpoint(again / "checkpoint_003.pth.tar")
    arguments = ["--epochs", "3", "--schedule", "cosine", "--resume", again / "checkpoint_001.pth.tar"]
    (again / "checkpoint_003.pth.tar").rename(tmp_path / "before.pth.tar")
    assert train(training_data, *arguments, save_dir=again) == 0
    assert training_differences(again / "checkpoint_003.pth.tar", tmp_path / "before.pth.tar") == []
    assert rows(again) == expected
    assert before["epoch"] == 3


def test_resuming_a_complete_run_changes_nothing(finished: Path, training_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    arguments = ["--epochs", "3", "--resume", copy / "checkpoint_003.pth.tar"]
    assert train(training_data, *arguments, save_dir=copy) == 0
    assert checkpoints(copy) == checkpoints(finished)
    assert rows(copy) == rows(finished)
    assert {k: v for k, v in result(copy).items() if k != "seconds"} == {
        k: v for k, v in result(finished).items() if k != "seconds"
    }


@pytest.mark.parametrize("schedule", ["step", "cosine", "onecycle"])
def test_more_epochs_can_be_added_to_a_complete_run(
    training_data: Path, tmp_path: Path, schedule: Schedule, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the rates of the longer run, never the old schedule past its end."""
    run = tmp_path / "run"
    options = ["--method", "baseline", "--schedule", schedule]
    assert train(training_data, *options, "--epochs", "1", save_dir=run) == 0
    path = run / "checkpoint_001.pth.tar"
    assert train(training_data, *options, "--epochs", "3", "--resume", path, save_dir=run) == 0
    assert "continuing with epochs 3; it was 1" in capsys.readouterr().err
    optimizer = make_optimizer(nn.Linear(1, 1), lr=0.1, momentum=0.9, weight_decay=1e-4)
    expected = make_schedule(schedule, optimizer, epochs=3, steps_per_epoch=3)
    rates = []
    for _ in range(9):
        rates.append(float(expected.get_last_lr()[0]))
        optimizer.step()
        expected.step()
    assert [float(row["lr"]) for row in rows(run)][1:] == pytest.approx(rates[5::3], abs=1e-9)


@pytest.mark.parametrize("batch", ["3", "8"])
def test_another_batch_size_inside_an_epoch_is_refused(
    training_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    batch: str,
) -> None:
    """It would leave out images, or show some twice."""
    run, options = tmp_path / "run", ["--epochs", "1", "--method", "baseline"]
    with monkeypatch.context() as patch:
        signal_after(patch, 1)
        assert train(training_data, *options, save_dir=run) == 130
    capsys.readouterr()
    arguments = [*options, "-b", batch, "--resume", run / "checkpoint_000_step000001.pth.tar"]
    assert train(training_data, *arguments, save_dir=run) == 2
    assert "batch size 5" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize(("epoch", "rate"), [(30, 0.1), (31, 0.01)])
def test_a_released_checkpoint_is_continued(
    training_data: Path, tmp_path: Path, finished: Path, epoch: int, rate: float
) -> None:
    """Without our extras: its epoch counts, and the schedule is where that epoch is.

    The released trainer sets the rate at the start of an epoch, so after 30 of them the file still holds 0.1.
    """
    ours = checkpoint(finished / "checkpoint_003.pth.tar")
    released = {key: ours[key] for key in ("arch", "state_dict", "optimizer")}
    for group in released["optimizer"]["param_groups"]:
        group.pop("initial_lr", None)
        group["lr"] = rate
    torch.save({"epoch": epoch, "best_acc1": torch.tensor(99.0), **released}, tmp_path / "released.pth.tar")
    run = tmp_path / "run"
    arguments = ["--epochs", epoch + 1, "--resume", tmp_path / "released.pth.tar"]
    assert train(training_data, *arguments, save_dir=run) == 0
    (row,) = rows(run)
    assert (row["epoch"], float(row["lr"])) == (str(epoch + 1), pytest.approx(0.01))
    assert checkpoints(run) == [f"checkpoint_{epoch + 1:03d}.pth.tar"]  # 99 % was not beaten


def test_weights_alone_are_a_start_not_a_continuation(
    training_data: Path, tmp_path: Path, finished: Path
) -> None:
    weights = checkpoint(finished / "checkpoint_003.pth.tar")["state_dict"]
    torch.save(weights, tmp_path / "weights.pth")
    run = tmp_path / "run"
    assert train(training_data, "--epochs", "1", "--resume", tmp_path / "weights.pth", save_dir=run) == 0
    assert [row["epoch"] for row in rows(run)] == ["1"]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_stopped_from_outside(number: signal.Signals, training_data: Path, tmp_path: Path) -> None:
    """A process of its own, stopped by a signal: 128 + its number, and the rest of the run as if nothing had been."""
    command = [sys.executable, "train_eval_cgc.py", str(training_data), "-a", "mobilenet_v2"]
    options = ["--image-size", "32", "-b", "6", "--epochs", "4", "--device", "cpu"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command, *options, "-j", "1", "--save_dir", str(run)],
        cwd=ROOT,
        env={**os.environ, **threads},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.csv").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)  # the whole group, workers too, as terminals and schedulers do
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    path = Path(re.findall(r"--resume (\S+)", said)[-1])
    assert path.parent == run
    assert result(run)["completed"] is False
    assert train(training_data, *options, "--resume", path, save_dir=run, arch="mobilenet_v2") == 0
    whole = tmp_path / "whole"
    assert train(training_data, *options, save_dir=whole, arch="mobilenet_v2") == 0
    assert training_differences(run / "checkpoint_004.pth.tar", whole / "checkpoint_004.pth.tar") == []
    assert rows(run) == rows(whole)


def test_a_run_is_not_continued_into_the_folder_of_another(
    training_data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert train(training_data, "--epochs", "1", "--seed", "5", save_dir=other) == 0
    before = (other / "checkpoint_001.pth.tar").read_bytes()
    capsys.readouterr()
    resume = finished / "checkpoint_002.pth.tar"
    assert train(training_data, "--epochs", "3", "--resume", resume, save_dir=other) == 2
    assert "already holds checkpoint_001.pth.tar" in capsys.readouterr().err
    assert (other / "checkpoint_001.pth.tar").read_bytes() == before
