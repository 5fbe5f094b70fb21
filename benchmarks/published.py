"""A CGC step the direct way: what the formulas say, done as the published code does it.

Maps come from a second backward pass through the head, masks are S×S and transformed sample by sample, and the loss
multiplies vectors of S² numbers. The images themselves are augmented as ours are, so that a comparison leaves that out.
"""

from __future__ import annotations

import common  # noqa: F401  # makes the repository importable
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel, gradcam
from cgc.spatial import SpatialTransform
from tests.references.cgc import cgc_loss_as_published


class DirectCGC(nn.Module):
    """``CE(xe) + CE(query) + CE(augmented) + weight · consistency``, the means over the batch."""

    def __init__(self, model: GradCAMModel, *, weight: float = 0.5, temperature: float = 0.5) -> None:
        super().__init__()
        self.model, self.weight, self.temperature = model, weight, temperature

    def forward(
        self, xe_N3SS: Tensor, query_N3SS: Tensor, labels_N: Tensor, transform_N5: Tensor
    ) -> dict[str, Tensor]:
        """Arguments as of :class:`cgc.methods.CGCMethod`; ``loss`` is a scalar."""
        size = query_N3SS.shape[-1]
        query = normalise(query_N3SS)
        augmented = SpatialTransform.unpack(transform_N5, size)(query)
        outputs = [self.model(view) for view in (normalise(xe_N3SS), query, augmented)]
        cross_entropy = sum(F.cross_entropy(logits, labels_N) for logits, _ in outputs)
        target_N = outputs[1][0].detach().argmax(dim=1)
        query_maps, augmented_maps = (
            gradcam(features, logits, target_N, create_graph=True) for logits, features in outputs[1:]
        )
        # The loop reads its parameters one by one: from the CPU, where they were drawn, not from the GPU.
        transform = SpatialTransform.unpack(transform_N5.cpu(), size)
        consistency = cgc_loss_as_published(
            query_maps, augmented_maps, transform, temperature=self.temperature
        )
        return {"loss": cross_entropy + self.weight * consistency}
