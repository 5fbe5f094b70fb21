"""Two real processes, joined by gloo over a file, that run a function of a test module."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from cgc.engine.processes import Processes

SIZE = 2


def in_two_processes(function: Callable[[Processes], Any], folder: Path) -> list[Any]:
    """What ``function`` returns in each (tensors, numbers, and lists and dictionaries of them), in order of rank."""
    torch.multiprocessing.spawn(_run, (function, str(folder)), nprocs=SIZE)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


def _run(rank: int, function: Callable[[Processes], Any], folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=SIZE, timeout=timedelta(seconds=60))
    try:
        torch.save(function(Processes(rank, SIZE)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
