"""Training on shards: as on the images themselves, stopped and continued, from a folder and from a URL."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cgc.commands.make_shards import main as make_shards
from cgc.data.shards.cache import CacheOptions
from cgc.data.shards.folders import ShardOptions, open_images, open_stream
from cgc.data.shards.images import ShardList
from tests.commands.runs import (
    checkpoints,
    error_line,
    refused,
    result,
    rows,
    signal_after,
    train,
    training_differences,
)
from tests.data.shards.fixture import serving

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("plain_panels")
SMALL = ["--epochs", "2", "--shard-window", "2"]


@pytest.fixture(scope="module")
def shards(training_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the 12 training, the 6 held-out and, unlabelled, of all 18 images."""
    out = tmp_path_factory.mktemp("shards")
    for split in ("all", "unlabeled"):
        command = [str(training_data), "--out", str(out), "--samples", "3", "-j", "0", "--split", split]
        assert make_shards(command) == 0
    return out


@pytest.mark.parametrize("unlabelled", [False, True])
def test_stopped_within_an_epoch_and_continued_from_a_url(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unlabelled: bool
) -> None:
    """Equal to the last bit to the run that was never stopped, with workers or without, wherever the shards lie."""

    def stream(root: Path | str) -> list[str]:
        return ["--unlabeled", f"{root}/unlabeled"] if unlabelled else []

    whole, parts, last = tmp_path / "whole", tmp_path / "parts", "checkpoint_002.pth.tar"
    assert train(shards, *SMALL, *stream(shards), save_dir=whole) == 0
    with monkeypatch.context() as patch:
        signal_after(patch, 4)
        assert train(shards, *SMALL, *stream(shards), save_dir=parts) == 130
    checkpoint = parts / "checkpoint_001_step000001.pth.tar"
    with serving(shards) as server:
        cache = ["--shard-cache", tmp_path / "cache", "-j", 1, "--resume", checkpoint]
        assert train(Path(server.url), *SMALL, *stream(server.url), *cache, save_dir=parts) == 0
    assert training_differences(parts / last, whole / last) == []
    assert rows(parts) == rows(whole)


def test_a_window_over_all_shards_is_another_order(shards: Path, tmp_path: Path) -> None:
    assert train(shards, *SMALL, save_dir=tmp_path / "a") == 0
    assert train(shards, "--epochs", "2", "--shard-window", "0", save_dir=tmp_path / "b") == 0
    assert rows(tmp_path / "a") != rows(tmp_path / "b")


def test_a_missing_shard_is_a_note_or_strictly_an_error(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shards, copy)
    (copy / "train" / "train-000002.tar").unlink()
    assert "train-000002.tar" in refused(capsys, copy, *SMALL, "--strict", save_dir=tmp_path / "strict")
    assert train(copy, *SMALL, save_dir=tmp_path / "run") == 0
    assert "its 3 images are left out" in capsys.readouterr().err


def test_a_dead_server_does_not_end_the_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One shard of four always stalls: it is named once, and its images are replaced."""
    monkeypatch.setattr("cgc.data.shards.cache.time.sleep", lambda seconds: None)
    options = ["--shard-cache", tmp_path / "cache", "--shard-timeout", "0.3"]
    with serving(shards) as server:
        server.faults["train-000001.tar"] = ["stall"] * 99
        assert train(Path(server.url), *SMALL, *options, save_dir=tmp_path / "run") == 0
        (line,) = result(tmp_path / "run")["unreadable_images"]
        assert f"{server.url}/train/train-000001.tar: no answer within 0.3 s" in line
        assert "its 3 images" in line
        capsys.readouterr()
        strict = [*options, "--strict"]
        assert train(Path(server.url), *SMALL, *strict, save_dir=tmp_path / "strict") == 2
        assert "train-000001.tar" in error_line(capsys.readouterr().err)


def test_a_stalled_server_does_not_keep_a_run_from_stopping(shards: Path, tmp_path: Path) -> None:
    """Steps that were done are saved at once: a scheduler kills half a minute after it has asked."""
    run = tmp_path / "run"
    images = open_images(shards, "train", ShardOptions(window=1))
    assert isinstance(images, ShardList)
    last = images.order(seed=0).permutation()[-1]
    with serving(shards) as server:
        server.faults[images.files.shards[images.shard_of[last]].name] = ["stall"] * 9
        command = [
            sys.executable,
            str(ROOT / "train_eval_cgc.py"),
            server.url,
            "-a",
            "resnet_tiny",
            "-b",
            "3",
        ]
        options = ["--image-size", "32", "-j", "1", "-p", "1", "--device", "cpu", "--shard-window", "1"]
        process = subprocess.Popen(
            [*command, *options, "--shard-cache", str(tmp_path / "cache"), "--save_dir", str(run)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = ""
        while "top-1" not in said:  # the report of the first step
            said += process.stderr.read(1) or pytest.fail(said)
        time.sleep(1)  # the next batch is awaited by now
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    (saved,) = checkpoints(run)
    assert saved.startswith("checkpoint_000_step")


@pytest.mark.parametrize("remote", [False, True])
def test_unlabelled_shards_are_found_where_they_were_written(
    remote: bool, shards: Path, tmp_path: Path
) -> None:
    """`make-shards --split unlabeled --out DIR` and `--unlabeled DIR`."""
    with serving(shards) as server:
        place, cache = server.url if remote else shards, tmp_path / "cache"
        images = [
            open_stream(where, ShardOptions(cache=CacheOptions(cache)))
            for where in (place, f"{place}/unlabeled")
        ]
    assert len(images[0]) == 18
    assert list(images[0].paths) == list(images[1].paths)


def test_grid_consistency_needs_the_shards_here(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(shards, "--epochs", "1", "--method", "grid", save_dir=tmp_path / "run") == 0
    capsys.readouterr()
    with serving(shards) as server:
        options = ["--method", "grid", "--shard-cache", tmp_path / "cache"]
        assert "copy them here" in refused(capsys, Path(server.url), *options)


def test_boxes_as_masks_need_image_files(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, shards, "--method", "sgc", "--saliency", "boxes", save_dir=tmp_path / "run")
    assert "--saliency boxes takes image files, not shards" in said
