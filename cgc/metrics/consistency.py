"""The CGC loss on held-out data, as a measure of how consistent explanations are.

Shapes: N images, h×w feature grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

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


class CGCConsistency(Metric):
    """Accumulates heatmaps batch by batch; ``compute`` is the mean of :func:`consistency`'s loss over all images.

    Over several processes the maps are gathered, so that the negatives come from the whole set.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    query_maps: list[Tensor]
    augmented_maps: list[Tensor]
    transforms: list[Tensor]

    def __init__(
        self, size: int, *, temperature: float = 0.5, negatives: int = NEGATIVES, seed: int = 0
    ) -> None:
        super().__init__()
        self.size, self.temperature, self.negatives, self.seed = size, temperature, negatives, seed
        for name in ("query_maps", "augmented_maps", "transforms"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, query_maps: Tensor, augmented_maps: Tensor, transform: SpatialTransform) -> None:
        """Maps (N, h, w) of the queries and of their augmented views."""
        if transform.size != self.size:
            raise ValueError(
                f"the metric is for images of {self.size} px, the transform for {transform.size}"
            )
        self.query_maps.append(query_maps)
        self.augmented_maps.append(augmented_maps)
        self.transforms.append(transform.pack())

    def compute(self) -> Tensor:
        """Mean loss, a scalar."""
        maps = (torch.cat(tuple(state)) for state in (self.query_maps, self.augmented_maps, self.transforms))
        query_maps, augmented_maps, packed = maps
        return consistency(
            query_maps,
            augmented_maps,
            SpatialTransform.unpack(packed, self.size),
            temperature=self.temperature,
            negatives=self.negatives,
            seed=self.seed,
        ).loss_N.mean()
