"""Killing a run of several processes: all at once, as when a machine is taken away, or one of them.

Where one is killed, each of the others has to end by itself, with a status and one line that say so. Then the same
command, with as many processes, finishes the run. The processes talk through gloo and are given what torchrun gives.
torchrun itself would end the others too; here nobody does.

Of three processes or more a run that goes on differs by rounding: DDP arranges its buckets anew after a process's first
step, and where a gradient stands in one decides in which order gloo adds it up. Two have only one order.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.commands.runs import training_folder
from tests.reliability.kill_launcher import Group, Launcher, until
from tests.reliability.killed import (
    DONE,
    EPOCHS,
    JOINED,
    LAST,
    PAUSE,
    PIECES,
    SAVE_EVERY,
    START,
    STEPS,
    WRITING,
    Moment,
    Outcome,
    differences_from,
)

PATIENCE = 60.0  # seconds in which the others have to end
_MESSAGE = re.compile(r"(\[process \d+\] )?(error|failed): ")


@dataclass(frozen=True)
class GroupOutcome(Outcome):
    """Of a kill among several processes: whom it hit, with how many loading processes each, and after how many seconds
    the last of the others had ended.
    """

    killed: tuple[int, ...]
    workers: int
    others_ended: float | None = None


@dataclass(frozen=True)
class Pace:
    """Seconds until the first step, and of a step with its share of saving and validation."""

    start: float
    step: float


def undisturbed(launcher: Launcher, folder: Path, size: int) -> Pace:
    """A run that nobody disturbs."""
    begun = time.monotonic()
    group = Group(launcher, folder, size, "whole")
    group.wait(lambda: group.most(DONE) > 0)
    started = time.monotonic()
    finish(group)
    return Pace(started - begun, (time.monotonic() - started) / (EPOCHS * STEPS))


def finish(group: Group) -> None:
    """Raises RuntimeError where a process fails or hangs."""
    until(group.ended, 600)
    for rank in range(len(group.shared)):
        if group.status(rank) != 0:
            said = group.said(rank)[-2000:]
            group.kill(range(len(group.shared)))
            raise RuntimeError(f"process {rank} did not finish the run: {said}")


def wait_for_moment(group: Group, moment: Moment, pace: Pace, chance: random.Random, *, joined: bool) -> None:
    """Until a random moment, with ``joined`` after the processes have found one another."""
    first = group.shared[0]
    if moment == "writing":  # which the first process does
        for _ in range(chance.randrange(1, EPOCHS + 2)):  # which checkpoint
            group.wait(lambda: first.get(WRITING) == 0)
            group.wait(lambda: first.get(WRITING) == 1)
        time.sleep(chance.uniform(0, PIECES * PAUSE))
        return
    after = chance.randint(0, EPOCHS * STEPS)
    group.wait(lambda: group.most(DONE) >= after)
    if joined:
        group.wait(lambda: all(each.get(JOINED) for each in group.shared))
    time.sleep(chance.uniform(0, 2 * pace.step if after or joined else pace.start))


def complaint(group: Group, rank: int, folder: Path) -> str | None:
    """What is wrong with how a process ended that was not killed but lost another one."""
    status, said = group.status(rank), group.said(rank)
    lines = [line for line in said.splitlines() if line.strip()]
    if status is None:
        return f"process {rank} hangs: {lines[-3:]}"
    if status == 0:
        # Its work was done before the other was killed.
        done = group.shared[rank].get(DONE) == EPOCHS * STEPS and (folder / LAST).exists()
        return None if done else f"process {rank} ended with status 0"
    told = [line for line in lines if _MESSAGE.match(line)]
    if status not in (1, 2) or told != lines[-1:] or "Traceback" in said:
        return f"process {rank} ended with status {status} and more or less than one message: {lines[-30:]}"
    return None


def trial(
    launcher: Launcher, folder: Path, size: int, number: int, pace: Pace, chance: random.Random
) -> GroupOutcome:
    """Kill a run, or one process of it, and finish it."""
    moment: Moment = "writing" if number % 2 else "anywhere"
    killed = (chance.randrange(size),) if number // 2 % 2 else tuple(range(size))
    workers = chance.randrange(2)
    group = Group(launcher, folder, size, "killed", workers=workers, slowly=moment == "writing")
    wait_for_moment(group, moment, pace, chance, joined=len(killed) < size)
    writing = group.shared[0].get(WRITING) == 1
    differences = [f"process {rank} failed before the kill" for rank in range(size) if group.status(rank)]
    group.kill(killed)
    then = time.monotonic()
    until(group.ended, PATIENCE)
    took = time.monotonic() - then if len(killed) < size else None
    differences += filter(None, (complaint(group, r, folder) for r in range(size) if r not in killed))
    if not until(lambda: not any(map(group.alive, range(size))), PATIENCE):
        differences.append("a process is left")
        group.kill(range(size))
    again = Group(launcher, folder, size, "again")
    finish(again)
    differences += differences_from(folder.with_name("whole"), folder)
    steps, resumed = group.most(DONE), again.most(START)
    if steps - resumed > SAVE_EVERY:
        differences.append("more than an interval of saving is lost")
    return GroupOutcome(steps, writing, resumed, tuple(differences), killed, workers, took)


def trials(
    place: Path, size: int, kills: int, seed: int = 0, say: Callable[[str], None] = lambda line: None
) -> list[GroupOutcome]:
    """So many kills of a run of ``size`` processes, half of them of one process; of each half, half while saving.

    Raises RuntimeError where two runs that nobody disturbs differ: then there is nothing to compare with.
    """
    torch.set_num_threads(1)
    chance = random.Random(seed)
    training_folder(place / "data", (2 * size, 2))  # three steps an epoch
    outcomes = []
    with Launcher() as launcher:
        pace = undisturbed(launcher, place / "whole", size)
        undisturbed(launcher, place / "other", size)
        if differences := differences_from(place / "whole", place / "other"):
            raise RuntimeError(f"two undisturbed runs differ: {differences}")
        say("two undisturbed runs are equal to the last bit")
        for number in range(kills):
            folder = place / f"run{number}"
            outcomes.append(trial(launcher, folder, size, number, pace, chance))
            shutil.rmtree(folder)
            say(f"{number + 1}: {outcomes[-1]}")
    return outcomes


def report(outcomes: Sequence[GroupOutcome]) -> str:
    alone = [each for each in outcomes if each.others_ended is not None]
    told = f"one process was killed {len(alone)} times, the first one {sum(e.killed == (0,) for e in alone)} times"
    for workers, name in ((0, "without loading processes"), (1, "with one each")):
        took = [e.others_ended or 0.0 for e in alone if e.workers == workers]
        if took:
            told += f"; {name} the others had ended after {min(took):.2f} to {max(took):.2f} s"
    return told
