"""Files from strangers, changed at random: whatever stands in them, a reader gives a value or its documented error.

Input k of a target is a function of the seed, the target and k, so that a failure can be had again by its number.
While a reader works, nothing outside its folder may be opened, no program started, no connection made; an input may
take ten seconds, and 4 GiB beside what the program has.

python -m tests.reliability.fuzz --inputs 100000
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from ctypes import c_int64
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.reliability import fuzz_annotations, fuzz_data, fuzz_files
from tests.reliability.fuzz_changes import TARGETS, Target, mutated
from tests.reliability.fuzz_watch import try_input

__all__ = ["TARGETS", "fuzz_annotations", "fuzz_data", "fuzz_files"]  # the latter fill the first

SILENT = 60  # seconds without an input done, after which a library is taken to hang
MEMORY = 4 << 30  # bytes beside what the program has
_AT_ONCE = 5000  # inputs for a process
_MOST_FAILURES = 20  # of a target that are kept


@dataclass
class Failure:
    """Input ``number`` of a target, and what came out."""

    number: int
    what: str
    data: bytes


@dataclass
class Outcome:
    """What became of the inputs of one target."""

    accepted: int = 0
    refused: int = 0
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def inputs(self) -> int:
        return self.accepted + self.refused + self.failed

    def joined(self, other: Outcome) -> Outcome:
        """Both together."""
        kept = [*self.failures, *other.failures][:_MOST_FAILURES]
        counts = (self.accepted + other.accepted, self.refused + other.refused, self.failed + other.failed)
        return Outcome(*counts, kept, self.seconds + other.seconds)

    def add(self, failure: Failure) -> None:
        self.failed += 1
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(failure)


def run_target(target: Target, inputs: range, seed: int, folder: Path, at: c_int64 | None = None) -> Outcome:
    """Try these inputs. ``at`` is told which input is tried."""
    (folder / "seeds").mkdir(parents=True, exist_ok=True)
    (folder / "tried").mkdir(exist_ok=True)
    seeds = target.seeds(folder / "seeds")
    outcome, began = Outcome(), time.monotonic()
    for number in inputs:
        if at is not None:
            at.value = number
        data = mutated(target, seeds, seed, number)
        accepted, wrong, said = try_input(target, folder / "tried", data)
        if wrong is not None:
            outcome.add(Failure(number, wrong, data))
        elif number < len(seeds) and not accepted:
            outcome.add(Failure(number, f"a valid file was refused: {said}", data))
        else:
            outcome.accepted += accepted
            outcome.refused += not accepted
    outcome.seconds = time.monotonic() - began
    return outcome


def in_process(target: Target, inputs: range, seed: int) -> Outcome:
    """:func:`run_target` in a process of its own, with a limit of memory; if that dies or hangs, it was the input."""
    context = multiprocessing.get_context("fork")
    at = context.Value("q", inputs.start, lock=False)
    mine, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        child = context.Process(target=_child, args=(target, inputs, seed, Path(folder), at, theirs))
        child.start()
        theirs.close()
        outcome, hangs = _waited_for(mine, at)
        if hangs:
            child.kill()
        child.join()
    if outcome is not None:
        return outcome
    culprit = at.value
    before = in_process(target, range(inputs.start, culprit), seed) if culprit > inputs.start else Outcome()
    what = f"a library hangs for {SILENT} seconds" if hangs else f"the process died ({child.exitcode})"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        before.add(Failure(culprit, what, mutated(target, target.seeds(Path(place)), seed, culprit)))
    return before.joined(in_process(target, range(culprit + 1, inputs.stop), seed))


def _child(target: Target, inputs: range, seed: int, folder: Path, at: c_int64, answer: Connection) -> None:
    limit()
    silence = os.open(os.devnull, os.O_WRONLY)  # libraries write of damage to the error stream
    os.dup2(silence, 2)
    answer.send(run_target(target, inputs, seed, folder, at))


def limit() -> None:
    """One thread, as a forked process has none of the others, and a limit of memory."""
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def _waited_for(answer: Connection, at: c_int64) -> tuple[Outcome | None, bool]:
    """The outcome, None from a process that died; and whether it hangs."""
    last, since = at.value, time.monotonic()
    while not answer.poll(0.2):
        if at.value != last:
            last, since = at.value, time.monotonic()
        if time.monotonic() - since > SILENT:
            return None, True
    try:
        return answer.recv(), False
    except EOFError:
        return None, False


def keep(failures: list[Failure], folder: Path, name: str) -> None:
    """Write down the inputs that failed, and say what came out."""
    for failure in failures:
        path = folder / f"{name}-{failure.number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(failure.data)
        print(f"  {path}: {failure.what}", flush=True)


def common_options(says: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every search."""
    parser = argparse.ArgumentParser(description=(says or "").split("\n\n")[0])
    add = parser.add_argument
    add("--inputs", type=int, default=1000, help="for each target (1000)")
    add("--target", choices=sorted(TARGETS), action="append", help="one or several (all)")
    add("--seed", type=int, default=0, help="(0)")
    add(
        "--save", type=Path, default=Path("fuzz-failures"), help="where failing inputs are kept (%(default)s)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = common_options(__doc__)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first input, to have one again (0)"
    )
    options = parser.parse_args(argv)
    names = options.target or list(TARGETS)
    failed = 0
    print(
        f"{'target':22}{'inputs':>9}{'accepted':>10}{'refused':>9}{'failed':>8}{'inputs/s':>10}", flush=True
    )
    for name in names:
        found, last = Outcome(), options.first + options.inputs
        for start in range(options.first, last, _AT_ONCE):
            found = found.joined(
                in_process(TARGETS[name], range(start, min(start + _AT_ONCE, last)), options.seed)
            )
        rate = found.inputs / max(found.seconds, 1e-9)
        counts = f"{found.inputs:9}{found.accepted:10}{found.refused:9}{found.failed:8}{rate:10.0f}"
        print(f"{name:22}{counts}", flush=True)
        keep(found.failures, options.save, f"{name}-{options.seed}")
        failed += found.failed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
