"""A run that is killed goes on where it was. `python -m tests.reliability.kills` does this a hundred times."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import sys
from pathlib import Path

import pytest
import torch

from cgc.engine.checkpoint import BEST, CheckpointFolder, checkpoints_in
from cgc.errors import InputError, RunError
from cgc.models.checkpoint_layouts import read_checkpoint
from tests.commands.runs import (
    checkpoints,
    differences,
    error_line,
    rows,
    train,
    training_differences,
    training_folder,
)
from tests.reliability import kill_processes
from tests.reliability.killed import SAVE_EVERY
from tests.reliability.kills import trials


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("survival") / "data")


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    assert train(data, "--keep", "0", "--save-every", "2", save_dir=data.parent / "run") == 0
    return data.parent / "run"


def copy_of(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


@pytest.mark.slow
def test_killed_at_any_moment_and_finished(tmp_path: Path) -> None:
    outcomes = trials(tmp_path, kills=8, seed=1)
    assert [each.differences for each in outcomes] == [()] * 8
    assert sum(each.writing for each in outcomes) >= 3
    # A kill inside the writing of a checkpoint falls back on the one before.
    assert all(each.lost <= SAVE_EVERY for each in outcomes)


@pytest.mark.slow
def test_both_processes_or_one_killed_and_finished(tmp_path: Path) -> None:
    """Where one is killed, the other ends by itself with a message; if not, that is among the differences."""
    outcomes = kill_processes.trials(tmp_path, 2, kills=3, seed=1)
    assert [each.differences for each in outcomes] == [()] * 3
    assert [len(each.killed) for each in outcomes] == [2, 2, 1]


def test_saving_inside_epochs_changes_no_number(data: Path, finished: Path, tmp_path: Path) -> None:
    assert train(data, "--keep", "0", save_dir=tmp_path / "plain") == 0
    last = "checkpoint_002.pth.tar"
    assert training_differences(finished / last, tmp_path / "plain" / last) == []
    assert rows(finished) == rows(tmp_path / "plain")
    assert checkpoints(finished) == ["checkpoint_001.pth.tar", last, BEST]  # none inside an epoch is left


def test_auto_begins_where_there_is_nothing(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(data, "--resume", "auto", save_dir=tmp_path / "new") == 0
    assert "nothing to resume" in capsys.readouterr().err
    assert rows(tmp_path / "new") == rows(finished)


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "text"])
def test_auto_passes_over_damaged_checkpoints(
    harm: str, data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    last = run / "checkpoint_002.pth.tar"
    whole = last.read_bytes()
    # Right in the middle of a weight: torch.load notices nothing.
    broken = bytes([*whole[: len(whole) // 2], whole[len(whole) // 2] ^ 64, *whole[len(whole) // 2 + 1 :]])
    last.write_bytes({"flipped": broken, "cut": whole[:-5000], "empty": b"", "text": b"lost"}[harm])
    if harm == "flipped":
        torch.load(last, weights_only=True)
    assert train(data, "--keep", "0", "--resume", "auto", save_dir=run) == 0
    said = capsys.readouterr().err
    assert "passed over" in said
    assert str(last) in said
    assert f"resuming {run / 'checkpoint_001.pth.tar'}" in said
    assert training_differences(last, finished / last.name) == []
    assert rows(run) == rows(finished)


def test_the_best_one_is_the_last_resort(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    for path in checkpoints_in(run).values():
        path.write_bytes(b"")
    assert train(data, "--keep", "0", "--resume", "auto", save_dir=run) == 0
    assert f"resuming {run / BEST}" in capsys.readouterr().err
    (run / BEST).write_bytes(b"")
    for path in checkpoints_in(run).values():
        path.write_bytes(b"")
    assert train(data, "--resume", "auto", save_dir=run) == 2
    assert "none of its 3 checkpoints can be read" in error_line(capsys.readouterr().err)


def test_a_damaged_checkpoint_is_refused_by_name(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    path = run / BEST
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert train(data, "--resume", path, save_dir=tmp_path / "other") == 2
    said = error_line(capsys.readouterr().err)
    assert str(path) in said
    assert "damaged" in said


def test_files_without_checksums_are_read(data: Path, finished: Path, tmp_path: Path) -> None:
    content = torch.load(finished / BEST, weights_only=True)
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(content, tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("plain.pth", "old.pth"):
        assert train(data, "-e", "--resume", tmp_path / name) == 0


def test_what_another_keep_kept_is_not_cleared_away(data: Path, tmp_path: Path) -> None:
    """Not at once, nor by those who go on later; what came since is."""
    run = tmp_path / "run"
    assert train(data, "--keep", "0", save_dir=run) == 0
    for epochs in ("3", "3", "4", "5"):
        assert train(data, "--keep", "1", "--epochs", epochs, "--resume", "auto", save_dir=run) == 0
    assert [place for place, _ in checkpoints_in(run)] == [1, 2, 5]


def test_a_run_killed_between_its_last_checkpoint_and_clearing_away(data: Path, tmp_path: Path) -> None:
    """It has no step left, and so writes no checkpoint after which it would clear away."""
    run = tmp_path / "run"
    assert train(data, save_dir=run) == 0
    last = run / "checkpoint_002.pth.tar"
    for before in ("checkpoint_001.pth.tar", "checkpoint_001_step000002.pth.tar"):
        shutil.copyfile(last, run / before)
    assert train(data, "--resume", "auto", save_dir=run) == 0
    assert checkpoints(run) == [last.name, BEST]


def test_a_continued_run_clears_away_what_it_left(data: Path, tmp_path: Path) -> None:
    """Preempted a hundred times, a run would fill the disk."""
    run = tmp_path / "run"
    assert train(data, "--epochs", "1", save_dir=run) == 0
    shutil.copyfile(run / "checkpoint_001.pth.tar", run / "checkpoint_000.pth.tar")
    shutil.copyfile(run / "checkpoint_001.pth.tar", run / "checkpoint_000_step000002.pth.tar")
    shutil.copyfile(run / "checkpoint_001.pth.tar", run / "checkpoint_007.pth.tar")  # of another future
    (run / ".checkpoint_001.pth.tar.partial").write_bytes(b"half a f")
    os.utime(run / ".checkpoint_001.pth.tar.partial", (1, 1))
    assert train(data, "--resume", run / "checkpoint_001.pth.tar", save_dir=run) == 0
    assert checkpoints(run) == ["checkpoint_002.pth.tar", BEST]
    assert (run / "checkpoint_007.pth.tar.superseded").exists()
    assert list(run.glob(".*")) == []


def test_what_another_run_chose_to_keep_is_kept(data: Path, finished: Path, tmp_path: Path) -> None:
    """Of checkpoints that were all kept, or that are not ours, none is deleted."""
    run = copy_of(finished, tmp_path)
    last = run / "checkpoint_002.pth.tar"
    assert train(data, "--resume", last, "--epochs", "3", save_dir=run) == 0
    assert checkpoints(run) == [*(f"checkpoint_{n:03d}.pth.tar" for n in (1, 2, 3)), BEST]
    foreign = torch.load(last, weights_only=True)
    del foreign["progress"], foreign["options"]
    for epoch in (1, 2):
        torch.save({**foreign, "epoch": epoch}, tmp_path / f"checkpoint_{epoch:03d}.pth.tar")
    resume = tmp_path / "checkpoint_002.pth.tar"
    assert train(data, "--resume", resume, "--epochs", "3", save_dir=tmp_path) == 0
    assert checkpoints(tmp_path)[:3] == [f"checkpoint_{n:03d}.pth.tar" for n in (1, 2, 3)]


def test_a_run_that_went_back_is_the_one_that_auto_goes_on_with(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    first = run / "checkpoint_001.pth.tar"
    assert train(data, "--keep", "0", "--resume", first, "--lr", "0.5", "--epochs", "2", save_dir=run) == 0
    again = (run / "checkpoint_002.pth.tar").read_bytes()
    assert (run / "checkpoint_002.pth.tar.superseded").exists()
    (run / "checkpoint_002.pth.tar").unlink()  # as if it had been stopped before
    assert train(data, "--keep", "0", "--resume", "auto", "--lr", "0.5", "--epochs", "2", save_dir=run) == 0
    assert f"resuming {first}" in capsys.readouterr().err
    (tmp_path / "second").write_bytes(again)
    assert training_differences(run / "checkpoint_002.pth.tar", tmp_path / "second") == []


def test_a_refused_command_leaves_the_files_of_a_live_run_alone(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    run = copy_of(finished, tmp_path)
    partial = run / ".checkpoint_003.pth.tar.partial"
    partial.write_bytes(b"half a f")
    assert train(data, save_dir=run) == 2
    assert train(data, "--resume", "auto", "--epochs", "3", save_dir=run) == 0  # it may be saving still
    assert not partial.exists()  # written over by the same checkpoint
    partial.write_bytes(b"half a f")
    os.utime(partial, (1, 1))
    assert train(data, "--resume", "auto", "--epochs", "3", save_dir=run) == 0
    assert not partial.exists()


def test_a_fresh_classifier_is_fresh_once(data: Path, tmp_path: Path) -> None:
    words = (data, "--new-head", "--resume", "auto")
    assert train(*words, "--epochs", "1", save_dir=tmp_path / "run") == 0
    assert train(*words, "--epochs", "2", save_dir=tmp_path / "run") == 0
    assert len(rows(tmp_path / "run")) == 2


def test_a_folder_that_cannot_be_flushed_is_saved_into_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems refuse this of folders."""
    flush = os.fsync

    def refuse(place: int) -> None:
        if stat.S_ISDIR(os.fstat(place).st_mode):
            raise OSError(22, "Invalid argument")
        flush(place)

    monkeypatch.setattr(os, "fsync", refuse)
    CheckpointFolder(tmp_path, 1).save({"epoch": 1}, 1, 0)
    assert checkpoints(tmp_path) == ["checkpoint_001.pth.tar"]


