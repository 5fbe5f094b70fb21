"""Training over several processes on one machine: throughput against one process's, and what travels between them.

Weak scaling on the CPU: every process has a batch of its own and one thread, and DistributedDataParallel averages the
gradients over gloo. Each number of processes is run with negatives gathered from all of them and with each process's
own; the bound is N times the throughput of one process. Beside it stands the time of the gradients' all-reduce alone.

    python3 benchmarks/scaling.py [--quick] [--processes 1 2 4]

More processes than cores cannot scale: then the benchmark shows what sharing costs, and says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cgc.engine.processes import Processes
from cgc.engine.runtime import keep_freed_memory
from cgc.engine.together import distributed
from cgc.gradcam import GradCAMModel
from cgc.methods.cgc import CGCMethod
from cgc.models.backbones import build_backbone
from cgc.models.weight_gradients import use_matrix_products
from cgc.spatial import SpatialTransform

CLASSES = 100
WAYS = ("local", "gathered")  # negatives


@dataclass(frozen=True)
class Setting:
    """The size of every process's share."""

    arch: str
    side: int
    batch: int
    steps: int


SETTING = Setting("resnet18", 64, 16, 8)
QUICK = Setting("resnet_tiny", 32, 4, 2)


def one_process(rank: int, size: int, setting: Setting, folder: str) -> None:
    """Take steps among ``size`` processes; the first one leaves the times in ``folder``."""
    torch.set_num_threads(1)
    keep_freed_memory()
    # A fresh file for every group: no port that another program might have taken.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        results = measure(Processes(rank, size), setting)
    finally:
        dist.destroy_process_group()
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")


def measure(processes: Processes, setting: Setting) -> dict[str, Any]:
    """Seconds per step for each kind of negatives (in turns), of the all-reduce alone, and bytes that it reduces."""
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(setting.arch, CLASSES)).train().to(memory_format=torch.channels_last)
    use_matrix_products(model)  # as training on the CPU does
    method = CGCMethod(model)
    method.across = processes if processes.size > 1 else None
    warnings.filterwarnings("ignore", message=".*broadcast_buffers")  # its successor is too new
    parallel = distributed(method, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    torch.manual_seed(processes.rank)
    shape = (setting.batch, 3, setting.side, setting.side)
    xe, query = (
        torch.randint(256, shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    labels = torch.randint(CLASSES, (setting.batch,))
    packed = SpatialTransform.sample(setting.batch, setting.side).pack()
    gradients = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))

    def step(way: str) -> None:
        method.gathered = way == "gathered"
        optimizer.zero_grad()
        parallel(xe, query, labels, packed)["loss"].mean().backward()
        optimizer.step()

    works: dict[str, Any] = {way: lambda way=way: step(way) for way in WAYS}
    works["all-reduce"] = lambda: dist.all_reduce(gradients)
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(setting.steps + 2):
        for name in works if turn % 2 == 0 else reversed(works):
            dist.barrier()
            # Until the last process is done: throughput is that of all of them.
            spent = torch.tensor([common.seconds(works[name])])
            dist.all_reduce(spent, dist.ReduceOp.MAX)
            if turn >= 2:
                times[name].append(float(spent))
    with torch.no_grad():
        maps = model(xe[:1].float())[1].shape[-2:]
    return {"times": times, "bytes": 4 * gradients.numel(), "cells": maps.numel()}


def run_group(size: int, setting: Setting) -> dict[str, Any]:
    """Start ``size`` processes and wait for their times."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(one_process, args=(size, setting, folder), nprocs=size, join=True)
        return torch.load(Path(folder) / "results.pt", weights_only=True)


def sent(size: int, setting: Setting, found: dict[str, Any], way: str) -> int:
    """Bytes that each process sends per step: the gradients' ring, and where negatives are gathered both maps of its
    images to all others, their transforms, and the maps' gradients back round the ring."""
    gradients = 2 * (size - 1) * found["bytes"] // size
    if way == "local":
        return gradients
    maps = 4 * 2 * found["cells"] * setting.batch
    return gradients + (size - 1) * (maps + 8 * 5 * setting.batch) + 2 * (size - 1) * maps


def report(size: int, setting: Setting, found: dict[str, Any], alone: dict[str, Any]) -> None:
    for way in WAYS:
        times = found["times"][way]
        rates = [size * setting.batch / seconds for seconds in times]
        single = setting.batch / statistics.median(alone["times"]["local"])
        share = statistics.median(rates) / (size * single)
        crowded = " (more processes than cores)" if size > common.cores() else ""
        megabytes = sent(size, setting, found, way) / 1e6
        print(
            f"  {size} x {way:<10}{common.spread(times)} per step  {statistics.median(rates):.1f} samples/s; "
            f"{share:.2f} of {size} x one process{crowded}; sends {megabytes:.2f} MB per step"
        )
    print(
        f"      all-reduce  {common.spread(found['times']['all-reduce'])} alone (the bound of what travels)"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, nargs="+", help="(default: 1 2 4; with --quick 1 2)")


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv, add_options)
    if options.device != "cpu":
        raise SystemExit("this benchmark runs on the CPU; for GPUs see benchmarks/cost_model.py")
    if options.cpu_time:
        raise SystemExit("error: --cpu-time: several processes also wait for one another, which must count")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes: more threads than cores wait for one another
    setting = QUICK if options.quick else SETTING
    rounds = options.repeats or (1 if options.quick else 3)
    print(f"{common.machine('cpu')}, gloo, one thread per process")
    print(f"{setting.arch}, {setting.side} px, batch {setting.batch} per process, {rounds} rounds")
    sizes = sorted({1, *(options.processes or ([1, 2] if options.quick else [1, 2, 4]))})
    if min(sizes) < 1:
        raise SystemExit("error: --processes must be positive")
    if max(sizes) > common.cores():
        print(f"{common.cores()} cores: more processes than that share them and cannot scale")
    found: dict[int, dict[str, Any]] = {}
    for _ in range(rounds):  # in turns, so that drift hits all alike
        for size in sizes:
            one = run_group(size, setting)
            if size in found:
                for name, times in one["times"].items():
                    found[size]["times"][name] += times
            else:
                found[size] = one
    for size in sizes:
        report(size, setting, found[size], found[1])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
