"""Precision, recall and F1 of a model of several labels on held-out images. Shapes: N images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cgc.data.presets import normalise
from cgc.data.views import ViewLoader
from cgc.engine.runtime import Stopped, StopRequest
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.metrics.multilabel import MultilabelF1
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
    num_classes: int,
    strict: bool = False,
    stop: StopRequest | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Figures of one pass, in percent; and the unreadable images.

    ``val_overall_…`` pool all labels (OP, OR, OF1), ``val_class_…`` are means over classes (CP, CR, CF1), see
    :func:`cgc.metrics.multilabel.multilabel_scores`; a class is predicted if its probability is above one half.
    ``step`` as :class:`MultiLabelStep`. Images that stand in for unreadable ones are counted once. Modes are left as
    they were found.

    Raises InputError for an unreadable image under ``strict``, Stopped once ``stop`` is set.
    """
    unreadable: list[str] = []
    seen: set[int] = set()
    metric = MultilabelF1(num_classes)
    with evaluating(step):
        for batch in loader:
            if stop:
                raise Stopped
            unreadable += batch.unreadable
            if strict and unreadable:
                raise InputError(f"unreadable image (--strict): {unreadable[0]}")
            probabilities = step(batch.query.to(device, non_blocking=True))["probabilities"].cpu()
            first = {index: row for row, index in reversed(list(enumerate(batch.indices.tolist())))}
            rows = sorted(row for index, row in first.items() if index not in seen)
            seen.update(first)
            if rows:
                metric.update(probabilities[rows], batch.labels[rows])
    scores = metric.compute()._asdict()
    figures = {f"val_{name}": 100 * float(scores[name]) for name in _FIGURES}
    return figures, list(dict.fromkeys(unreadable))
