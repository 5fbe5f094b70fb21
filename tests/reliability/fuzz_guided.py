"""The search of `fuzz`, guided by coverage: inputs that reach something new are kept and changed further.

The engine is libFuzzer by way of Google's atheris, an optional tool for Linux and macOS that nothing else here needs:
`python -m pip install atheris`. It counts the jumps between pieces of bytecode ("edges") in the project's own modules
and in those parts of libraries that are written in Python and read a target's files. Half of the changes are those of
`fuzz_changes`, the others are libFuzzer's, which tries the values that the code compares with. What an input may do,
and how much time and memory it has, is the same as in `fuzz`.

python -m tests.reliability.fuzz_guided --target coco --inputs 100000
"""

from __future__ import annotations

import argparse
import gc
import mmap
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

from tests.reliability import fuzz
from tests.reliability.fuzz import TARGETS, Failure, Outcome, common_options, keep, limit
from tests.reliability.fuzz_changes import LONGEST, Target, mutated
from tests.reliability.fuzz_watch import try_input

_FORK = multiprocessing.get_context("fork")
_PROJECT = ("cgc",)
_PILLOW, _ARRAYS = ("PIL",), ("numpy.lib.format", "numpy.lib._format_impl", "zipfile")
_LIBRARIES = {
    "images": _PILLOW,
    "heatmaps": (*_PILLOW, *_ARRAYS),
    "negatives": _ARRAYS,
    "config": ("argparse",),
    "unrel-mat": ("scipy.io",),
    "checkpoints": ("torch.serialization", "torch._weights_only_unpickler", "pickletools", "zipfile"),
}
_OF_A_KIND, _KINDS = 3, 20  # failures that are kept: alike, and kinds
_DEATHS = 20  # of processes, after which a target is given up
_FLAGS = (
    *(
        "-rss_limit_mb=0",
        "-malloc_limit_mb=0",
        "-timeout=86400",
        "-detect_leaks=0",
    ),  # `fuzz` has its own limits
    *("-handle_segv=0", "-handle_bus=0", "-handle_abrt=0", "-handle_ill=0", "-handle_fpe=0"),
    *(f"-max_len={LONGEST}", "-len_control=0", "-mutate_depth=2"),  # a change of ours is several
    "-close_fd_mask=2",  # libraries write of damage to the error stream
)
_STATE = re.compile(r"^#\d+\s+(\w+) +cov: (\d+) .*?corp: (\d+)", re.MULTILINE)


@dataclass
class Guided(Outcome):
    """What became of a target's inputs, and how many edges the seeds and all inputs reached.

    The seeds are those of the target and what its corpus held before.
    """

    seeds_edges: int = 0
    edges: int = 0
    kept: int = 0  # inputs, each for something new

    def read(self, log: str) -> None:
        """What libFuzzer says."""
        for when, edges, kept in _STATE.findall(log):
            if when == "INITED" and not self.seeds_edges:
                self.seeds_edges = int(edges)
            self.edges, self.kept = max(self.edges, int(edges)), int(kept)


class _Shared:
    """What a process tells of itself even if it is killed: counts, and the input that it tries."""

    def __init__(self) -> None:
        counts = (_FORK.Value("q", 0, lock=False) for _ in range(5))
        self.tried, self.accepted, self.refused, self.failed, self._length = counts
        self._data = mmap.mmap(-1, LONGEST)

    def put(self, data: bytes) -> None:
        self._length.value = len(data)
        self._data[: len(data)] = data
        self.tried.value += 1

    @property
    def data(self) -> bytes:
        return self._data[: self._length.value]


def follow(modules: tuple[str, ...]) -> None:
    """Have the edges counted in all functions that these modules have by now, unless they are already."""
    import atheris

    for each in [each for each in gc.get_objects() if type(each) is FunctionType]:
        if f"{each.__module__}.".startswith(tuple(f"{name}." for name in modules)):
            atheris.instrument_func(each)


def guided(
    target: Target, inputs: int, seed: int, corpus: Path, modules: tuple[str, ...] = (), seconds: int = 0
) -> Guided:
    """Search in processes of their own: libFuzzer ends its process, and so may an input.

    Edges are counted in the target's own function and in ``modules``. Inputs in ``corpus`` are taken as further seeds,
    and new ones are kept there. ``seconds``: of every process, at most; 0: any number.
    """
    found, began = Guided(), time.monotonic()
    for turn in range(_DEATHS):
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            place, shared = Path(folder), _Shared()
            flags = [*_FLAGS, f"-artifact_prefix={folder}/", f"-seed={seed + turn + 1}"]
            flags += [f"-runs={max(0, inputs - found.inputs)}", f"-max_total_time={seconds}", str(corpus)]
            died = _searched(found, (target, flags, modules, place, shared), shared)
            log = (place / "log").read_text(errors="replace")
        found.accepted += shared.accepted.value
        found.refused += shared.refused.value
        found.failed += shared.failed.value
        if not shared.tried.value:
            raise RuntimeError(f"the search did not begin: {died}: {log[-2000:]}")
        found.read(log)
        if died is None and "\nDone " in log:
            break
        found.add(Failure(found.inputs, died or "the process ended by itself", shared.data))
    found.seconds = time.monotonic() - began
    return found


def _searched(found: Guided, arguments: tuple[Any, ...], shared: _Shared) -> str | None:
    """One process; its failures go to ``found``. What an input did to it, if it did not come to its end."""
    mine, theirs = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_child, args=(*arguments, theirs))
    child.start()
    theirs.close()
    hangs = not _waited_for(mine, shared, found)
    if hangs:
        child.kill()
    child.join()
    if hangs:
        return f"a library hangs for {fuzz.SILENT} seconds"
    return f"the process died ({child.exitcode})" if child.exitcode else None


