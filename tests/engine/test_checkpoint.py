"""The folder of a run's checkpoints: never half a file, never one too few."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cgc.engine.checkpoint import CheckpointFolder, random_states, restore_random_state
from cgc.errors import InputError, RunError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def numbered(*epochs: int) -> list[str]:
    return [f"checkpoint_{epoch:03d}.pth.tar" for epoch in epochs]


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3, 4]), (1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_the_last_ones_are_kept_beside_the_best(tmp_path: Path, keep: int, left: list[int]) -> None:
    folder = CheckpointFolder(tmp_path, keep)
    for epoch in range(1, 5):
        folder.save({"epoch": epoch}, epoch, 0, best=epoch == 2)
    assert names(tmp_path) == [*numbered(*left), "model_best.pth.tar"]
    assert torch.load(tmp_path / "model_best.pth.tar", weights_only=True) == {"epoch": 2}
    assert folder.latest == tmp_path / numbered(4)[0]


def test_a_checkpoint_inside_an_epoch_has_a_name_of_its_own_until_the_epoch_is_whole(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, 1)
    folder.save({}, 2, 0)
    path = folder.save({}, 2, 17)
    assert path.name == "checkpoint_002_step000017.pth.tar"
    assert folder.latest == path
    assert names(tmp_path) == ["checkpoint_002.pth.tar", path.name]  # the whole epoch stays
    folder.save({}, 3, 0)
    assert names(tmp_path) == ["checkpoint_003.pth.tar"]


def test_saving_the_same_epoch_again_does_not_delete_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, 1)
    for value in (1, 2):
        folder.save({"value": value}, 3, 0)
    assert names(tmp_path) == numbered(3)
    assert torch.load(tmp_path / numbered(3)[0], weights_only=True) == {"value": 2}


def test_files_of_other_processes_are_left_alone(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path, 1).save({}, 1, 0)
    CheckpointFolder(tmp_path, 1).save({}, 2, 0)
    assert names(tmp_path) == numbered(1, 2)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("write failed")])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = CheckpointFolder(tmp_path, 1)
    folder.save({"epoch": 1}, 1, 0, best=True)

    def half(_content: Any, path: Path) -> None:
        Path(path).write_bytes(b"half a f")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        for epoch in (1, 2):  # over an existing file, and a new one
            with pytest.raises(RunError, match=numbered(epoch)[0]):
                folder.save({"epoch": 9}, epoch, 0, best=True)
    assert names(tmp_path) == [*numbered(1), "model_best.pth.tar"]
    for name in names(tmp_path):
        assert torch.load(tmp_path / name, weights_only=True) == {"epoch": 1}
    folder.save({"epoch": 3}, 3, 0)
    assert names(tmp_path) == [*numbered(3), "model_best.pth.tar"]


def test_an_interrupt_while_writing_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, 1)
    folder.save({"epoch": 1}, 1, 0)

    def interrupted(_content: Any, path: Path) -> None:
        Path(path).write_bytes(b"half a f")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.save({"epoch": 1}, 1, 0)
    assert names(tmp_path) == numbered(1)
    assert torch.load(tmp_path / numbered(1)[0], weights_only=True) == {"epoch": 1}


def test_a_copy_of_the_best_that_fails_leaves_the_last_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path, 1)
    folder.save({"epoch": 1}, 1, 0, best=True)

    def half(_source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half a f")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(RunError):
        folder.save({"epoch": 2}, 2, 0, best=True)
    assert torch.load(tmp_path / numbered(1)[0], weights_only=True) == {"epoch": 1}
    assert torch.load(tmp_path / "model_best.pth.tar", weights_only=True) == {"epoch": 2}
    assert not [name for name in names(tmp_path) if "partial" in name]


def test_a_folder_is_made_and_found_writable(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "a" / "b", 1)
    folder.claim()
    assert names(tmp_path / "a" / "b") == []
    folder.claim()  # twice is no harm


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/run"):
        CheckpointFolder(tmp_path / "file" / "run", 1).claim()


@pytest.mark.parametrize("name", [*numbered(1, 1000), "checkpoint_002_step000004.pth.tar"])
def test_a_used_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("")
    folder.refuse_if_used()
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"--resume .*{name}"):
        folder.refuse_if_used()


def test_random_states_come_back_through_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.rand(3)
    path = CheckpointFolder(tmp_path, 1).save({"random_state": random_states()[0]}, 1, 0)
    expected = torch.rand(4)
    torch.manual_seed(6)
    restore_random_state(torch.load(path, weights_only=True))
    assert torch.equal(torch.rand(4), expected)
