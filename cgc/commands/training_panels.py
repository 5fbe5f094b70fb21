"""Heatmaps of a few held-out images, for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgc.data.presets import normalise
from cgc.data.views import EvalViews
from cgc.gradcam import GradCAMModel
from cgc.report.overlays import panel_row

_IMAGES = 8


def heatmap_panels(
    model: GradCAMModel, views: EvalViews, classes: Sequence[str], device: torch.device
) -> NDArray[Any] | None:
    """Heatmaps of a few images for their predicted classes, drawn side by side; None where they are no numbers."""
    indices = np.linspace(0, len(views) - 1, min(_IMAGES, len(views))).astype(int)
    samples = [views[(int(i), 0)] for i in indices]
    images = torch.stack([s.query for s in samples]).permute(0, 3, 1, 2)
    was_training = model.training
    model.eval()
    logits, maps = model.explain(normalise(images.to(device)))
    model.train(was_training)
    if not bool(maps.isfinite().all()):
        return None  # nothing to draw; whether the run goes on is for the loss to say
    captions = [classes[k] for k in logits.argmax(1).tolist()]
    return panel_row(images, maps.cpu(), captions)
