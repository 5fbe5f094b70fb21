"""A small training that is killed again and again, and what is left of it.

Each trial starts a run in a process of its own, ends it by SIGKILL at a random moment, lets `--resume auto` finish it
in another process, and compares the last and the best checkpoint with those of a run nobody disturbed: weights,
momentum, schedule and random states to the last bit. Of every second trial the kill falls inside the writing of a
checkpoint, which is slowed down on purpose.

    python -m tests.reliability.kills --kills 100
"""

from __future__ import annotations

import argparse
import io
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cgc.commands.train import main
from cgc.engine import loop
from cgc.engine.checkpoint import BEST, checkpoints_in
from tests.commands.runs import rows, training_differences, training_folder

EPOCHS, STEPS, SAVE_EVERY = 3, 3, 2  # 12 images in batches of 5; two checkpoints an epoch
OPTIONS = [
    "-a",
    "resnet_tiny",
    "--image-size",
    "32",
    "-j",
    "0",
    "-b",
    "5",
    "--device",
    "cpu",
    "--epochs",
    str(EPOCHS),
]
OPTIONS += ["--save-every", str(SAVE_EVERY), "--resume", "auto", "--lr", "0.02"]
LAST = f"checkpoint_{EPOCHS:03d}.pth.tar"
_PIECES, _PAUSE = 20, 0.01  # a checkpoint is written in so many pieces, with so many seconds between two

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
    """Numbers that a process leaves behind when it is killed: finished steps, 1 while it writes, steps at the start."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 24)

    def put(self, place: int, value: int) -> None:
        self._memory[8 * place : 8 * place + 8] = struct.pack("q", value)

    def get(self, place: int) -> int:
        value: int = struct.unpack("q", self._memory[8 * place : 8 * place + 8])[0]
        return value


DONE, WRITING, START = range(3)


def run(data: Path, folder: Path, shared: Shared, *, slowly: bool) -> int:
    """Start a run in a process of its own; its number. Its output goes to a file beside the folder."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)  # a forked process has none of the others
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _watch(shared)
        if slowly:
            _slow_down(shared)
        status = main([str(data), *OPTIONS, "--save_dir", str(folder)])
    finally:
        os._exit(status)


def _watch(shared: Shared) -> None:
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

    loop.Trainer.fit, loop.Trainer._step = begin, count  # type: ignore[method-assign]


def _slow_down(shared: Shared) -> None:
    """Checkpoints are written piece by piece, and copied so too."""
    save: Callable[..., None] = torch.save

    def slowly(data: bytes, path: Path) -> None:
        shared.put(WRITING, 1)
        with Path(path).open("wb") as file:
            for first in range(0, len(data), size := len(data) // _PIECES + 1):
                file.write(data[first : first + size])
                file.flush()
                time.sleep(_PAUSE)
        time.sleep(_PAUSE)
        shared.put(WRITING, 0)

    def save_slowly(content: Any, path: Path) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        slowly(buffer.getvalue(), path)

    torch.save = save_slowly
    shutil.copyfile = lambda source, target: slowly(Path(source).read_bytes(), target)  # type: ignore[assignment]


def kill(
    data: Path, folder: Path, moment: Moment, seconds: float, chance: random.Random
) -> tuple[Shared, bool]:
    """Start a run, which takes about ``seconds``, and kill it: anywhere, or inside the writing of a checkpoint."""
    shared = Shared()
    process = run(data, folder, shared, slowly=moment == "writing")
    if moment == "anywhere":
        steps = EPOCHS * STEPS
        after = chance.randint(0, steps)
        _wait(lambda: shared.get(DONE) >= after, process)
        time.sleep(chance.uniform(0, 2 * seconds / steps))
    else:
        for _ in range(chance.randrange(1, EPOCHS + 2)):  # which checkpoint
            _wait(lambda: shared.get(WRITING) == 0, process)
            _wait(lambda: shared.get(WRITING) == 1, process)
        time.sleep(chance.uniform(0, _PIECES * _PAUSE))
    writing = shared.get(WRITING) == 1
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return shared, writing


def _wait(happened: Callable[[], bool], process: int) -> None:
    while not happened() and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)


def trial(
    data: Path, whole: Path, folder: Path, moment: Moment, seconds: float, chance: random.Random
) -> Outcome:
    """Kill a run and finish it."""
    killed, writing = kill(data, folder, moment, seconds, chance)
    again = Shared()
    _, status = os.waitpid(run(data, folder, again, slowly=False), 0)
    if status:
        raise RuntimeError(f"the run was not finished: {folder.with_suffix('.log').read_text()[-2000:]}")
    differences = [d for name in (LAST, BEST) for d in training_differences(folder / name, whole / name)]
    if rows(folder) != rows(whole):
        differences.append("metrics.csv")
    if left := sorted(path.name for path in folder.glob(".*")):
        differences.append(f"left behind: {left[0]}")
    if len(checkpoints_in(folder)) != 1:
        differences.append("checkpoints that --keep 1 does not keep")
    return Outcome(killed.get(DONE), writing, again.get(START), tuple(differences))


def trials(
    place: Path, kills: int, seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> list[Outcome]:
    """So many kills, half of them inside the writing of a checkpoint."""
    torch.set_num_threads(1)
    chance = random.Random(seed)
    data = training_folder(place / "data")
    started = time.monotonic()
    if os.waitpid(run(data, place / "whole", Shared(), slowly=False), 0)[1]:
        raise RuntimeError((place / "whole.log").read_text()[-2000:])
    seconds = time.monotonic() - started
    outcomes = []
    for number in range(kills):
        moment: Moment = "writing" if number % 2 else "anywhere"
        folder = place / f"run{number}"
        outcomes.append(trial(data, place / "whole", folder, moment, seconds, chance))
        shutil.rmtree(folder)
        say(f"{number + 1}: {outcomes[-1]}")
    return outcomes


def report(outcomes: list[Outcome]) -> str:
    finished = EPOCHS * STEPS
    broken = [each for each in outcomes if each.differences]
    return (
        f"{len(outcomes)} kills: {sum(each.writing for each in outcomes)} while a checkpoint was written, "
        f"{sum(each.steps == 0 for each in outcomes)} before the first step was done, "
        f"{sum(each.steps >= finished for each in outcomes)} after the last; "
        f"{len(outcomes) - len(broken)} runs ended bit-identical to the undisturbed one; "
        f"at most {max(each.lost for each in outcomes)} of {finished} steps were done again "
        f"(a checkpoint every {SAVE_EVERY} steps and after each epoch of {STEPS})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = trials(Path(scratch), options.kills, options.seed, lambda line: print(line, flush=True))
    print(report(found))
    sys.exit(any(each.differences for each in found))
