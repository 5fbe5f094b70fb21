"""The CGC loss on held-out data, as a measure of how consistent explanations are.

Shapes: N images, h×w feature grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cgc.losses.cgc import cgc_loss, l2_consistency_loss
from cgc.spatial import SpatialTransform

NEGATIVES = 63


class Consistency(NamedTuple):
    """Per image: the contrastive loss and the cosine between the two masks, in [0, 1]; shape (N,)."""

    loss_N: Tensor
    cosine_N: Tensor


def consistency(
    query_maps: Tensor,
    augmented_maps: Tensor,
    transform: SpatialTransform,
    *,
    temperature: float = 0.5,
    negatives: int = NEGATIVES,
    seed: int = 0,
) -> Consistency:
    """CGC's loss (CVPR 2022, eq. 3) for every image of a set, from its stored heatmaps (N, h, w).

    The loss of a batch depends on which images meet in it. Here every image meets ``negatives`` others
    drawn with ``seed``, so that the figure is a property of model and data set, comparable between batch
    sizes; of a smaller set it meets all the others. The draw is one shuffle cut into groups of
    ``negatives`` + 1.

    Raises ValueError for maps that do not fit the transform.
    """
    n = len(query_maps)
    if len(augmented_maps) != n or len(transform.top) != n:
        raise ValueError(
            f"{n} query maps, {len(augmented_maps)} augmented maps, {len(transform.top)} transforms"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(query_maps.device)
    packed_N5 = transform.pack()
    loss_N = query_maps.new_zeros(n, dtype=torch.float64)
    cosine_N = loss_N.clone()
    for group in torch.split(order, negatives + 1):
        # The last group is completed with images from the first one.
        others = order[: max(0, min(negatives + 1, n) - len(group))]
        q, a = query_maps[group].double(), augmented_maps[group].double()
        t = SpatialTransform.unpack(packed_N5[group], transform.size)
        loss_N[group] = cgc_loss(
            q, a, t, temperature=temperature, negatives=augmented_maps[others].double(), reduction="none"
        )
        # Unit vectors: |a - q|² = 2 - 2 a·q, and the L2 loss is its mean over the pixels.
        cosine_N[group] = 1 - l2_consistency_loss(q, a, t, reduction="none") * transform.size**2 / 2
    return Consistency(loss_N, cosine_N)
