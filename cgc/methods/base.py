"""What a method is: a module from a batch's tensors to per-sample tensors, and the one that gives it these tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class ViewBatch(Protocol):
    """Views of N images on the device, (N, 3, S, S) uint8, and their labels, (N,)."""

    @property
    def xe(self) -> Tensor | None: ...

    @property
    def query(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


class Method(nn.Module, ABC):
    """``forward`` may be split between replicas by samples: it takes and returns tensors with the batch first."""

    @abstractmethod
    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Inputs of ``forward`` from a batch on the device.

        Everything that is drawn, and everything that needs the whole batch, happens here, outside of the replicas;
        ``generator`` is on the CPU and seeded by (seed of the run, epoch, step).
        """
