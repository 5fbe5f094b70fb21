"""A small training that is killed again and again, and what is left of it.

Each trial starts a run in a process of its own, ends it by SIGKILL at a random moment, lets `--resume auto` finish it
in another process, and compares the last and the best checkpoint with those of a run nobody disturbed: weights,
momentum, schedule and random states to the last bit. Of every second trial the kill falls inside the writing of a
checkpoint, which is slowed down on purpose. With --processes the run is one of several processes, of which all or one
are killed (see kill_processes.py).

    python -m tests.reliability.kills --kills 100
    python -m tests.reliability.kills --kills 100 --processes 2
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cgc.commands.options import positive_int
from cgc.commands.train import main
from tests.commands.runs import training_folder
from tests.reliability import kill_processes
from tests.reliability.killed import (
    DONE,
    EPOCHS,
    OPTIONS,
    PAUSE,
    PIECES,
    START,
    STEPS,
    WRITING,
    Moment,
    Outcome,
    Shared,
    differences_from,
    report,
    slow_down,
    watch,
)


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
        watch(shared)
        if slowly:
            slow_down(shared)
        # Of 12 images in batches of 5 the last one is short.
        status = main([str(data), *OPTIONS, "-j", "0", "-b", "5", "--save_dir", str(folder)])
    finally:
        os._exit(status)


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
        time.sleep(chance.uniform(0, PIECES * PAUSE))
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
    differences = differences_from(whole, folder)
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


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--kills", type=positive_int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=positive_int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place, chosen = Path(scratch), (options.kills, options.seed, _say)
        if options.processes > 1:
            several = kill_processes.trials(place, options.processes, *chosen)
            print(report(several), kill_processes.report(several), sep="; ")
            found: list[Outcome] = [*several]
        else:
            found = trials(place, *chosen)
            print(report(found))
    sys.exit(any(each.differences for each in found))
