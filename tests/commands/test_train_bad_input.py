"""What a user can get wrong: one clear line on stderr, the right status, no traceback, no checkpoint lost."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cgc.commands.training_network import _smallest_pass
from cgc.engine.loop import Trainer
from tests.commands.runs import (
    CLASSES,
    checkpoints,
    error_line,
    refused,
    result,
    rows,
    train,
    training_folder,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("plain_panels")

Capture = pytest.CaptureFixture[str]


# Data


def _no_root(data: Path) -> str:
    shutil.rmtree(data)
    return str(data)


def _file_for_root(data: Path) -> str:
    shutil.rmtree(data)
    data.write_text("not a folder")
    return str(data)


def _no_train(data: Path) -> str:
    shutil.rmtree(data / "train")
    return "'train'"


def _no_val(data: Path) -> str:
    shutil.rmtree(data / "val")
    return "'val' or 'test'"


def _empty_train(data: Path) -> str:
    for name in CLASSES:
        shutil.rmtree(data / "train" / name)
    return str(data / "train")


def _empty_class(data: Path) -> str:
    shutil.rmtree(data / "train" / "bee")
    (data / "train" / "bee").mkdir()
    return "bee"


def _class_missing(data: Path) -> str:
    shutil.rmtree(data / "val" / "bee")
    return "bee"


def _class_added(data: Path) -> str:
    shutil.copytree(data / "val" / "bee", data / "val" / "dog")
    return "dog"


@pytest.mark.parametrize(
    "spoil",
    [_no_root, _file_for_root, _no_train, _no_val, _empty_train, _empty_class, _class_missing, _class_added],
)
def test_folders(training_data: Path, tmp_path: Path, capsys: Capture, spoil: Callable[[Path], str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(training_data, data)
    named = spoil(data)
    assert named in refused(capsys, data, save_dir=tmp_path / "run")


def test_a_datasets_name_checks_its_classes(training_data: Path, capsys: Capture) -> None:
    said = refused(capsys, training_data, "--dataset", "aircraft")
    assert "3 classes" in said
    assert "100" in said


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_unreadable_images_are_named_at_the_end(
    tmp_path: Path, capsys: Capture, split: str, content: bytes
) -> None:
    data = training_folder(tmp_path / "data")
    bad = data / split / "bee" / "1.png"
    bad.write_bytes(content)
    run = tmp_path / "run"
    assert train(data, save_dir=run) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.count(str(bad)) == 1  # once, though read in both epochs
    assert re.search(r"\b1 unreadable file;", said)
    assert [str(bad) in line for line in result(run)["unreadable_images"]] == [True]
    assert rows(run)[-1]["unreadable"] == "1"


@pytest.mark.parametrize("split", ["train", "val"])
def test_strict_stops_at_an_unreadable_image(tmp_path: Path, capsys: Capture, split: str) -> None:
    data = training_folder(tmp_path / "data")
    bad = data / split / "bee" / "1.png"
    bad.write_bytes(b"")
    assert train(data, "--strict", "--method", "baseline", save_dir=tmp_path / "run") == 2
    assert str(bad) in error_line(capsys.readouterr().err)


def test_a_folder_of_nothing_but_unreadable_images(tmp_path: Path, capsys: Capture) -> None:
    data = training_folder(tmp_path / "data")
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"")
    assert train(data, save_dir=tmp_path / "run") == 2
    assert "12 unreadable images" in error_line(capsys.readouterr().err)


# Names and values


def test_an_unknown_architecture_gets_suggestions(training_data: Path, capsys: Capture) -> None:
    said = refused(capsys, training_data, "-a", "resnet51")
    assert "resnet51" in said
    assert "resnet50" in said
    assert "resnet_tiny" in refused(capsys, training_data, "-a", "qqq")


def test_a_transformer_is_refused(training_data: Path, capsys: Capture) -> None:
    assert "vit_b_16" in refused(capsys, training_data, "-a", "vit_b_16")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--method sgd", ["sgd", "baseline", "cgc", "l2"]),
        ("--dataset mnist", ["mnist", "imagenet", "cub"]),
        ("--schedule linear", ["linear", "cosine", "onecycle", "step"]),
        ("--anchor both", ["both", "augmented", "query"]),
        ("--amp fp8", ["fp8", "bf16"]),
        ("-b 0", ["0", "at least 1"]),
        ("-j -1", ["-1", "negative"]),
        ("--lr nan", ["nan", "positive"]),
        ("-t 0", ["0", "positive"]),
        ("--lambda -1", ["-1", "at least 0"]),
        ("--map-floor 1", ["1", "[0, 1)"]),
        ("--epochs x", ["x"]),
        ("--bogus 1", ["--bogus"]),
    ],
)
def test_values_that_do_not_exist(
    training_data: Path, capsys: Capture, arguments: str, words: list[str]
) -> None:
    try:
        status: object = train(training_data, *arguments.split())
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in said
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--device quantum", ["quantum"]),
        ("--device cuda:77", ["cuda:77"]),
        ("--amp fp16", ["fp16", "bf16"]),
        ("--image-size 32 --resize-size 16", ["32", "16"]),
        ("--world-size 2", ["--world-size"]),
        ("--multiprocessing-distributed", ["--multiprocessing-distributed"]),
        ("-e", ["--resume", "--pretrained"]),
        ("-a alexnet --image-size 32", ["alexnet", "32"]),
    ],
)
def test_what_cannot_be_done_here(
    training_data: Path, tmp_path: Path, capsys: Capture, arguments: str, words: list[str]
) -> None:
    said = refused(capsys, training_data, *arguments.split(), save_dir=tmp_path / "run")
    for word in words:
        assert word in said


def test_a_last_batch_of_one_image_on_a_feature_map_of_one_cell(tmp_path: Path, capsys: Capture) -> None:
    """Batch norm has no statistics there: either it trains all the same, or it is refused beforehand."""
    data = training_folder(tmp_path / "data", per_class=(2, 1))
    status = train(data, "-b", "5", "--epochs", "1", arch="resnet18", save_dir=tmp_path / "run")
    assert status in (0, 2)
    if status:
        assert "batch" in error_line(capsys.readouterr().err)


# Places to write to


@pytest.mark.parametrize("option", ["--save_dir", "--log_dir"])
@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_places_that_cannot_be_written_to(
    training_data: Path, tmp_path: Path, capsys: Capture, option: str, place: str
) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "run" if place == "below a file" else Path("/proc/no/run")
    run = None if option == "--save_dir" else tmp_path / "run"
    assert str(target) in refused(capsys, training_data, option, target, save_dir=run)


def test_a_folder_with_another_run_in_it(training_data: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(training_data, "--method", "baseline", "--epochs", "1", save_dir=run) == 0
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    assert train(training_data, "--method", "baseline", "--epochs", "1", save_dir=run) == 2
    said = error_line(capsys.readouterr().err)
    assert f"--resume {run / 'checkpoint_001.pth.tar'}" in said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


# Runs that fail


def test_a_loss_that_explodes(training_data: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert train(training_data, "--lr", "1e30", save_dir=run) == 1
    said = error_line(capsys.readouterr().err, "failed")
    assert "loss" in said
    assert "epoch 1" in said
    assert checkpoints(run) == []


def test_a_full_disk_leaves_the_last_checkpoint(
    training_data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, save, calls = tmp_path / "run", torch.save, [0]

    def failing(content: object, path: Path) -> None:
        calls[0] += 1
        if calls[0] == 1:
            save(content, path)
        else:
            Path(path).write_bytes(b"half a fi")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", failing)
    assert train(training_data, save_dir=run) == 1
    said = error_line(capsys.readouterr().err, "failed")
    assert "No space left" in said
    assert str(run) in said
    assert checkpoints(run) == ["checkpoint_001.pth.tar", "model_best.pth.tar"]
    assert not list(run.glob(".*"))
    assert torch.load(run / "checkpoint_001.pth.tar", weights_only=True)["epoch"] == 1


def test_a_bug_keeps_its_traceback(
    training_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Trainer, "_step", broken)
    with pytest.raises(ZeroDivisionError):
        train(training_data, save_dir=tmp_path / "run")


def test_status_and_message_of_a_real_process(tmp_path: Path) -> None:
    command = [sys.executable, "train_eval_cgc.py", str(tmp_path / "nowhere"), "--device", "cpu"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines() == [f"error: {tmp_path / 'nowhere'}: no such folder"]
    assert run.stdout == ""


@pytest.mark.parametrize(
    ("images", "batch_size", "sharers", "parts", "smallest"),
    [
        (12, 4, 1, 1, 2),
        (13, 4, 1, 1, 1),
        (13, 4, 2, 1, 2),
        (14, 4, 2, 1, 1),
        (10, 10, 1, 4, 1),
        (12, 12, 1, 4, 2),
    ],
)
def test_the_smallest_pass_is_counted(
    images: int, batch_size: int, sharers: int, parts: int, smallest: int
) -> None:
    """Ten images in four parts are 3, 3, 3 and 1; one image left over for two processes is nobody's."""
    assert _smallest_pass(images, batch_size, sharers, parts) == smallest
