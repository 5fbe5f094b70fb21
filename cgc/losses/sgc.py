"""Consistency between the query's heatmap and that of the query without its background.

Shapes: N batch, n anchors (all of the batch, or some), M batch and extra negatives, h×w feature grid, S side of the
training image, P = S² pixels.

Source: SGC, saliency-guided contrastive consistency (Expert Systems with Applications, 2024). With masks
``m = up(X) / (sum up(X) + 1e-8) + 1e-8`` as in :mod:`cgc.losses.cgc`, ``q = m(Q)`` for the query's map Q and
``a = m(A) · s`` for the masked view's map A and the saliency s, both L2-normalised. The saliency is a picture,
so a has S² pixels; q never needs to:

    ⟨up Q, a⟩ = ⟨Q, Uᵀ a U⟩        |up Q|² = ⟨Q, G Q G⟩        G = UᵀU

and the products a_i·a_j are one matrix product (n, P) × (P, M).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cgc.losses.masks import (
    Reduction,
    anchors,
    at_least_float32,
    check_options,
    contrast,
    divisors,
    on_one_scale,
    reduced,
)
from cgc.spatial import upsampling_matrix

# Below any norm that a mask of one salient pixel can have, 1e-8: masks without one get similarity 0, not NaN.
_LEAST_NORM_SQ = 1e-24


class _Products(NamedTuple):
    positive_n: Tensor  # a_i · q_i
    others_nM: Tensor  # a_i · a_j, the extra negatives appended as columns


def sgc_loss(
    query_maps: Tensor,
    masked_maps: Tensor,
    saliency_NSS: Tensor,
    *,
    temperature: float,
    reduction: Reduction = "mean",
    floor: float = 0.0,
    negatives: tuple[Tensor, Tensor] | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Saliency-guided contrastive consistency.

    ``L_i = -log( e^{a_i·q_i/τ} / (e^{a_i·q_i/τ} + Σ_{j≠i} e^{a_i·a_j/τ}) )`` with a the masks of the masked views times
    their saliency and q the masks of the queries, all of unit norm.

    Args:
        query_maps, masked_maps: (N, h, w), non-negative, any scale, on the feature grid. Computed in float32 at least.
        saliency_NSS: (N, S, S): bool or whole numbers, where all but 0 is foreground, or floating point weights.
        temperature: τ > 0.
        reduction: "mean" over the batch, or "none" for (N,).
        floor: 0 is the published arithmetic; see :func:`cgc.losses.cgc_loss`, the norms being those of a and q.
        negatives: (.., h, w) maps of masked views from elsewhere and their saliency (.., S, S), added for every sample.
        rows: take the loss of these n samples only; see :func:`cgc.losses.cgc_loss`.

    An image without a salient pixel has a = 0: similarity 0 with everything, and no gradient through its maps.

    Returns a scalar, or (n,) for reduction "none". With N = 1 and no negatives the loss is 0.

    Raises ValueError for unusable arguments.
    """
    check_options(floor, temperature)
    _check(query_maps, masked_maps, saliency_NSS, negatives)
    own = anchors(rows, len(masked_maps))
    products = _products(query_maps, masked_maps, saliency_NSS, negatives, floor, own)
    return reduced(contrast(products.positive_n, products.others_nM, own, temperature), reduction)


def _products(
    query_maps: Tensor,
    masked_maps: Tensor,
    saliency_NSS: Tensor,
    negatives: tuple[Tensor, Tensor] | None,
    floor: float,
    own: slice,
) -> _Products:
    # Autocast would run the products below in half precision.
    with torch.autocast(masked_maps.device.type, enabled=False):
        size, (h, w) = saliency_NSS.shape[-1], masked_maps.shape[1:]
        query, others = at_least_float32(query_maps), at_least_float32(masked_maps)
        saliency_MSS = _foreground(saliency_NSS, others)
        if negatives is not None:
            others = torch.cat([others, negatives[0].to(others)])
            saliency_MSS = torch.cat([saliency_MSS, _foreground(negatives[1], others)])
        up_r, up_c = upsampling_matrix(size, h, others), upsampling_matrix(size, w, others)
        query, others = on_one_scale(query, others, up_r, up_c, floor)

        seen_MSS = (up_r @ others @ up_c.T) * saliency_MSS
        seen_MP = seen_MSS.flatten(1)
        pulled_nhw = up_r.T @ seen_MSS[own] @ up_c
        query_sq = (query * ((up_r.T @ up_r) @ query @ (up_c.T @ up_c))).sum((1, 2))
        others_sq = torch.einsum("mp,mp->m", seen_MP, seen_MP).clamp(min=_LEAST_NORM_SQ)
        query_norm, others_norm = divisors(query_sq, others_sq, floor)
        positive_n = (query[own] * pulled_nhw).sum((1, 2)) / (others_norm[own] * query_norm[own])
        others_nM = (seen_MP[own] @ seen_MP.T) / (others_norm[own, None] * others_norm)
    return _Products(positive_n, others_nM)


def _foreground(saliency_NSS: Tensor, maps: Tensor) -> Tensor:
    """Bool, a quarter of what a graph keeps of floats, or weights in the dtype of the maps."""
    if saliency_NSS.is_floating_point():
        return saliency_NSS.to(maps)
    return (saliency_NSS != 0).to(maps.device)


def _check(
    query_maps: Tensor,
    masked_maps: Tensor,
    saliency_NSS: Tensor,
    negatives: tuple[Tensor, Tensor] | None,
) -> None:
    """Shapes only: reading values would stall a GPU."""
    shape = tuple(masked_maps.shape)
    if len(shape) != 3 or tuple(query_maps.shape) != shape:
        raise ValueError(f"maps must both be (N, h, w), got {tuple(query_maps.shape)} and {shape}")
    size = saliency_NSS.shape[-1] if saliency_NSS.dim() == 3 else 0
    if size < 1 or tuple(saliency_NSS.shape) != (shape[0], size, size):
        raise ValueError(f"saliency must be ({shape[0]}, S, S), got {tuple(saliency_NSS.shape)}")
    if negatives is not None:
        expected = (len(negatives[0]), *shape[1:]), (len(negatives[0]), size, size)
        given = tuple(tuple(each.shape) for each in negatives)
        if given != expected:
            raise ValueError(f"negatives must be maps (.., {shape[1]}, {shape[2]}) and saliency, got {given}")
