"""Timing, statistics and the description of the machine, shared by the benchmarks.

Importing this module makes the repository importable: ``python3 benchmarks/step.py`` needs no installation.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torchvision

from cgc.engine.runtime import keep_freed_memory


class Clock:
    """What times are read from: see ``--cpu-time``."""

    read: Callable[[], float] = staticmethod(time.perf_counter)

    @classmethod
    def of_this_process(cls, alone: bool) -> None:
        """CPU time of this process alone, or the time that passes."""
        cls.read = staticmethod(time.process_time if alone else time.perf_counter)

    @classmethod
    def is_of_this_process(cls) -> bool:
        return cls.read is time.process_time


def parse_arguments(
    description: str | None,
    argv: Sequence[str] | None,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """The options of every benchmark, and those that ``add_options`` adds; sets the number of threads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: checks that it runs, measures nothing"
    )
    parser.add_argument(
        "--repeats", type=int, help="measurements of each kind (default: as many as the goal asks)"
    )
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU time of the process in place of the time that passes: for a busy machine, with --threads 1",
    )
    options = parser.parse_args(argv)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if options.threads < 1 or (options.repeats is not None and options.repeats < 1):
        parser.error("--threads and --repeats must be positive")
    if options.cpu_time and (options.threads != 1 or options.device != "cpu"):
        parser.error("--cpu-time needs --threads 1 and the CPU")
    Clock.of_this_process(options.cpu_time)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the commands do
    return options


def machine(device: str) -> str:
    """One line: processor, threads, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    clock = "CPU time, " if Clock.is_of_this_process() else ""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor
    return (
        f"{name}, {clock}{torch.get_num_threads()} CPU threads on {cores()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    )


def cores() -> int:
    """CPU cores that this process may use."""
    available = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(available(0)) if available else os.cpu_count() or 1


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall time of one call, including what it left queued on the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    start = Clock.read()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    passed = Clock.read() - start
    return getattr(work, "seconds", passed)  # of another process, what it measured


def interleaved(
    works: dict[str, Callable[[], object]], repeats: int, device: str = "cpu", warmup: int = 2
) -> dict[str, list[float]]:
    """Times of each work, in turns (reversed every other turn) so that drift hits all alike."""
    for _ in range(warmup):
        for work in works.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats):
        names = list(works) if turn % 2 == 0 else list(works)[::-1]
        for name in names:
            times[name].append(seconds(works[name], device))
    return times


def ratio_line(
    name: str, numerator: Sequence[float], denominator: Sequence[float], bound: float | None = None
) -> str:
    """``CGC over cross-entropy: 1.01 (goal: at most 1.03: holds), 95 % interval [1.00, 1.02]``."""
    ratio, low, high = ratio_interval(numerator, denominator)
    said = f"{ratio:.3g}" if bound is None else verdict(ratio, bound)
    return f"  {name}: {said}, 95 % interval [{low:.3f}, {high:.3f}]"


def peak_cuda_bytes(work: Callable[[], object], device: str) -> int:
    """Most memory that tensors took on the GPU during one call, what lay there before included."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def failure(work: Callable[[], object]) -> str | None:
    """Why a form cannot run here (memory, no compiler), found by running it once; its first run warms it up."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
    return None


def gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def spread(times: Sequence[float]) -> str:
    """Median with quartiles, in milliseconds."""
    low, middle, high = quartiles(times)
    return f"{1e3 * middle:9.2f} ms  [{1e3 * low:.2f}, {1e3 * high:.2f}]"


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile; of one value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Median of the paired ratios and its 95 % bootstrap interval: (median, low, high)."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    generator = random.Random(seed)
    medians = sorted(statistics.median(generator.choices(ratios, k=len(ratios))) for _ in range(draws))
    return statistics.median(ratios), medians[int(0.025 * draws)], medians[int(0.975 * draws) - 1]


def verdict(value: float, bound: float, *, at_most: bool = True) -> str:
    """``1.01 (goal: at most 1.03: holds)``."""
    holds = value <= bound if at_most else value >= bound
    return (
        f"{value:.3g} (goal: at {'most' if at_most else 'least'} {bound:g}: {'holds' if holds else 'MISSED'})"
    )
