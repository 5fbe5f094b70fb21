"""Content Heatmap: how much of a heatmap lies on the object. Shapes and regions: ``cgc.metrics.maps``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchmetrics
from torch import Tensor

from cgc.metrics.maps import Region, full_size_map, is_zero_map, mass_inside, region_mask


def content_heatmap(map_hw: Tensor, region: Region, image_size: tuple[int, int]) -> float:
    """Share of the map's mass inside the region, in [0, 1] (Content Heatmap; GC, AAAI 2021, and CGC, CVPR
    2022).

    The map is resized bilinearly to the image and normalised to sum 1. A map of zeros scores as a uniform
    one: callers decide what to do with those.

    Args:
        map_hw: (h, w), non-negative, raw or normalised.
        region: boxes (B, 4) x0 y0 x1 y1, 0-based and inclusive (their union counts), or a bool mask (H, W).
        image_size: (height, width) of the original image.

    Raises:
        ValueError: see ``full_size_map`` and ``region_mask``.

    >>> round(content_heatmap(torch.ones(2, 2), torch.tensor([[0, 0, 4, 9]]), (10, 10)), 6)
    0.5
    """
    return mass_inside(full_size_map(map_hw, image_size), region_mask(region, image_size))


class ContentHeatmap(torchmetrics.Metric):
    """Mean of ``content_heatmap`` over images; maps of zeros are left out and counted unless told otherwise.

    ``zero_maps``: "skip" (default) or "uniform" (they count as uniform maps, as in the released code).
    """

    full_state_update = False
    total: Tensor
    count: Tensor
    zero_count: Tensor

    def __init__(self, zero_maps: str = "skip") -> None:
        super().__init__()
        if zero_maps not in ("skip", "uniform"):
            raise ValueError(f"zero_maps must be 'skip' or 'uniform', not {zero_maps!r}")
        self.zero_maps = zero_maps
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("zero_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, regions: Sequence[Region], image_sizes: Sequence[tuple[int, int]]) -> None:
        """Maps (N, h, w) with N regions and N (height, width)."""
        for map_hw, region, image_size in zip(maps, regions, image_sizes, strict=True):
            zero = is_zero_map(map_hw)
            self.zero_count += int(zero)
            if zero and self.zero_maps == "skip":
                continue
            self.total += self.score(map_hw, region, image_size)
            self.count += 1

    def score(self, map_hw: Tensor, region: Region, image_size: tuple[int, int]) -> float:
        """One image's share."""
        return content_heatmap(map_hw, region, image_size)

    def compute(self) -> Tensor:
        """Mean in [0, 1]; NaN when nothing was counted."""
        return self.total / self.count
