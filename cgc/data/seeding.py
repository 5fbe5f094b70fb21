"""Seeds that are the same on every platform, and an order of items made of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

_WORD = (1 << 64) - 1


def mix_seed(*words: int) -> int:
    """A 63-bit seed from integers: each is added to the state, which then passes SplitMix64's finaliser.

    The same on every platform and version, unlike `hash`. Neighbouring inputs give unrelated seeds, also in
    the lower 32 bits, which are all that torch's CPU generator uses.

    >>> mix_seed(0, 0, 1) != mix_seed(0, 1, 0) != mix_seed(1, 0, 0)
    True
    """
    state = 0
    for word in words:
        state = (state + word + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state >> 1


class SeededSampler(Sampler[tuple[int, int]]):
    """Yields (index, item seed), where the item seed is `mix_seed(seed, epoch, index)`.

    The order of an epoch is a permutation seeded by (seed, epoch), or 0..n-1 without `shuffle`. `start` items
    of the current epoch are skipped, so a run stopped inside an epoch goes on with the batches it had left.
    `content` says in one word which items they are, where that is known: others would stand in other places.
    """

    def __init__(
        self, length: int, *, seed: int = 0, shuffle: bool = True, start: int = 0, content: str = ""
    ) -> None:
        self.length = length
        self.content = content
        self.seed = seed
        self.shuffle = shuffle
        self.set_epoch(0, start=start)

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        if not 0 <= start <= self.length:
            raise ValueError(f"cannot skip {start} of {self.length} items")
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return self.length - self.start

    @property
    def described(self) -> str:
        """What the order is one of, beside seed and epoch: a position in it means nothing in another one."""
        return f"{self.length} images" + (f" ({self.content})" if self.content else "")

    def permutation(self) -> Tensor:
        """(n,) the indices of the current epoch in their order, without regard to `start`."""
        if not self.shuffle:
            return torch.arange(self.length)
        # -1 is no item's index, so the order's seed is no item's seed.
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch, -1))
        return torch.randperm(self.length, generator=generator)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        seed, epoch = self.seed, self.epoch
        order = self.permutation()
        for first in range(self.start, self.length, 4096):  # a list of the whole epoch would be large
            for index in order[first : first + 4096].tolist():
                yield index, mix_seed(seed, epoch, index)
