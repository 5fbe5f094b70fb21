"""Weights that a run begins with, and what it goes on from when it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cgc.commands.train import main
from cgc.models.backbones import TinyResNet
from tests.commands.runs import (
    checkpoint,
    error_line,
    refused,
    rows,
    signal_after,
    train,
    training_differences,
)

pytestmark = pytest.mark.usefixtures("plain_panels")
LAST = "checkpoint_002.pth.tar"


def saved(path: Path, outputs: int = 3, *, head: bool = True, **others: object) -> Path:
    """A checkpoint of the small network; it says that it was trained, which is no matter here."""
    torch.manual_seed(7)
    state = TinyResNet(outputs).state_dict()
    weights = {f"module.{name}": w for name, w in state.items() if head or not name.startswith("fc.")}
    torch.save({"epoch": 5, "arch": "resnet_tiny", "state_dict": weights, "optimizer": {}, **others}, path)
    return path


def test_a_run_begins_with_the_weights_of_a_file(training_data: Path, tmp_path: Path) -> None:
    file, run = saved(tmp_path / "a.pth"), tmp_path / "run"
    assert train(training_data, "--init", file, "--lr", "1e-12", "--epochs", "1", save_dir=run) == 0
    assert [row["epoch"] for row in rows(run)] == ["1"]
    trained = checkpoint(run / "checkpoint_001.pth.tar")["state_dict"]
    for name, weight in checkpoint(file)["state_dict"].items():
        if name.endswith("weight"):
            torch.testing.assert_close(trained[name], weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        pytest.param("cgc", ["--new-head"], marks=pytest.mark.slow),
        ("semi-cgc", ["--unlabeled", "UNLABELLED", "--lr_last_layer", "0.1"]),
    ],
)
def test_a_run_that_began_with_a_file_is_stopped_and_goes_on(
    training_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    preset: str,
    words: list[str],
) -> None:
    """One command for both, as a scheduler repeats it: SwAV's trunk, which has no classifier, is taken once."""
    words = [str(training_data / "val") if word == "UNLABELLED" else word for word in words]
    words += ["--init", str(saved(tmp_path / "trunk.pth", head=False)), "--resume", "auto"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(training_data, *words, save_dir=whole, preset=preset) == 0
    said = capsys.readouterr().err
    assert "nothing to resume" in said
    assert "trunk.pth: " in said
    assert "fresh classifier" in said
    with monkeypatch.context() as patch:
        signal_after(patch, 2)
        assert train(training_data, *words, save_dir=parts, preset=preset) == 130
    capsys.readouterr()
    assert train(training_data, *words, save_dir=parts, preset=preset) == 0
    said = capsys.readouterr().err
    assert f"resuming {parts / 'checkpoint_000_step000002.pth.tar'}" in said
    assert "fresh classifier" not in said
    assert training_differences(parts / LAST, whole / LAST) == []
    assert rows(parts) == rows(whole)
    # The record of the second part repeats the run as it began.
    monkeypatch.setattr("sys.argv", ["train_eval_cgc.py"])
    again = tmp_path / "again"
    config = ["--config", str(parts / "args.json")]
    assert train(training_data, *config, save_dir=again, preset=preset) == 0
    assert training_differences(again / LAST, whole / LAST) == []


def test_a_head_of_another_size_is_replaced_on_request(
    training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = saved(tmp_path / "seven.pth", 7), tmp_path / "run"
    for option in ("--init", "--resume"):
        said = refused(capsys, training_data, option, file, save_dir=run)
        assert "7" in said
        assert "3" in said
        assert "--new-head" in said
        assert not run.exists()
    # As published, --resume names the weights to start from.
    for option in ("--init", "--resume"):
        run = tmp_path / option[2:]
        assert train(training_data, option, file, "--new-head", "--epochs", "1", save_dir=run) == 0
        assert "fresh classifier" in capsys.readouterr().err
        assert [row["epoch"] for row in rows(run)] == ["1"]
        options = json.loads((run / "args.json").read_text())
        assert (options["init"], options["resume"], options["new_head"]) == (str(file), None, True)
    last = "checkpoint_001.pth.tar"
    assert training_differences(tmp_path / "init" / last, tmp_path / "resume" / last) == []


@pytest.mark.parametrize("preset", ["cgc", "semi-cgc"])
def test_as_many_other_classes_are_not_these(
    preset: str, training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = saved(tmp_path / "a.pth", classes=["dog", "emu", "fox"])
    words = ["--unlabeled", training_data / "val"]
    assert train(training_data, *words, "--init", file, save_dir=tmp_path / "run", preset=preset) == 2
    assert "other classes (dog, …)" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_one_thing_to_begin_with(training_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train(training_data, "--pretrained", "--init", "b.pth")
    assert end.value.code == 2
    assert "--init b.pth and --pretrained" in capsys.readouterr().err


def test_a_named_checkpoint_goes_before_what_the_run_began_with(
    training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the messages say: the same command with --resume. What the run began with stays on record."""
    file, run = saved(tmp_path / "a.pth"), tmp_path / "run"
    assert train(training_data, "--init", file, "--epochs", "1", save_dir=run) == 0
    first = run / "checkpoint_001.pth.tar"
    assert train(training_data, "--init", file, "--resume", first, save_dir=run) == 0
    assert train(training_data, "--resume", run / LAST, "--epochs", "3", save_dir=run) == 0
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"]
    assert "continuing with init" not in capsys.readouterr().err
    assert json.loads((run / "args.json").read_text())["init"] == str(file)


def test_weights_named_by_resume_as_published_are_on_record(training_data: Path, tmp_path: Path) -> None:
    words = ["--unlabeled", training_data / "val", "--lr_last_layer", "0.1"]
    file, run = saved(tmp_path / "trunk.pth", head=False), tmp_path / "run"
    for epochs, resume in (("1", file), ("2", run / "checkpoint_001.pth.tar")):
        options = [*words, "--epochs", epochs, "--resume", resume]
        assert train(training_data, *options, save_dir=run, preset="semi-cgc") == 0
        assert json.loads((run / "args.json").read_text())["init"] == str(file)


def test_auto_looks_where_a_run_of_the_file_is_kept(
    training_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without -a and --save_dir the folder is called after the file's network."""
    file = saved(tmp_path / "a.pth")
    monkeypatch.chdir(tmp_path)
    words = [
        str(training_data),
        "--init",
        str(file),
        "--resume",
        "auto",
        "--image-size",
        "32",
        "-j",
        "0",
        "-b",
        "5",
    ]
    for epochs in ("1", "2"):
        assert main([*words, "--device", "cpu", "--epochs", epochs]) == 0
    run = Path("runs") / "cgc-resnet_tiny-seed0"
    assert f"resuming {run / 'checkpoint_001.pth.tar'}" in capsys.readouterr().err
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]


def test_a_file_that_is_not_there(
    training_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none.pth"
    said = refused(capsys, training_data, "--init", file, "--resume", "auto", save_dir=tmp_path / "run")
    assert said == f"error: no checkpoint at {file}"
