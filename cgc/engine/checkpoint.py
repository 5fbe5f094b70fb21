"""Writing checkpoints in the released format so that none is ever half written, and taking one up again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cgc.engine.processes import Processes
from cgc.errors import InputError, RunError

_NAME = re.compile(r"checkpoint_\d{3,}(_step\d+)?\.pth\.tar")


class CheckpointFolder:
    """The checkpoints of one run: ``checkpoint_NNN.pth.tar`` after NNN epochs, and ``model_best.pth.tar``.

    Files are written beside their place and renamed into it. Of the checkpoints that this process wrote, the last
    ``keep`` stay (0: all of them). ``latest`` is the last one written.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.latest: Path | None = None
        self._written: list[Path] = []
        self._inside: list[Path] = []

    def claim(self) -> None:
        """Create the folder; raises InputError if it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(f"cannot write to {self.folder}: {error.strerror}") from error

    def refuse_if_used(self) -> None:
        """Raise InputError if checkpoints are there that a new run would mix with its own."""
        found = sorted(p for p in self.folder.glob("*.pth.tar") if _NAME.fullmatch(p.name))
        if found:
            raise InputError(
                f"{self.folder} already holds {found[-1].name}; continue with --resume {found[-1]} "
                "or choose another --save_dir"
            )

    def save(self, content: Mapping[str, Any], epoch: int, step: int, *, best: bool = False) -> Path:
        """Write a checkpoint after ``epoch`` whole epochs and ``step`` steps of the next one.

        Raises RunError if it cannot be written; what was there before is still there.
        """
        path = self.folder / f"checkpoint_{epoch:03d}{f'_step{step:06d}' if step else ''}.pth.tar"
        try:
            _write(path, lambda partial: torch.save(dict(content), partial))
            if best:
                _write(self.folder / "model_best.pth.tar", lambda partial: shutil.copyfile(path, partial))
        except (OSError, RuntimeError) as error:
            raise RunError(f"could not write {path}: {error}; earlier checkpoints are intact") from error
        self.latest = path
        self._clear_away(path, whole_epoch=step == 0)
        return path

    def _clear_away(self, path: Path, *, whole_epoch: bool) -> None:
        """Whole epochs beyond the last ``keep``; checkpoints inside an epoch once the next whole one is there."""
        if whole_epoch:
            for inside in self._inside:
                inside.unlink(missing_ok=True)
            self._inside.clear()
            self._written = [p for p in self._written if p != path] + [path]
            while self.keep and len(self._written) > self.keep:
                self._written.pop(0).unlink(missing_ok=True)
        else:
            self._inside = [p for p in self._inside if p != path] + [path]


def _write(path: Path, write: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def random_states(processes: Processes | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """torch's random states, of this process and of the others; nothing in this project draws from another generator.

    With several processes collective; the second part then holds those of all but the first process.
    """
    if processes is None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}, []
    # Each process has one GPU; touching the others' would cost memory there.
    own = {
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }
    return own, processes.gather(own)[1:]


def restore_random_state(content: Mapping[str, Any], processes: Processes | None = None) -> None:
    """Inverse of :func:`random_states` from a checkpoint; GPUs that are no longer there are left out.

    A process that the saved run did not have keeps the state that its seed gave it.
    """
    states = [content["random_state"], *content.get("random_states_of_others", [])]
    rank = 0 if processes is None else processes.rank
    if rank >= len(states):
        return
    torch.set_rng_state(states[rank]["cpu"])
    if processes is not None:
        for cuda in states[rank]["cuda"][:1] if torch.cuda.is_available() else []:
            torch.cuda.set_rng_state(cuda)
        return
    for device, cuda in enumerate(states[rank]["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda, device)
