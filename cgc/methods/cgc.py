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
from cgc.methods.base import Method, ViewBatch
from cgc.spatial import SpatialTransform

Consistency = Literal["contrastive", "l2"]

NEAR_ZERO = 0.01  # a map counts as near zero below this share of the batch's mean map


class CGCMethod(Method):
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
        super().__init__()
        if weight < 0 or not temperature > 0 or not 0 <= floor < 1:
            raise ValueError(
                f"CGCMethod needs weight >= 0, temperature > 0 and floor in [0, 1), "
                f"got {weight}, {temperature}, {floor}"
            )
        if consistency not in ("contrastive", "l2"):
            raise ValueError(f'consistency must be "contrastive" or "l2", got {consistency!r}')
        if anchor not in ("augmented", "query"):
            raise ValueError(f'anchor must be "augmented" or "query", got {anchor!r}')
        self.model = model
        self.weight = weight
        self.temperature = temperature
        self.anchor: Anchor = anchor
        self.consistency: Consistency = consistency
        self.floor = floor

    def prepare(self, batch: ViewBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Inputs of ``forward`` from a batch on the device: a transform is drawn for every image."""
        assert batch.xe is not None
        query = batch.query
        transform = SpatialTransform.sample(len(query), query.shape[-1], generator=generator)
        return batch.xe, query, batch.labels, transform.pack().to(query.device, non_blocking=True)

    def forward(
        self, xe_N3SS: Tensor, query_N3SS: Tensor, labels_N: Tensor, transform_N5: Tensor
    ) -> dict[str, Tensor]:
        """uint8 views and packed transforms (N, 5) to per-sample tensors.

        ``loss`` (with graph), ``cross_entropy`` (sum over the views), ``consistency`` and ``near_zero`` (1 where one of
        the two maps is near zero), each (N,); ``logits`` (N, K) of the ``xe`` view.
        """
        transform = SpatialTransform.unpack(transform_N5, query_N3SS.shape[-1])
        query = normalise(query_N3SS)
        # A pass of its own for each view: batch norm sees the statistics of one view at a time.
        xe_logits, _ = self.model(normalise(xe_N3SS))
        query_logits, query_features = self.model(query)
        augmented_logits, augmented_features = self.model(transform(query))
        cross_entropy = (
            F.cross_entropy(xe_logits, labels_N, reduction="none")
            + F.cross_entropy(query_logits, labels_N, reduction="none")
            + F.cross_entropy(augmented_logits, labels_N, reduction="none")
        )
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": xe_logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        # One class for both maps, the query's prediction: labels play no part in the consistency.
        target = query_logits.detach().argmax(dim=1)
        # Whatever the mode: a model with frozen batch norm is trained in eval mode.
        graph = torch.is_grad_enabled()
        query_maps = self.model.heatmaps(query_logits, query_features, target, create_graph=graph)
        augmented_maps = self.model.heatmaps(augmented_logits, augmented_features, target, create_graph=graph)
        consistency = self._consistency(query_maps, augmented_maps, transform)
        return {
            "loss": cross_entropy + self.weight * consistency,
            "consistency": consistency.detach(),
            "near_zero": near_zero(query_maps.detach(), augmented_maps.detach()),
            **outputs,
        }

    def _consistency(self, query_maps: Tensor, augmented_maps: Tensor, transform: SpatialTransform) -> Tensor:
        if self.consistency == "l2":
            return l2_consistency_loss(
                query_maps, augmented_maps, transform, reduction="none", floor=self.floor
            )
        return cgc_loss(
            query_maps,
            augmented_maps,
            transform,
            temperature=self.temperature,
            anchor=self.anchor,
            reduction="none",
            floor=self.floor,
        )


def near_zero(query_maps_Nhw: Tensor, augmented_maps_Nhw: Tensor) -> Tensor:
    """1.0 where either map's mean is below :data:`NEAR_ZERO` of the mean of all of them, else 0.0; shape (N,)."""
    means_2N = torch.stack([query_maps_Nhw.float().mean((1, 2)), augmented_maps_Nhw.float().mean((1, 2))])
    return (means_2N < NEAR_ZERO * means_2N.mean()).any(dim=0).float()
