"""Writing checkpoints in the released format so that none is ever half written, and taking one up again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cgc.engine.processes import Processes
from cgc.errors import InputError, RunError

BEST = "model_best.pth.tar"
NOTHING = (-1, 0)  # before the first place in a run
_ABANDONED = 600.0  # seconds
_NAME = re.compile(r"checkpoint_(\d{3,})(?:_step(\d+))?\.pth\.tar")


def place_in_run(value: object) -> tuple[int, int]:
    """Whole epochs and steps of the next one, as a checkpoint holds them; :data:`NOTHING` if these are no such ones."""
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(number) is int for number in value):
        return value[0], value[1]
    return NOTHING


def checkpoints_in(folder: Path) -> dict[tuple[int, int], Path]:
    """The checkpoints of a folder by their place in the run: whole epochs, and steps of the next one; in this order."""
    found = {}
    for path in folder.glob("checkpoint_*.pth.tar"):
        if place := _NAME.fullmatch(path.name):
            found[int(place[1]), int(place[2] or 0)] = path
    return dict(sorted(found.items()))


class CheckpointFolder:
    """The checkpoints of one run: ``checkpoint_NNN.pth.tar`` after NNN epochs, and ``model_best.pth.tar``.

    Files are written beside their place and renamed into it. Of the checkpoints that this process wrote, or took over
    with :meth:`take_over`, the last ``keep`` whole epochs stay (0: all of them), and one inside the present epoch.
    ``latest`` is the last one written; those up to the place ``spared`` are not this run's to clear away.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self.latest: Path | None = None
        self.spared = NOTHING
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
        found = list(checkpoints_in(self.folder).values())
        if found:
            raise InputError(
                f"{self.folder} already holds {found[-1].name}; continue with --resume {found[-1]} "
                "or choose another --save_dir"
            )

    def take_over(self, epoch: int, step: int, spared: tuple[int, int]) -> list[Path]:
        """Go on in a folder after ``epoch`` whole epochs and ``step`` steps; what was set aside.

        Later checkpoints are of a future that this run leaves: they get the suffix `.superseded`, so that nobody takes
        them for this run's. The earlier ones after ``spared`` are cleared away in their turn, as if this process had
        written them.
        """
        aside = []
        self.spared = spared
        for place, path in checkpoints_in(self.folder).items():
            if place > (epoch, step):
                aside.append(path.replace(path.with_name(f"{path.name}.superseded")))
            elif place > spared:
                (self._inside if place[1] else self._written).append(path)
        present = checkpoints_in(self.folder).get((epoch, step))
        if present is not None and (epoch, step) > spared:
            # Killed before it could do this itself, the run may have no step left after which it would.
            self._clear_away(present, whole_epoch=step == 0)
        for beside in self.folder.glob(
            ".*.pth.tar.partial"
        ):  # of a process that was killed, not of one still saving
            with contextlib.suppress(OSError):
                if time.time() - beside.stat().st_mtime > _ABANDONED:
                    beside.unlink()
        return aside

    def save(self, content: Mapping[str, Any], epoch: int, step: int, *, best: bool = False) -> Path:
        """Write a checkpoint after ``epoch`` whole epochs and ``step`` steps of the next one.

        Raises RunError if it cannot be written; what was there before is still there.
        """
        path = self.folder / f"checkpoint_{epoch:03d}{f'_step{step:06d}' if step else ''}.pth.tar"
        try:
            save = partial(torch.save, dict(content))
            if best:
                # First: a run that is killed in between goes on from before, and comes to this again.
                _write(self.folder / BEST, save)
                save = partial(shutil.copyfile, self.folder / BEST)
            _write(path, save)
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
            while len(self._inside) > 1:
                self._inside.pop(0).unlink(missing_ok=True)


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    beside = path.with_name(f".{path.name}.partial")
    try:
        write(beside)
        _to_disk(beside)
        beside.replace(path)
        with contextlib.suppress(OSError):  # some network file systems cannot
            _to_disk(path.parent)  # else a power cut may undo the renaming
    finally:
        beside.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


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
