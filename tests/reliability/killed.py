"""What trials of killed runs share: the training, what is noted of it from outside, and what has to come out of it."""

from __future__ import annotations

import io
import mmap
import shutil
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cgc.engine import loop
from cgc.engine.checkpoint import BEST, checkpoints_in
from tests.commands.runs import result, rows, training_differences

EPOCHS, STEPS, SAVE_EVERY = 3, 3, 2  # two checkpoints an epoch
OPTIONS = ["-a", "resnet_tiny", "--image-size", "32", "--device", "cpu", "--epochs", str(EPOCHS)]
OPTIONS += ["--save-every", str(SAVE_EVERY), "--resume", "auto", "--lr", "0.02"]
LAST = f"checkpoint_{EPOCHS:03d}.pth.tar"
PIECES, PAUSE = 20, 0.01  # a checkpoint is written in so many pieces, with so many seconds between two

Moment = Literal["anywhere", "writing"]


@dataclass(frozen=True)
class Outcome:
    """One kill: at how many finished steps, inside a checkpoint's writing or not, and what the run went on from."""

    steps: int
    writing: bool
    resumed: int
    differences: tuple[str, ...]

    @property
    def lost(self) -> int:
        """Finished steps that had to be done again."""
        return self.steps - self.resumed


class Shared:
    """Numbers that a process leaves behind when it is killed: finished steps, 1 while it writes, steps at the start, 1
    once it has joined others.

    In memory that forked processes share, or in a file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._memory = mmap.mmap(-1, 32) if path is None else _mapped(path, 32)

    def put(self, place: int, value: int) -> None:
        self._memory[8 * place : 8 * place + 8] = struct.pack("q", value)

    def get(self, place: int) -> int:
        value: int = struct.unpack("q", self._memory[8 * place : 8 * place + 8])[0]
        return value


DONE, WRITING, START, JOINED = range(4)


def _mapped(path: Path, size: int) -> mmap.mmap:
    with path.open("a+b") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def watch(shared: Shared) -> None:
    """Count the finished steps of the whole run."""
    fit, step = loop.Trainer.fit, loop.Trainer._step

    def begin(self: loop.Trainer, *arguments: Any) -> Any:
        done = self.progress.epoch * STEPS + self.progress.step
        shared.put(START, done)
        shared.put(DONE, done)
        return fit(self, *arguments)

    def count(self: loop.Trainer, *arguments: Any) -> None:
        step(self, *arguments)
        shared.put(DONE, shared.get(DONE) + 1)

    loop.Trainer.fit, loop.Trainer._step = begin, count  # type: ignore[method-assign, assignment]


def slow_down(shared: Shared) -> None:
    """Checkpoints are written piece by piece, and copied so too."""
    save: Callable[..., None] = torch.save

    def slowly(data: bytes, path: Path) -> None:
        shared.put(WRITING, 1)
        with Path(path).open("wb") as file:
            for first in range(0, len(data), size := len(data) // PIECES + 1):
                file.write(data[first : first + size])
                file.flush()
                time.sleep(PAUSE)
        time.sleep(PAUSE)
        shared.put(WRITING, 0)

    def save_slowly(content: Any, path: Any, **options: Any) -> None:
        if not isinstance(path, Path):  # a tensor on its way to another process
            save(content, path, **options)
            return
        buffer = io.BytesIO()
        save(content, buffer)
        slowly(buffer.getvalue(), path)

    torch.save = save_slowly  # type: ignore[assignment]
    shutil.copyfile = lambda source, target: slowly(Path(source).read_bytes(), target)  # type: ignore[assignment, misc]


def differences_from(whole: Path, folder: Path) -> list[str]:
    """What a run that was killed and finished left otherwise than the undisturbed one did."""
    differences = [d for name in (LAST, BEST) for d in training_differences(folder / name, whole / name)]
    if rows(folder) != rows(whole):
        differences.append("metrics.csv")
    if _but_for_seconds(result(folder)) != _but_for_seconds(result(whole)):
        differences.append("result.json")
    if left := sorted(path.name for path in folder.glob(".*")):
        differences.append(f"left behind: {left[0]}")
    if len(checkpoints_in(folder)) != 1:
        differences.append("checkpoints that --keep 1 does not keep")
    return differences


def _but_for_seconds(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "seconds"}


def report(outcomes: Iterable[Outcome]) -> str:
    outcomes, finished = list(outcomes), EPOCHS * STEPS
    broken = [each for each in outcomes if each.differences]
    return (
        f"{len(outcomes)} kills: {sum(each.writing for each in outcomes)} while a checkpoint was written, "
        f"{sum(each.steps == 0 for each in outcomes)} before the first step was done, "
        f"{sum(each.steps >= finished for each in outcomes)} after the last; "
        f"{len(outcomes) - len(broken)} runs ended bit-identical to the undisturbed one; "
        f"at most {max(each.lost for each in outcomes)} of {finished} steps were done again "
        f"(a checkpoint every {SAVE_EVERY} steps and after each epoch of {STEPS})"
    )
