"""CGC: cross-entropy of three views, and the consistency of two of their heatmaps.

Shapes: N batch, S image side, K classes, h×w feature grid.

Source: Consistent Explanations by Contrastive Learning (CVPR 2022), section 3; options of :class:`CGCMethod` name
where paper and released code differ.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.losses.cgc import Anchor, cgc_loss, l2_consistency_loss
from cgc.methods.base import ViewBatch, near_zero
from cgc.methods.contrast import ContrastiveMethod
from cgc.spatial import SpatialTransform

Consistency = Literal["contrastive", "l2"]


class AugmentedStep(ContrastiveMethod):
    """What the steps with and without labels share: the second view is the query, cropped, resized and flipped."""

    def __init__(
        self,
        model: GradCAMModel,
        *,
        weight: float = 0.5,
        temperature: float = 0.5,
        anchor: Anchor = "augmented",
        floor: float = 0.0,
    ) -> None:
        super().__init__(model, weight=weight, temperature=temperature, floor=floor)
        self.require(anchor in ("augmented", "query"), 'anchor "augmented" or "query"', anchor)
        self.anchor: Anchor = anchor

    def _draw(self, query_N3SS: Tensor, generator: torch.Generator) -> Tensor:
        """A packed transform (N, 5) for every query, on its device: of those drawn for all processes, their own."""
        total, own = self.in_whole(len(query_N3SS))
        packed = SpatialTransform.sample(total, query_N3SS.shape[-1], generator=generator).pack()
        return packed[own].to(query_N3SS.device, non_blocking=True)

    def _contrast(
        self, query_maps: Tensor, augmented_maps: Tensor, transform_N5: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        """Loss with its graph, and 1 where a map is near zero, both (N,)."""
        _, own = self._contrasted(len(query_maps))
        query_maps, augmented_maps = self._gather_maps(query_maps, augmented_maps)
        transform = SpatialTransform.unpack(self._gather(transform_N5), size)
        loss_N = self._loss(query_maps, augmented_maps, transform, own)
        return loss_N, near_zero(query_maps.detach(), augmented_maps.detach())[own]

    def _loss(
        self, query_maps: Tensor, augmented_maps: Tensor, transform: SpatialTransform, rows: slice
    ) -> Tensor:
        return cgc_loss(
            query_maps,
            augmented_maps,
            transform,
            temperature=self.temperature,
            anchor=self.anchor,
            reduction="none",
            floor=self.floor,
            rows=rows,
        )


class CGCMethod(AugmentedStep):
    """``CE(xe) + CE(query) + CE(augmented) + weight · consistency``, all per sample.

    Args:
        weight: λ ≥ 0; with 0 the heatmaps are not computed (cross-entropy of three views).
        temperature: τ > 0 of the contrastive loss.
        anchor: see :func:`cgc.losses.cgc_loss`.
        consistency: "contrastive", or "l2" for the paper's ablation.
        floor: see :func:`cgc.losses.cgc_loss`; 0 is the published arithmetic.

    Raises ValueError for unusable arguments, here and not in the step.
    """

    def __init__(
        self,
        model: GradCAMModel,
        *,
        weight: float = 0.5,
        temperature: float = 0.5,
        anchor: Anchor = "augmented",
        consistency: Consistency = "contrastive",
        floor: float = 0.0,
    ) -> None:
        super().__init__(model, weight=weight, temperature=temperature, anchor=anchor, floor=floor)
        self.require(consistency in ("contrastive", "l2"), 'consistency "contrastive" or "l2"', consistency)
        self.consistency: Consistency = consistency

    def prepare(self, batch: ViewBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Inputs of ``forward`` from a batch on the device: a transform is drawn for every image."""
        assert batch.xe is not None
        return batch.xe, batch.query, batch.labels, self._draw(batch.query, generator)

    def negatives(self, rows: int) -> int | None:
        """None for the consistency without contrast."""
        return None if self.consistency == "l2" else super().negatives(rows)

    def forward(
        self, xe_N3SS: Tensor, query_N3SS: Tensor, labels_N: Tensor, transform_N5: Tensor
    ) -> dict[str, Tensor]:
        """uint8 views and packed transforms (N, 5) to per-sample tensors.

        ``loss`` (with graph), ``cross_entropy`` (sum over the views), ``consistency`` and ``near_zero`` (1 where one of
        the two maps is near zero), each (N,); ``logits`` (N, K) of the ``xe`` view.
        """
        size = query_N3SS.shape[-1]
        query = normalise(query_N3SS)
        # A pass of its own for each view: batch norm sees the statistics of one view at a time.
        xe_logits, _ = self.model(normalise(xe_N3SS))
        query_seen = self.model(query)
        augmented_seen = self.model(SpatialTransform.unpack(transform_N5, size)(query))
        cross_entropy = (
            F.cross_entropy(xe_logits, labels_N, reduction="none")
            + F.cross_entropy(query_seen[0], labels_N, reduction="none")
            + F.cross_entropy(augmented_seen[0], labels_N, reduction="none")
        )
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": xe_logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        maps = self._heatmaps(query_seen, augmented_seen)
        consistency, small = self._contrast(*maps, transform_N5, size)
        return {
            "loss": cross_entropy + self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": small,
            **outputs,
        }

    def _loss(
        self, query_maps: Tensor, augmented_maps: Tensor, transform: SpatialTransform, rows: slice
    ) -> Tensor:
        if self.consistency == "contrastive":
            return super()._loss(query_maps, augmented_maps, transform, rows)
        return l2_consistency_loss(
            query_maps, augmented_maps, transform, reduction="none", floor=self.floor, rows=rows
        )
