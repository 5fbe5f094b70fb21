"""Files from strangers, changed at random: whatever stands in them, a reader gives a value or its documented error.

Input k of a target is a function of the seed, the target and k, so that a failure can be had again by its number.
While a reader works, nothing outside its folder may be opened, no program started, no connection made; an input may
take ten seconds, and 4 GiB beside what the program has.

python -m tests.reliability.fuzz --inputs 100000
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from ctypes import c_int64
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from tests.reliability.fuzz_changes import Target, mutated
from tests.reliability.fuzz_targets import TARGETS

SECONDS = 10  # for an input
_SILENT = 60  # seconds without an input done, after which a library is taken to hang
_MEMORY = 4 << 30  # bytes beside what the program has
_AT_ONCE = 5000  # inputs for a process
_MOST_FAILURES = 20  # of a target that are kept
_OPENED = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree")
_STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.getaddrinfo")
# What Python itself may read while a reader works: modules imported late, and what the system tells of the machine.
_PYTHON_S = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, Path(__file__).parents[2])))
_OTHERS = (*_PYTHON_S, sys.prefix, "/usr/lib", "/usr/share/zoneinfo", "/proc", "/sys", "/dev")

_guarded: list[str] = []  # the folder that may be touched now
_hooked: list[bool] = []


class TooSlow(BaseException):
    """No ``Exception``: a reader that catches those must not catch this."""


class Effect(BaseException):
    """Something was opened, started or asked that no reader needs."""


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


def try_input(target: Target, folder: Path, data: bytes) -> tuple[bool, str | None]:
    """Whether the reader took it, and what is wrong if another thing came out than a value or a documented error."""
    try:
        with _guard(folder), _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.call(folder, data)
    except target.allowed as error:
        said = str(error)
        return False, f"a message of several lines: {said!r:.200}" if "\n" in said else None
    except (Exception, TooSlow, Effect) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return False, f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
    return True, None


def run_target(
    target: Target, inputs: range, seed: int, folder: Path, at: c_int64 | None = None
) -> Outcome:
    """Try these inputs. ``at`` is told which input is tried."""
    (folder / "seeds").mkdir(parents=True, exist_ok=True)
    (folder / "tried").mkdir(exist_ok=True)
    seeds = target.seeds(folder / "seeds")
    outcome, began = Outcome(), time.monotonic()
    for number in inputs:
        if at is not None:
            at.value = number
        data = mutated(target, seeds, seed, number)
        accepted, wrong = try_input(target, folder / "tried", data)
        if wrong is not None:
            outcome.add(Failure(number, wrong, data))
        elif number < len(seeds) and not accepted:
            outcome.add(Failure(number, "a valid file was refused", data))
        else:
            outcome.accepted += accepted
            outcome.refused += not accepted
    outcome.seconds = time.monotonic() - began
    return outcome


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked.append(True)
    _guarded.append(os.path.realpath(folder))
    try:
        yield
    finally:
        _guarded.pop()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guarded:
        return
    if event in _STARTED:
        raise Effect(f"{event} {arguments!r:.100}")
    if event in _OPENED and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        writes = event not in ("open", "os.listdir", "os.scandir") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        allowed = (_guarded[-1], *(("/dev/null",) if writes else _OTHERS))
        if not any(path == place or path.startswith(f"{place}/") for place in allowed):
            raise Effect(f"{event} {path!r:.150}")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_process(target: Target, inputs: range, seed: int) -> Outcome:
    """:func:`run_target` in a process of its own with a limit of memory; if that dies or hangs, an input is to blame."""
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
    what = f"a library hangs for {_SILENT} seconds" if hangs else f"the process died ({child.exitcode})"
    before.add(Failure(culprit, what, b""))
    return before.joined(in_process(target, range(culprit + 1, inputs.stop), seed))


def _child(target: Target, inputs: range, seed: int, folder: Path, at: c_int64, answer: Connection) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, resource.RLIM_INFINITY))
    silence = os.open(os.devnull, os.O_WRONLY)  # libraries write of damage to the error stream
    os.dup2(silence, 2)
    answer.send(run_target(target, inputs, seed, folder, at))


def _waited_for(answer: Connection, at: c_int64) -> tuple[Outcome | None, bool]:
    """The outcome, None from a process that died; and whether it hangs."""
    last, since = at.value, time.monotonic()
    while not answer.poll(0.2):
        if at.value != last:
            last, since = at.value, time.monotonic()
        if time.monotonic() - since > _SILENT:
            return None, True
    try:
        return answer.recv(), False
    except EOFError:
        return None, False


def guided(target: Target, inputs: int, seed: int) -> None:
    """The same reader under atheris, which looks for inputs that reach new lines of it; it ends at the first failure."""
    try:
        import atheris
    except ImportError as error:
        raise SystemExit("--atheris needs the package atheris: pip install atheris") from error
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        for name in ("seeds", "tried", "corpus"):
            (folder / name).mkdir()
        for number, data in enumerate(target.seeds(folder / "seeds")):
            (folder / "corpus" / str(number)).write_bytes(data)

        def once(data: bytes) -> None:
            _, wrong = try_input(target, folder / "tried", data)
            if wrong is not None:
                raise RuntimeError(wrong)

        atheris.instrument_all()
        atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-seed={seed + 1}", str(folder / "corpus")], once)
        atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--inputs", type=int, default=1000, help="for each target (1000)")
    add("--target", choices=sorted(TARGETS), action="append", help="one or several (all)")
    add("--seed", type=int, default=0, help="(0)")
    add("--first", type=int, default=0, help="number of the first input, to have one again (0)")
    add("--save", type=Path, default=Path("fuzz-failures"), help="where inputs that fail are kept (%(default)s)")
    add("--atheris", action="store_true", help="guided by coverage, one target")
    options = parser.parse_args(argv)
    names = options.target or list(TARGETS)
    if options.atheris:
        guided(TARGETS[names[0]], options.inputs, options.seed)
        return 0
    failed = 0
    print(f"{'target':22}{'inputs':>9}{'accepted':>10}{'refused':>9}{'failed':>8}{'inputs/s':>10}", flush=True)
    for name in names:
        found, last = Outcome(), options.first + options.inputs
        for start in range(options.first, last, _AT_ONCE):
            found = found.joined(in_process(TARGETS[name], range(start, min(start + _AT_ONCE, last)), options.seed))
        rate = found.inputs / max(found.seconds, 1e-9)
        counts = f"{found.inputs:9}{found.accepted:10}{found.refused:9}{found.failed:8}{rate:10.0f}"
        print(f"{name:22}{counts}", flush=True)
        for failure in found.failures:
            path = options.save / f"{name}-{options.seed}-{failure.number}".replace(" ", "-")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(failure.data)
            print(f"  {path}: {failure.what}", flush=True)
        failed += found.failed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