def test_damage_anywhere_in_a_file_is_one_line(finished: Path, tmp_path: Path) -> None:
    """Bits of the zip file's directory, too: nothing but an InputError comes out, or the same weights."""
    whole = (finished / BEST).read_bytes()
    start = whole.rfind(b"PK\x01\x02", 0, whole.rfind(b"PK\x06\x06"))
    chance = random.Random(4)
    path = tmp_path / "flipped.pth.tar"
    expected = read_checkpoint(finished / BEST).weights
    refused = 0
    for _ in range(150):
        at = chance.choice((chance.randrange(start, len(whole)), chance.randrange(len(whole))))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        try:
            weights = read_checkpoint(path).weights
        except InputError:
            refused += 1
        else:
            assert differences(expected, weights) == []
    assert refused > 30


def test_the_best_one_is_never_older_than_what_the_last_one_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two files a run may be killed: then the epoch is done again, and with it the best checkpoint."""
    folder = CheckpointFolder(tmp_path, 1)
    folder.save({"epoch": 1}, 1, 0, best=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.save({"epoch": 2}, 2, 0, best=True)
    assert torch.load(tmp_path / BEST, weights_only=True) == {"epoch": 2}
    assert checkpoints(tmp_path) == ["checkpoint_001.pth.tar", BEST]


def test_a_full_disk_ends_the_run_and_leaves_what_was_there(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file may grow beyond a limit that the kernel keeps, which is how a quota shows."""
    run = copy_of(finished, tmp_path)
    (run / "checkpoint_002.pth.tar").unlink()
    before = (run / "checkpoint_001.pth.tar").read_bytes()
    child = os.fork()
    if not child:
        import resource

        status = 1
        try:
            torch.set_num_threads(1)  # a forked process has none of the others
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
            sys.stderr = (tmp_path / "said").open("w", buffering=1)
            status = train(data, "--resume", "auto", save_dir=run)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    said = (tmp_path / "said").read_text()
    assert f"failed: could not write {run / 'checkpoint_002.pth.tar'}" in said
    assert "earlier checkpoints are intact" in said
    assert (run / "checkpoint_001.pth.tar").read_bytes() == before
    assert list(run.glob(".*")) == []
    assert train(data, "--keep", "0", "--resume", "auto", save_dir=run) == 0
    assert training_differences(run / "checkpoint_002.pth.tar", finished / "checkpoint_002.pth.tar") == []


def test_a_folder_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system does after an error; root may write anywhere, so the kernel's answer is given in its place."""
    folder = CheckpointFolder(tmp_path, 1)
    folder.save({"epoch": 1}, 1, 0)

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(torch, "save", refused)
    with pytest.raises(RunError, match="Read-only file system; earlier checkpoints are intact"):
        folder.save({"epoch": 2}, 2, 0)
    assert checkpoints(tmp_path) == ["checkpoint_001.pth.tar"]
