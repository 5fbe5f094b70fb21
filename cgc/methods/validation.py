"""What validation needs from a batch: predictions, and the heatmaps of the query and of one augmented view."""

from __future__ import annotations

from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.gradcam import GradCAMModel
from cgc.spatial import SpatialTransform


class ValidationStep(nn.Module):
    """From uint8 queries to logits and two heatmaps for the predicted class, without gradients."""

    def __init__(self, model: GradCAMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, query_N3SS: Tensor, transform_N5: Tensor) -> dict[str, Tensor]:
        """``logits`` (N, K), ``query_maps`` and ``augmented_maps`` (N, h, w)."""
        query = normalise(query_N3SS)
        logits, query_maps = self.model.explain(query)
        transform = SpatialTransform.unpack(transform_N5, query_N3SS.shape[-1])
        _, augmented_maps = self.model.explain(transform(query), logits.argmax(dim=1))
        return {"logits": logits, "query_maps": query_maps, "augmented_maps": augmented_maps}
