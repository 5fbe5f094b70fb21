"""Batches shared by several processes: each reads its part of every batch of one order that all of them know.

So a step of several processes works on the very images on which one process would, whatever their number, and a run
can be stopped with some processes and continued with others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import Sampler

from cgc.data.seeding import SeededSampler
from cgc.errors import InputError


class ShareOfBatches(Sampler[tuple[int, int]]):
    """The items of process ``rank`` of ``size``: its part of every ``batch_size`` items of ``order``.

    Parts are equal: of a short last batch up to ``size`` - 1 items are left out, other ones in every epoch, since
    gradients and negatives are exchanged row by row. With ``uneven`` none is (validation).

    Raises InputError where a batch cannot be cut into equal parts.
    """

    def __init__(
        self, order: SeededSampler, batch_size: int, rank: int, size: int, *, uneven: bool = False
    ) -> None:
        if batch_size % size:
            below = batch_size - batch_size % size
            near = " or ".join(str(n) for n in (below, below + size) if n)
            raise InputError(f"-b {batch_size} cannot be shared equally by {size} processes; {near} can")
        self.order, self.batch_size, self.rank, self.size = order, batch_size, rank, size
        self.uneven = uneven

    def batches(self, items: int) -> int:
        """How many batches are made of so many items of the order."""
        full, rest = divmod(items, self.batch_size)
        return full + (rest > 0 if self.uneven else rest >= self.size)

    def __len__(self) -> int:
        full, rest = divmod(len(self.order), self.batch_size)
        first, last = self._part(rest)
        return full * (self.batch_size // self.size) + last - first

    def __iter__(self) -> Iterator[tuple[int, int]]:
        items = iter(self.order)
        while batch := list(islice(items, self.batch_size)):
            first, last = self._part(len(batch))
            yield from batch[first:last]

    def _part(self, items: int) -> tuple[int, int]:
        if not self.uneven:
            items -= items % self.size
        return items * self.rank // self.size, items * (self.rank + 1) // self.size


class BatchPlan(NamedTuple):
    """What a loader goes through: the order, images per step over all processes, steps of a whole epoch.

    `described` says of what a position in it is one, beside seed, epoch and batch size.
    """

    order: SeededSampler
    batch_size: int
    steps: int
    described: str


def plan_of(loader: Any) -> BatchPlan:
    """A loader's own ``plan``, or that of its ``sampler``: a SeededSampler or a process's share of one."""
    if isinstance(plan := getattr(loader, "plan", None), BatchPlan):
        return plan
    sampler, batch_size = loader.sampler, loader.batch_size
    if isinstance(sampler, ShareOfBatches):
        order = sampler.order
        return BatchPlan(order, sampler.batch_size, sampler.batches(order.length), order.described)
    assert isinstance(sampler, SeededSampler)
    assert batch_size is not None
    return BatchPlan(sampler, batch_size, -(-sampler.length // batch_size), sampler.described)
