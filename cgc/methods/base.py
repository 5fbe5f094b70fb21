"""What a method is: a module from a batch's tensors to per-sample tensors, and the one that gives it these tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

NEAR_ZERO = 0.01  # a map counts as near zero below this share of the batch's mean map


class ViewBatch(Protocol):
    """Views of N images on the device, (N, 3, S, S) uint8, and their labels, (N,)."""

    @property
    def xe(self) -> Tensor | None: ...

    @property
    def query(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


class Across(Protocol):
    """The processes that share a batch: equal numbers of rows each, in order of rank."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Every process's rows; the gradient is summed over the processes (:mod:`cgc.engine.processes`)."""


class Method(nn.Module, ABC):
    """``forward`` may be split between replicas by samples: it takes and returns tensors with the batch first.

    Replicas of one process (DataParallel) work on their own share alone. Over several processes (``across`` is set)
    every process calls ``prepare`` and ``forward`` with its rows of the whole batch, as many as every other one, and
    takes the mean of its own losses; gradients averaged over the processes, as DDP does, are then those of one process
    with the whole batch, as long as batch norm is frozen or synchronised.
    """

    across: Across | None = None
    gathered: bool = (
        True  # negatives from all processes; else a process's own, as in the papers' DataParallel
    )

    @abstractmethod
    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Inputs of ``forward`` from a batch on the device.

        Everything that is drawn, and everything that needs the whole batch, happens here, outside of the replicas;
        ``generator`` is on the CPU and seeded by (seed of the run, epoch, step), alike on all processes.
        """

    def negatives(self, rows: int) -> int | None:
        """How many others each image is contrasted with where every process has ``rows`` images; None: no contrast."""
        return None

    def in_whole(self, n: int) -> tuple[int, slice]:
        """How many rows all processes have that have ``n`` each, and where this one's lie among them."""
        if self.across is None:
            return n, slice(0, n)
        return n * self.across.size, slice(n * self.across.rank, n * (self.across.rank + 1))

    def require(self, holds: bool, rule: str, value: object) -> None:
        """Raise ValueError for an argument that breaks its rule."""
        if not holds:
            raise ValueError(f"{type(self).__name__} needs {rule}, got {value!r}")


def near_zero(query_maps_Nhw: Tensor, second_maps_Nhw: Tensor) -> Tensor:
    """1.0 where either map's mean is below :data:`NEAR_ZERO` of the mean of all of them, else 0.0; shape (N,)."""
    means_2N = torch.stack([query_maps_Nhw.float().mean((1, 2)), second_maps_Nhw.float().mean((1, 2))])
    return (means_2N < NEAR_ZERO * means_2N.mean()).any(dim=0).float()
