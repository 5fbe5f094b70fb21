"""What the losses share: the published masks on the feature grid, and the contrast of their inner products.

Shapes: N batch, n anchors (all of the batch, or some), M batch and extra negatives, h×w feature grid, S side of the
training image.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "none"]

EPS = 1e-8  # published: added to the sum and to the normalised mask or map
_SMALLEST_SCALE = (
    1e-20  # a batch of maps below this counts as zero; keeps one over it, and its square, in float32
)


def at_least_float32(maps: Tensor) -> Tensor:
    """float32 and float64 as they are, all else as float32."""
    return maps if maps.dtype in (torch.float32, torch.float64) else maps.float()


def check_options(floor: float, temperature: float = 1.0) -> None:
    """Raises ValueError for a temperature that is not positive or a floor outside of [0, 1)."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 0 <= floor < 1:
        raise ValueError(f"floor must lie in [0, 1), got {floor}")


def anchors(rows: slice | None, n: int) -> slice:
    """The samples whose loss is wanted, of ``n``: all by default.

    Raises ValueError where there are none, or where they are not neighbours.
    """
    if rows is None:
        return slice(0, n)
    start, stop, step = rows.indices(n)
    if step != 1 or not start < stop:
        raise ValueError(f"rows must be a slice of neighbours among {n} samples, got {rows}")
    return slice(start, stop)


def on_one_scale(
    query: Tensor, others: Tensor, up_r: Tensor, up_c: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    """Maps (N, h, w) and (M, h, w) as they go into the inner products; the first N of the others are the batch.

    With floor 0 the published masks, on the grid; else the maps themselves, since only ratios of their sizes matter
    then, brought to a scale where float32 squares are safe.
    """
    if floor == 0:
        return _published_masks(query, up_r, up_c), _published_masks(others, up_r, up_c)
    scale = (query.detach().mean() + others.detach()[: len(query)].mean()).clamp(min=_SMALLEST_SCALE)
    return query / scale, others / scale


def _published_masks(maps_Nhw: Tensor, up_r: Tensor, up_c: Tensor) -> Tensor:
    """Divide by the sum of the upsampled map + ε, add ε: the published mask, on the grid."""
    sums_N = torch.einsum("nhw,h,w->n", maps_Nhw, up_r.sum(0), up_c.sum(0))
    return maps_Nhw / (sums_N + EPS)[:, None, None] + EPS


def divisors(query_sq_N: Tensor, others_sq_M: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """What to divide the maps by: their norms, or norms that do not fall under floor × the batch's mean norm."""
    if floor == 0:
        return query_sq_N.sqrt(), others_sq_M.sqrt()  # at least S·ε: never zero
    batch_sq = torch.cat([query_sq_N, others_sq_M[: len(query_sq_N)]])
    least_sq = (floor * batch_sq.detach().clamp(min=0).sqrt().mean()) ** 2 + EPS**2
    return (query_sq_N + least_sq).sqrt(), (others_sq_M + least_sq).sqrt()


def contrast(positive_n: Tensor, others_nM: Tensor, own: slice, temperature: float) -> Tensor:
    """``-log( e^{p_i/τ} / (e^{p_i/τ} + Σ_{j≠i} e^{o_ij/τ}) )``, (n,); anchor i is the sample ``own.start + i``."""
    columns = torch.arange(others_nM.shape[1], device=others_nM.device)
    own_nM = columns == columns[own, None]
    scores_nM = torch.where(own_nM, positive_n[:, None], others_nM) / temperature
    return scores_nM.logsumexp(dim=1) - positive_n / temperature


def reduced(loss_n: Tensor, reduction: Reduction) -> Tensor:
    """Their mean, or the losses as they are. Raises ValueError for an unknown reduction."""
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
    return loss_n.mean() if reduction == "mean" else loss_n