def _waited_for(answer: Connection, shared: _Shared, found: Guided) -> bool:
    """Gather failures until the process has ended; False if it hangs."""
    last, since = 0, time.monotonic()
    while True:
        try:
            while answer.poll(0.2):
                failure = answer.recv()
                failure.number += found.inputs  # of the processes before
                found.failures.append(failure)
        except EOFError:
            return True
        if (tried := shared.tried.value) != last or last == 0:  # at first, modules are prepared
            last, since = tried, time.monotonic()
        if time.monotonic() - since > fuzz.SILENT:
            return False


def _child(
    target: Target,
    flags: list[str],
    modules: tuple[str, ...],
    place: Path,
    shared: _Shared,
    answer: Connection,
) -> NoReturn:
    os.dup2(os.open(place / "log", os.O_WRONLY | os.O_CREAT), 2)
    limit()
    import atheris

    for name in ("seeds", "tried", "first"):
        (place / name).mkdir()
    seeds = target.seeds(place / "seeds")
    for number, data in enumerate(seeds):
        (place / "first" / f"{number:03d}").write_bytes(data)
        try_input(target, place / "tried", data)  # loads what is loaded late
    follow(modules)
    if isinstance(target.call, FunctionType):
        atheris.instrument_func(target.call)
    trial = _Trial(target, place / "tried", frozenset(seeds), shared, answer)

    def change(data: bytes, most: int, number: int) -> bytes:
        return changed(target, seeds, atheris.Mutate, data, most, number)

    atheris.Setup([sys.argv[0], *flags, str(place / "first")], trial, custom_mutator=change)
    atheris.Fuzz()
    raise SystemExit  # not reached


class _Trial:
    """What is done with an input."""

    def __init__(
        self, target: Target, folder: Path, seeds: frozenset[bytes], shared: _Shared, answer: Connection
    ) -> None:
        self._target, self._folder, self._seeds = target, folder, seeds
        self._shared, self._answer = shared, answer
        self._seen: dict[str, int] = {}

    def __call__(self, data: bytes) -> int:
        """-1 for an input that shall not be changed further."""
        self._shared.put(data)
        accepted, wrong, said = try_input(self._target, self._folder, data)
        if wrong is None and data in self._seeds and not accepted:
            wrong = f"a valid file was refused: {said}"
        if wrong is None:
            self._shared.accepted.value += accepted
            self._shared.refused.value += not accepted
            return 0
        self._shared.failed.value += 1
        kind = wrong.partition(":")[0] + wrong.rpartition("(")[2]  # the error and the line
        self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._seen[kind] <= _OF_A_KIND and len(self._seen) <= _KINDS:
            self._answer.send(Failure(self._shared.tried.value, wrong, data))
        return -1


def changed(target: Target, seeds: list[bytes], plain: Any, data: bytes, most: int, number: int) -> bytes:
    """An input changed once more, by libFuzzer's ``plain`` or by the changes of `fuzz`; checksums put right in half."""
    chance = random.Random(number)
    if chance.random() < 0.5:
        return mutated(target, [data, data, data, chance.choice(seeds)], number, 4)[:most]
    other = bytes(plain(data, most))
    return target.repair(other)[:most] if target.repair is not None and chance.random() < 0.5 else other


def _again(target: Target, paths: list[Path]) -> int:
    """Try inputs that were kept."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target.seeds(Path(folder))
        for path in paths:
            accepted, wrong, said = try_input(target, Path(folder), path.read_bytes())
            print(f"{path}: {wrong or ('accepted' if accepted else f'refused: {said}')}", flush=True)
            failed += wrong is not None
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = common_options(__doc__)
    add = parser.add_argument
    add("--seconds", type=int, default=0, help="for each target, at most (0: any number)")
    add(
        "--corpus",
        type=Path,
        help="where inputs that reach something new are kept, and taken up again (nowhere)",
    )
    add("--again", type=Path, nargs="+", metavar="FILE", help="only try these inputs of one target")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    names = options.target or list(TARGETS)
    if options.again:
        if len(names) != 1 or not all(path.is_file() for path in options.again):
            parser.error("--again needs one --target and files that exist")
        return _again(TARGETS[names[0]], options.again)
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("fuzz_guided needs atheris: python -m pip install atheris", file=sys.stderr)
        return 2
    follow(_PROJECT)  # once for all targets; what these load late follows in their processes
    heads = (("inputs", 9), ("accepted", 10), ("refused", 9), ("failed", 8), ("edges", 15), ("kept", 6))
    print(f"{'target':22}" + "".join(f"{head:>{width}}" for head, width in heads) + "  inputs/s", flush=True)
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            corpus = (options.corpus or Path(folder)) / name
            corpus.mkdir(parents=True, exist_ok=True)
            modules = (*_PROJECT, *_LIBRARIES.get(name, ()))
            found = guided(TARGETS[name], options.inputs, options.seed, corpus, modules, options.seconds)
        counts = f"{found.inputs:9}{found.accepted:10}{found.refused:9}{found.failed:8}"
        edges = f"{found.seeds_edges} -> {found.edges}"
        rate = found.inputs / found.seconds
        print(f"{name:22}{counts}{edges:>15}{found.kept:6}{rate:10.0f}", flush=True)
        keep(found.failures, options.save, f"{name}-guided-{options.seed}")
        failed += found.failed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
