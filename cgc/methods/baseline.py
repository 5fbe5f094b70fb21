"""Plain cross-entropy on one randomly cropped view: the papers' comparison row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.methods.base import Method, ViewBatch


class BaselineMethod(Method):
    """Cross-entropy of the ``xe`` view; the other views are not looked at."""

    def __init__(self, model: GradCAMModel) -> None:
        super().__init__()
        self.model = model

    def prepare(self, batch: ViewBatch, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The view and the labels."""
        assert batch.xe is not None
        return batch.xe, batch.labels

    def forward(self, xe_N3SS: Tensor, labels_N: Tensor) -> dict[str, Tensor]:
        """uint8 views to ``loss``, ``cross_entropy`` (N,) and ``logits`` (N, K)."""
        # The backbone alone: nothing here needs the features, so nothing has to catch them.
        output = self.model.backbone(normalise(xe_N3SS))
        logits = getattr(output, "logits", output)
        cross_entropy = F.cross_entropy(logits, labels_N, reduction="none")
        return {"loss": cross_entropy, "cross_entropy": cross_entropy.detach(), "logits": logits.detach()}
