"""Insertion and deletion (Petsiuk et al., RISE, BMVC 2018): does a class come and go with the pixels that its map calls
important? Shapes: ``cgc.metrics.perturbation``.
"""

from __future__ import annotations

import torch
import torchmetrics
from torch import Tensor

from cgc.metrics.maps import zero_maps as are_zero
from cgc.metrics.perturbation import (
    Baseline,
    Predict,
    blur_kernel,
    blurred,
    perturbation_curve,
    pixel_ranks,
)

__all__ = [
    "Baseline",
    "DeletionAUC",
    "InsertionAUC",
    "area_under_curve",
    "blur_kernel",
    "blurred",
    "deletion_curve",
    "insertion_curve",
    "pixel_ranks",
]
STEPS = 28


def insertion_curve(
    predict: Predict,
    images_NCHW: Tensor,
    explanations_Nhw: Tensor,
    *,
    target: Tensor | None = None,
    steps: int = STEPS,
    baseline: Baseline = "blur",
    intact: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Probabilities (steps + 1, N) while an image's pixels appear on its blank version, none to all, in decreasing
    order of its map.

    Args:
        predict: (B, C, H, W) to probabilities (B, K); called without gradients, in whatever mode it is.
        explanations_Nhw: of any grid, sign and scale; see ``pixel_ranks`` for the order.
        target: (N,) class scored; None: the top prediction on the intact images.
        steps: step s of H·W pixels has shown round(s·H·W / steps), halves up; equal steps where that is whole.
        baseline: the blank version. "blur": ``blurred``; "zero": zeros; "mean": each channel's mean in this image.
        intact: (N, K) or (N,) probabilities of the unperturbed images, to save their forward pass; (N,): of ``target``.
        batch_size: most images that ``predict`` gets at once; None: N.

    Raises:
        ValueError: shapes do not fit each other, a map is not finite, a target is no class, ``predict`` does not
            return probabilities (B, K), or an option has no such value.
    """
    return perturbation_curve(
        predict,
        images_NCHW,
        explanations_Nhw,
        inserting=True,
        target=target,
        steps=steps,
        baseline=baseline,
        intact=intact,
        batch_size=batch_size,
    )


def deletion_curve(
    predict: Predict,
    images_NCHW: Tensor,
    explanations_Nhw: Tensor,
    *,
    target: Tensor | None = None,
    steps: int = STEPS,
    baseline: Baseline = "zero",
    intact: Tensor | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Probabilities (steps + 1, N) while an image's pixels turn blank in that order; arguments as in
    ``insertion_curve``.
    """
    return perturbation_curve(
        predict,
        images_NCHW,
        explanations_Nhw,
        inserting=False,
        target=target,
        steps=steps,
        baseline=baseline,
        intact=intact,
        batch_size=batch_size,
    )


def area_under_curve(scores: Tensor) -> Tensor:
    """Area under curves (steps + 1, ..) over [0, 1], by the trapezoid rule: (..).

    >>> area_under_curve(torch.tensor([0.0, 0.5, 1.0]))
    tensor(0.5000)
    """
    if len(scores) < 2:
        raise ValueError(f"a curve has two points or more, not {len(scores)}")
    return (scores[:-1] + scores[1:]).mean(dim=0) / 2


class InsertionAUC(torchmetrics.Metric):
    """Mean over images of the area under ``insertion_curve``, whose options the constructor takes.

    ``zero_maps``: "skip" (default) leaves images out whose raw map has no positive value, "uniform" scores them too (a
    constant map's pixels in row-major order); ``zero_count`` counts them.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    curve = staticmethod(insertion_curve)
    default_baseline: Baseline = "blur"
    total: Tensor
    count: Tensor
    zero_count: Tensor

    def __init__(
        self,
        *,
        steps: int = STEPS,
        baseline: Baseline | None = None,
        batch_size: int | None = None,
        zero_maps: str = "skip",
    ) -> None:
        super().__init__()
        if zero_maps not in ("skip", "uniform"):
            raise ValueError(f"zero_maps must be 'skip' or 'uniform', not {zero_maps!r}")
        self.steps, self.batch_size, self.zero_maps = steps, batch_size, zero_maps
        self.baseline: Baseline = baseline or self.default_baseline
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("zero_count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        predict: Predict,
        images: Tensor,
        explanations: Tensor,
        target: Tensor | None = None,
        intact: Tensor | None = None,
    ) -> None:
        """Images (N, C, H, W) with explanations (N, h, w); the rest as in ``insertion_curve``."""
        zero_N = are_zero(explanations)
        self.zero_count += int(zero_N.sum())
        if self.zero_maps == "skip":
            kept = torch.nonzero(~zero_N)[:, 0].to(images.device)
            images, explanations = images[kept], explanations[kept.to(explanations.device)]
            target = None if target is None else target[kept.to(target.device)]
            intact = None if intact is None else intact[kept.to(intact.device)]
        scores = self.curve(
            predict,
            images,
            explanations,
            target=target,
            steps=self.steps,
            baseline=self.baseline,
            intact=intact,
            batch_size=self.batch_size,
        )
        self.total += area_under_curve(scores.double()).sum().to(self.total)
        self.count += len(images)

    def compute(self) -> Tensor:
        """Mean in [0, 1]; NaN when nothing was counted."""
        return self.total / self.count


class DeletionAUC(InsertionAUC):
    """Mean over images of the area under ``deletion_curve``; otherwise as ``InsertionAUC``."""

    higher_is_better = False
    curve = staticmethod(deletion_curve)
    default_baseline: Baseline = "zero"
