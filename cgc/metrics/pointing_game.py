"""The pointing game and its stochastic variant. Shapes and regions: ``cgc.metrics.maps``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchmetrics
from torch import Tensor

from cgc.metrics.content_heatmap import ContentHeatmap
from cgc.metrics.maps import Region, full_size_map, is_zero_map, mass_inside, near_region, peak

TOLERANCE = 15.0
SMALL_SIDE = 224  # images with a shorter side below this get a scaled tolerance
EVALUATED_SIDE = (
    448  # the published evaluation's shorter side, to which the 15 px of a scaled tolerance belong
)


def scaled_tolerance(image_size: tuple[int, int]) -> float:
    """15 px for ImageNet-sized images; below 224 px 15 · shorter side / 448, rounded, at least 1 (our rule).

    15 px would cover most of a small image: at 64 px a uniform map already scores 84 % SPG.

    >>> [scaled_tolerance((side, 500)) for side in (375, 224, 128, 64, 32, 16)]
    [15.0, 15.0, 4.0, 2.0, 1.0, 1.0]
    """
    side = min(image_size)
    return TOLERANCE if side >= SMALL_SIDE else max(1.0, float(round(TOLERANCE * side / EVALUATED_SIDE)))


def pointing_game_hit(
    map_hw: Tensor, region: Region, image_size: tuple[int, int], *, tolerance: float = TOLERANCE
) -> bool:
    """Whether a pixel of the region lies closer than ``tolerance`` pixels (strictly) to the map's maximum.

    Zhang et al. 2016 (excitation backprop); of equal maxima the first in row-major order counts. Arguments
    as in ``content_heatmap``.

    Raises:
        ValueError: see ``full_size_map`` and ``near_region``.

    >>> one = torch.zeros(4, 4)
    >>> one[0, 0] = 1
    >>> [pointing_game_hit(one, torch.tensor([[x, 0, 39, 39]]), (40, 40)) for x in (10, 30)]
    [True, False]
    """
    return bool(near_region(region, image_size, tolerance)[peak(full_size_map(map_hw, image_size))])


def stochastic_pointing_game(
    map_hw: Tensor,
    region: Region,
    image_size: tuple[int, int],
    *,
    tolerance: float = TOLERANCE,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Chance that a point drawn from the map hits the region as in ``pointing_game_hit``, in [0, 1] (GC,
    AAAI 2021).

    Args:
        samples: None for the exact expectation, which is the map's mass inside the dilated region; a
            number for the share of hits among that many drawn points (the published evaluation draws 100).
        generator: CPU generator of the draws.

    Raises:
        ValueError: see ``full_size_map`` and ``near_region``; or ``samples`` is below 1.
    """
    full_HW, near_HW = full_size_map(map_hw, image_size), near_region(region, image_size, tolerance)
    if samples is None:
        return mass_inside(full_HW, near_HW)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    # Inverse transform sampling: torch.multinomial stops at 2^24 pixels.
    cumulative = full_HW.cpu().double().flatten().cumsum(0)
    draws = torch.rand(samples, dtype=torch.float64, generator=generator) * cumulative[-1]
    points = torch.searchsorted(cumulative, draws, right=True).clamp(max=cumulative.numel() - 1)
    return float(near_HW.flatten()[points].double().mean())


def mean_over_classes(hits_K: Tensor, counts_K: Tensor) -> Tensor:
    """Mean of per-class hit rates over the classes seen (the released sum counts unseen ones as 0); NaN if
    none.
    """
    seen = counts_K > 0
    return (hits_K[seen].double() / counts_K[seen]).mean()


class PointingGame(torchmetrics.Metric):
    """Pointing game accuracy: mean over the classes seen of each class's hit rate.

    Images with ``difficult`` true (all their objects of the class are) are not counted, nor are maps of
    zeros unless ``zero_maps="uniform"``, which lets them point at the first pixel.
    """

    full_state_update = False
    hits: Tensor
    counts: Tensor
    zero_count: Tensor

    def __init__(self, num_classes: int, tolerance: float = TOLERANCE, zero_maps: str = "skip") -> None:
        super().__init__()
        if zero_maps not in ("skip", "uniform"):
            raise ValueError(f"zero_maps must be 'skip' or 'uniform', not {zero_maps!r}")
        self.tolerance, self.zero_maps = tolerance, zero_maps
        self.add_state("hits", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("zero_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        maps: Tensor,
        regions: Sequence[Region],
        image_sizes: Sequence[tuple[int, int]],
        labels: Sequence[int],
        difficult: Sequence[bool] | None = None,
    ) -> None:
        """Maps (N, h, w) with N regions, (height, width), class indices and, if known, difficult flags."""
        difficult = difficult if difficult is not None else [False] * len(maps)
        for map_hw, region, size, label, hard in zip(
            maps, regions, image_sizes, labels, difficult, strict=True
        ):
            zero = is_zero_map(map_hw)
            self.zero_count += int(zero)
            if hard or (zero and self.zero_maps == "skip"):
                continue
            self.hits[label] += int(pointing_game_hit(map_hw, region, size, tolerance=self.tolerance))
            self.counts[label] += 1

    def compute(self) -> Tensor:
        """Accuracy in [0, 1]; NaN when nothing was counted."""
        return mean_over_classes(self.hits, self.counts)


class StochasticPointingGame(ContentHeatmap):
    """Mean of ``stochastic_pointing_game`` (exact expectation) over images; zero maps as in
    ``ContentHeatmap``.
    """

    def __init__(self, tolerance: float = TOLERANCE, zero_maps: str = "skip") -> None:
        super().__init__(zero_maps)
        self.tolerance = tolerance

    def score(self, map_hw: Tensor, region: Region, image_size: tuple[int, int]) -> float:
        """One image's expected share of hits."""
        return stochastic_pointing_game(map_hw, region, image_size, tolerance=self.tolerance)
