"""What a run says of its batches, and of the launchers that used to share them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands.runs import refused, train

pytestmark = pytest.mark.usefixtures("plain_panels")
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-b", "5"], "each image is contrasted with 4 others"),
        (["-b", "2"], "each image is contrasted with 1 other\n"),
        (["-b", "1000"], "each image is contrasted with 11 others"),  # all of them
        (["-b", "4", "--accumulate", "2"], "each image is contrasted with 1 other\n"),
        (["-b", "1"], "each image is contrasted with no other, so the consistency loss is 0"),
        (["-b", "4", "--accumulate", "4"], "each image is contrasted with no other"),
    ],
)
def test_the_negatives_are_counted(
    options: list[str], said: str, training_data: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert train(training_data, "--epochs", "1", *options, save_dir=tmp_path / "run") == 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--lambda", "0"], ["--method", "grid"], ["--method", "baseline"]])
def test_without_contrast_nothing_is_said_of_it(
    options: list[str], training_data: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert train(training_data, "--epochs", "1", *options, save_dir=tmp_path / "run") == 0
    assert "contrasted" not in capsys.readouterr().err


@pytest.mark.parametrize(("batch", "images"), [(4, 4), (1000, 12)])
def test_more_parts_than_images(
    batch: int, images: int, training_data: Path, tmp_path: Path, capsys: Capture
) -> None:
    said = refused(capsys, training_data, "-b", batch, "--accumulate", 13, save_dir=tmp_path / "run")
    assert f"--accumulate 13: a batch has {images} images" in said


@pytest.mark.parametrize(
    ("started_as", "torchrun"),
    [
        (["train_eval_cgc.py"], "train_eval_cgc.py"),
        (["/there/cgc/__main__.py", "train", "DATA"], "-m cgc train"),
        (["/bin/cgc", "train", "DATA"], "-m cgc train"),
    ],
)
def test_old_launchers_are_told_the_command(
    started_as: list[str],
    torchrun: str,
    training_data: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", started_as)
    said = refused(capsys, training_data, "--multiprocessing-distributed", save_dir=tmp_path / "run")
    assert f"torchrun --nproc_per_node=gpu {torchrun} …" in said
