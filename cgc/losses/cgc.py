"""Consistency between the heatmap of a view and the transformed heatmap of the query image.

Shapes: N batch, n anchors (all of the batch, or some), M batch and extra negatives, h×w feature grid, S side of the
training image.

Source: Consistent Explanations by Contrastive Learning (CGC, CVPR 2022), section 3. Both losses compare S×S masks
``m = up(M) / (sum up(M) + 1e-8) + 1e-8``, the query's one cropped, resized and flipped, each L2-normalised. Since
upsampling and transform are linear and separable, every inner product of masks equals a small one on the grid:

    ⟨up A, up B⟩ = ⟨A, G_r B G_c⟩          G = UᵀU
    ⟨up A, T(up Q)⟩ = ⟨A, C_r Q C_cᵀ⟩       C = UᵀP
    |T(up Q)|² = ⟨Q, K_r Q K_c⟩             K = PᵀP

so no S×S map is ever built; the additive 1e-8 goes through unchanged because rows of U and P sum to 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

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
from cgc.spatial import SpatialTransform, upsampling_matrix

Anchor = Literal["augmented", "query"]


class _Products(NamedTuple):
    positive_n: Tensor  # a_i · q_i
    others_nM: Tensor  # anchor · a_j, the extra negatives appended as columns
    self_n2: Tensor  # a_i · a_i and q_i · q_i: 1 unless a floor shrinks the map


def cgc_loss(
    query_maps: Tensor,
    augmented_maps: Tensor,
    transform: SpatialTransform,
    *,
    temperature: float,
    anchor: Anchor = "augmented",
    negatives: Tensor | None = None,
    reduction: Reduction = "mean",
    floor: float = 0.0,
    rows: slice | None = None,
) -> Tensor:
    """Contrastive Grad-CAM consistency.

    ``L_i = -log( e^{a_i·q_i/τ} / (e^{a_i·q_i/τ} + Σ_{j≠i} e^{a_i·a_j/τ}) )`` with a the augmented views' masks and q
    the transformed masks of the queries, all of unit norm.

    Args:
        query_maps, augmented_maps: (N, h, w), non-negative, any scale, on the feature grid. Computed in float32 at
            least.
        transform: what turned the query images into the augmented ones.
        temperature: τ > 0.
        anchor: "augmented" as in the released code; "query" as in the paper (negatives q_i·a_j).
        negatives: (.., h, w) augmented-view maps from elsewhere (a memory, say), added for every sample.
        reduction: "mean" over the batch (the paper sums), or "none" for (N,).
        floor: 0 is the published arithmetic, whose gradient grows as one over the size of a map. A positive value
            divides each map by sqrt(norm² + (floor·r)²) instead of by its norm, r being the batch's mean norm
            (detached): maps much smaller than the rest shrink towards zero similarity, and their gradient stays
            bounded by 1/(floor·r); an ordinary map changes by a relative floor²/2. Ours, in neither paper nor code.
        rows: take the loss of these n samples only; all others stay their negatives, and part of the batch whose mean
            norm the floor looks at. For processes that share a batch: each takes its own rows of the gathered maps.

    Returns a scalar, or (n,) for reduction "none". With N = 1 and no negatives the loss is 0.

    Raises ValueError for unusable arguments.
    """
    check_options(floor, temperature)
    if anchor not in ("augmented", "query"):
        raise ValueError(f'anchor must be "augmented" or "query", got {anchor!r}')
    own = anchors(rows, len(augmented_maps))
    products = _products(query_maps, augmented_maps, transform, negatives, anchor, floor, own)
    return reduced(contrast(products.positive_n, products.others_nM, own, temperature), reduction)


def l2_consistency_loss(
    query_maps: Tensor,
    augmented_maps: Tensor,
    transform: SpatialTransform,
    *,
    reduction: Reduction = "mean",
    floor: float = 0.0,
    rows: slice | None = None,
) -> Tensor:
    """The paper's ablation without contrast: ``mean((a - q)²)`` over batch and the S² pixels of the unit-norm masks.

    Arguments and errors as in :func:`cgc_loss`. Values lie in [0, 2/S²].
    """
    check_options(floor)
    own = anchors(rows, len(augmented_maps))
    products = _products(query_maps, augmented_maps, transform, None, None, floor, own)
    squares_n = products.self_n2.sum(dim=1) - 2 * products.positive_n
    return reduced(squares_n / transform.size**2, reduction)


def _products(
    query_maps: Tensor,
    augmented_maps: Tensor,
    transform: SpatialTransform,
    negatives: Tensor | None,
    anchor: Anchor | None,
    floor: float,
    own: slice,
) -> _Products:
    """Inner products of the ``own`` samples' unit masks; ``others_nM`` is empty for anchor None."""
    _check(query_maps, augmented_maps, transform, negatives)
    # Autocast would run the products below in half precision.
    with torch.autocast(augmented_maps.device.type, enabled=False):
        n, h, w = augmented_maps.shape
        query, others = at_least_float32(query_maps), at_least_float32(augmented_maps)
        if negatives is not None:
            others = torch.cat([others, negatives.to(others)])
        up_r, up_c = (
            upsampling_matrix(transform.size, h, others),
            upsampling_matrix(transform.size, w, others),
        )
        view_r, view_c = transform.map_matrices(h, w, others)
        query, others = on_one_scale(query, others, up_r, up_c, floor)

        seen = (up_r.T @ view_r) @ query @ (up_c.T @ view_c).mT  # ⟨others, seen⟩ = ⟨up others, T(up query)⟩
        gram = (up_r.T @ up_r) @ others @ (up_c.T @ up_c)  # ⟨others, gram⟩ = ⟨up others, up others⟩
        query_sq = (query * ((view_r.mT @ view_r) @ query @ (view_c.mT @ view_c))).sum((1, 2))
        others_sq = (others * gram).sum((1, 2))
        query_norm, others_norm = divisors(query_sq, others_sq, floor)

        a, q, g = others.flatten(1), seen.flatten(1), gram.flatten(1)
        positive_N = (a[:n] * q).sum(1) / (others_norm[:n] * query_norm)
        if anchor == "augmented":
            others_nM = (g[own] @ a.T) / (others_norm[own, None] * others_norm)
        elif anchor == "query":
            others_nM = (q[own] @ a.T) / (query_norm[own, None] * others_norm)
        else:
            others_nM = a.new_empty(n, 0)
        self_N2 = torch.stack([others_sq[:n] / others_norm[:n] ** 2, query_sq / query_norm**2], dim=1)
    return _Products(positive_N[own], others_nM, self_N2[own])


def _check(
    query_maps: Tensor,
    augmented_maps: Tensor,
    transform: SpatialTransform,
    negatives: Tensor | None,
) -> None:
    """Shapes only: reading values would stall a GPU."""
    n = len(transform.top)
    shape = tuple(augmented_maps.shape)
    if len(shape) != 3 or shape[0] != n or tuple(query_maps.shape) != shape:
        raise ValueError(f"maps must both be ({n}, h, w), got {tuple(query_maps.shape)} and {shape}")
    if negatives is not None and (negatives.dim() != 3 or negatives.shape[1:] != augmented_maps.shape[1:]):
        raise ValueError(f"negatives must be (.., {shape[1]}, {shape[2]}), got {tuple(negatives.shape)}")
