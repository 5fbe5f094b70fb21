"""Precision, recall and F1 of a model of several labels on held-out images. Shapes: N images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.data.views import ViewLoader
from cgc.engine.processes import Processes
from cgc.engine.runtime import StopRequest
from cgc.engine.validation import joined, watched
from cgc.gradcam import GradCAMModel
from cgc.metrics.multilabel import THRESHOLD, multilabel_scores
from cgc.modes import evaluating

BEST_BY = "val_overall_f1"

_FIGURES = tuple(f"{over}_{what}" for over in ("overall", "class") for what in ("f1", "precision", "recall"))


class MultiLabelStep(nn.Module):
    """From uint8 queries to probabilities, without gradients."""

    def __init__(self, model: GradCAMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, query_N3SS: Tensor) -> dict[str, Tensor]:
        """``probabilities`` (N, K) float32: of each class by itself."""
        logits, _ = self.model(normalise(query_N3SS))
        return {"probabilities": logits.float().sigmoid()}


@torch.no_grad()
def validate_multi_label(
    step: nn.Module,
    loader: ViewLoader,
    device: torch.device,
    *,
    strict: bool = False,
    stop: StopRequest | None = None,
    processes: Processes | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Figures of one pass, in percent; and the unreadable images.

    ``val_overall_…`` pool all labels (OP, OR, OF1), ``val_class_…`` are means over classes (CP, CR, CF1), see
    :func:`cgc.metrics.multilabel.multilabel_scores`; a class is predicted if its probability is above one half.
    ``step`` as :class:`MultiLabelStep`. Images that stand in for unreadable ones are counted once. Modes are left as
    they were found. Of several ``processes`` each brings its share of the images, and all have the figures of one.

    Raises InputError for an unreadable image under ``strict``, Stopped once ``stop`` is set.
    """
    unreadable: list[str] = []
    parts: list[dict[str, Tensor]] = []
    with evaluating(step):
        for batch in watched(loader, strict, stop):
            unreadable += batch.unreadable
            probabilities = step(batch.query.to(device, non_blocking=True))["probabilities"].cpu()
            parts.append({"index": batch.indices, "probabilities": probabilities, "labels": batch.labels})
    rows, unreadable = joined(parts, unreadable, processes)
    scores = multilabel_scores(rows["probabilities"] > THRESHOLD, rows["labels"])._asdict()
    figures = {f"val_{name}": 100 * float(scores[name]) for name in _FIGURES}
    return figures, unreadable
