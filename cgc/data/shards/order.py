"""An order of samples that has few shards open at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from cgc.data.seeding import SeededSampler, mix_seed
from cgc.data.shards.ahead import AHEAD


class ShardSampler(SeededSampler):
    """A `SeededSampler` whose shuffled order goes through the shards, of which at most ``window`` are open at a time.

    The shards stand in a random order, and each one's samples are spread over the ``window`` places from its own on:
    a sample of the shard at place p gets the key p + window · u, u uniform in [0, 1), and the keys are sorted. Between
    the keys t and t + 1 only shards at places above t - window appear, so one is opened for one that is done with, and
    there are no borders at which many are needed at once. The order is a function of seed and epoch alone.

    ``window`` 0, or no fewer than there are shards: all samples are shuffled at once, as by `SeededSampler`.

    Args:
        shard_of: (n,) the shard of each sample.
        ahead: called, whenever the order comes to another shard, with the numbers of those that come next.
        content: as of `SeededSampler`; shards made anew hold the same samples in another order.
    """

    def __init__(
        self,
        shard_of: Tensor,
        *,
        window: int,
        seed: int = 0,
        shuffle: bool = True,
        start: int = 0,
        content: str = "",
        ahead: Callable[[list[int]], None] | None = None,
    ) -> None:
        if window < 0:
            raise ValueError(f"a window of {window} shards")
        # Some shards may have lost all samples.
        self._numbers, self._shard_of = torch.unique(shard_of, return_inverse=True)
        self.shards = int(self._shard_of.max()) + 1 if len(shard_of) else 0
        self.window, self.ahead = window, ahead
        super().__init__(len(shard_of), seed=seed, shuffle=shuffle, start=start, content=content)

    @property
    def described(self) -> str:
        plain = super().described
        return f"{plain}, {self.window} shards at a time" if 0 < self.window < self.shards else plain

    def __iter__(self) -> Iterator[tuple[int, int]]:
        items = super().__iter__()
        return items if self.ahead is None else self._announcing(items, self.ahead)

    def _announcing(
        self, items: Iterator[tuple[int, int]], ahead: Callable[[list[int]], None]
    ) -> Iterator[tuple[int, int]]:
        shards = self._shard_of[self.permutation()[self.start :]].tolist()
        places = {shard: place for place, shard in enumerate(dict.fromkeys(shards))}
        numbers = self._numbers[list(places)].tolist()
        reached = -1
        for item, shard in zip(items, shards, strict=True):
            if places[shard] > reached:
                reached = places[shard]
                ahead(numbers[reached + 1 : reached + 1 + AHEAD])
            yield item

    def permutation(self) -> Tensor:
        """(n,) the samples of the current epoch in their order, without regard to `start`."""
        if not self.shuffle or not 0 < self.window < self.shards:
            return super().permutation()
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch, -1))
        places = torch.randperm(self.shards, generator=generator)
        spread = torch.rand(self.length, generator=generator, dtype=torch.float64)
        return torch.argsort(places[self._shard_of] + self.window * spread, stable=True)
