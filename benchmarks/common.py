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

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the commands do, see cgc/commands/__init__.py

import torch


def parse_arguments(description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of every benchmark; sets the number of threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: checks that it runs, measures nothing"
    )
    parser.add_argument(
        "--repeats", type=int, help="measurements of each kind (default: as many as the goal asks)"
    )
    options = parser.parse_args(argv)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device here")
    if options.threads < 1 or (options.repeats is not None and options.repeats < 1):
        parser.error("--threads and --repeats must be positive")
    torch.set_num_threads(options.threads)
    return options


def machine(device: str) -> str:
    """One line: processor, threads, versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor
    return (
        f"{name}, {torch.get_num_threads()} CPU threads, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """Wall time of one call, including what it left queued on the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


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
