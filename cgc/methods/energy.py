"""Supervised energy: cross-entropy, and the label's heatmap drawn into the boxes of those images that have some.

Shapes: N batch, S image side, K classes, B boxes per image, h×w feature grid. Source: see :mod:`cgc.losses.energy`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.losses.energy import energy_loss, has_boxes
from cgc.methods.base import Method, ViewBatch, near_zero


class EnergyMethod(Method):
    """``CE + weight · (1 - CH)``, per sample, CH being the share of the label's heatmap inside the label's boxes.

    ``weight``: λ ≥ 0; with 0 the heatmaps are not computed. Images without boxes are classified only.

    Raises ValueError for a negative weight.
    """

    def __init__(self, model: GradCAMModel, *, weight: float = 1.0) -> None:
        super().__init__()
        self.require(weight >= 0, "weight >= 0", weight)
        self.model = model
        self.weight = weight

    def prepare(self, batch: ViewBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The arguments of :meth:`forward`; nothing is drawn here.

        Reads ``xe`` (N, 3, S, S) uint8, ``labels`` (N,), and if it is there and not None ``boxes`` (N, B, 4), in pixels
        of the ``xe`` view (:func:`cgc.data.view_boxes.boxes_in_view`), empty ones (0 0 -1 -1) where an image has fewer.

        Raises ValueError for a batch without ``xe``.
        """
        images, labels = batch.xe, batch.labels
        if images is None:
            raise ValueError("supervised energy needs the randomly cropped view (xe) of the batch")
        boxes: Tensor | None = getattr(batch, "boxes", None)
        if boxes is None:
            boxes = -(torch.arange(4, device=labels.device) // 2).expand(len(labels), 1, 4)
        return images, labels, boxes

    def forward(self, images_N3SS: Tensor, labels_N: Tensor, boxes_NB4: Tensor) -> dict[str, Tensor]:
        """uint8 images to per-sample tensors.

        ``loss`` (with graph), ``cross_entropy``, ``consistency`` (1 - CH, 0 without boxes), ``boxed`` (1 where there
        are boxes: the mean of 1 - CH over the boxed images is the one mean over the other) and ``near_zero`` (1 where
        the map is near zero), each (N,); ``logits`` (N, K).
        """
        logits, features = self.model(normalise(images_N3SS))
        cross_entropy = F.cross_entropy(logits, labels_N, reduction="none")
        outputs = {"cross_entropy": cross_entropy.detach(), "logits": logits.detach()}
        if self.weight == 0:
            return {"loss": cross_entropy, **outputs}
        # Whatever the mode: a model with frozen batch norm is trained in eval mode.
        maps = self.model.heatmaps(logits, features, labels_N, create_graph=torch.is_grad_enabled())
        size = (images_N3SS.shape[-2], images_N3SS.shape[-1])
        outside = energy_loss(maps, boxes_NB4, size, reduction="none")
        return {
            "loss": cross_entropy + self.weight * outside,
            "consistency": outside.detach(),
            "boxed": has_boxes(boxes_NB4, size).float(),
            "near_zero": near_zero(maps.detach(), maps.detach()),
            **outputs,
        }
