"""Maps that know nothing of the image: a localisation score means something only beside theirs."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def uniform_map(image_size: tuple[int, int]) -> Tensor:
    """(H, W) of equal values that sum to 1: its Content Heatmap is the region's share of the image's area."""
    height, width = image_size
    return torch.full((height, width), 1.0 / (height * width))


# The photographs of a set share few sizes; a handful of maps is all that stays in memory.
@lru_cache(maxsize=16)
def centre_gaussian_map(image_size: tuple[int, int]) -> Tensor:
    """(H, W) Gaussian on the centre, σ = a quarter of each side, sums to 1; cached, so do not write to it."""
    profiles = []
    for side in image_size:
        offsets = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        profile = torch.exp(-0.5 * (offsets / (side / 4)) ** 2)
        profiles.append(profile / profile.sum())
    return torch.outer(*profiles).float()


def random_map(grid: tuple[int, int], seed: int) -> Tensor:
    """(h, w) of independent uniform values in [0, 1): a function of `seed` and `grid` alone.

    Drawn on a grid and resized like a model's map, so that it is as coarse as one.
    """
    return torch.rand(grid, generator=torch.Generator().manual_seed(seed))
