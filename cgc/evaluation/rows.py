"""Per-image rows of an evaluation, and what they add up to. The rows are the truth; a summary only averages them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from cgc.data.boxes import BoxedImage
from cgc.evaluation.loader import Failure
from cgc.evaluation.options import CONSISTENCY, MAPS
from cgc.metrics.bootstrap import interval
from cgc.metrics.multilabel import f1_intervals, multilabel_scores


@dataclass
class Row:
    """One class of one image: what the model said of it, and what its heatmap scored.

    ``index`` into the list of images; ``label`` the class that was explained; ``rank`` of that class among the
    model's outputs, 0 for the first; ``predicted`` the classes above one half, for models of several labels;
    ``tolerance`` in pixels of the original image. ``scores[metric][map]`` in [0, 1] (consistency: a loss), without an
    entry where the row does not count for the metric.
    """

    index: int
    label: int
    prediction: int | None = None
    confidence: float | None = None
    rank: int | None = None
    predicted: tuple[int, ...] | None = None
    correct: bool | None = None
    zero_map: bool = False
    all_difficult: bool = False
    tolerance: float | None = None
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def score(self, metric: str, name: str = "model") -> float | None:
        return self.scores.get(metric, {}).get(name)


@dataclass
class Evaluation:
    """Rows in the order of the images, and the rows that could not be scored."""

    rows: list[Row] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


class Estimate(NamedTuple):
    """A mean, its bootstrap interval (equal to it where none was asked for), and how many rows it is of."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Summary:
    """``scores[metric][map]``: None where no row counts. ``per_class``: precision, recall and F1 of several labels."""

    images: int
    rows: int
    zero_maps: int
    all_difficult: int
    scores: dict[str, dict[str, Estimate | None]]
    multi_label: dict[str, object] | None = None


def summarise(
    rows: Sequence[Row],
    images: Sequence[BoxedImage],
    metrics: Sequence[str],
    *,
    num_classes: int,
    draws: int = 1000,
    seed: int = 0,
) -> Summary:
    """Means over the rows that count for the model, so that its score and the trivial maps' are of the same rows.

    Insertion and deletion of the trivial maps are over the rows that have them. Pointing game: mean over the annotated
    classes seen of each one's hit rate; every other score: mean over rows. The intervals come from ``draws`` resamples
    of the images (0: none); rows of one image stay together.
    """
    groups = _image_numbers(rows, images)
    # As annotated, whichever of several admissible classes the model favours.
    classes = np.array([images[row.index].category or str(images[row.index].label) for row in rows])
    scores: dict[str, dict[str, Estimate | None]] = {}
    for metric in metrics:
        if metric in ("top1", "top5"):
            values = [_right(row, metric) for row in rows]
            scores[metric] = {"model": _estimate(values, classes, groups, False, draws, seed)}
        elif metric != "f1":
            counted = [row.score(metric) is not None for row in rows]
            names = ("model",) if metric in CONSISTENCY else MAPS
            scores[metric] = {
                name: _estimate(
                    [
                        row.score(metric, name) if counts else None
                        for row, counts in zip(rows, counted, strict=True)
                    ],
                    classes,
                    groups,
                    metric == "pg",
                    draws if name == "model" else 0,
                    seed,
                )
                for name in names
            }
    return Summary(
        images=len(set(groups.tolist())),
        rows=len(rows),
        zero_maps=sum(row.zero_map for row in rows),
        all_difficult=sum(row.all_difficult for row in rows),
        scores=scores,
        multi_label=_multi_label(rows, images, groups, num_classes, draws, seed) if "f1" in metrics else None,
    )


def _image_numbers(rows: Sequence[Row], images: Sequence[BoxedImage]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(str(images[row.index].path), len(numbers)) for row in rows], dtype=np.int64
    )


def _right(row: Row, metric: str) -> float | None:
    if row.rank is None:
        return None
    return float(bool(row.correct) if metric == "top1" else row.rank < 5)


def _estimate(
    values: Sequence[float | None],
    classes: np.ndarray,
    groups: np.ndarray,
    per_class: bool,
    draws: int,
    seed: int,
) -> Estimate | None:
    counts = np.array([value is not None for value in values], dtype=bool)
    if not counts.any():
        return None
    kept = np.array([value for value in values if value is not None], dtype=np.float64)
    value, low, high = interval(
        kept,
        groups_n=groups[counts],
        classes_n=classes[counts] if per_class else None,
        draws=draws,
        seed=seed,
    )
    return Estimate(value, low, high, len(kept))


def _multi_label(
    rows: Sequence[Row],
    images: Sequence[BoxedImage],
    groups: np.ndarray,
    num_classes: int,
    draws: int,
    seed: int,
) -> dict[str, object] | None:
    """Of the images that the model saw; their labels are those of their annotations, scored or not."""
    if not rows or rows[0].predicted is None:
        return None
    number = {images[row.index].path: image for row, image in zip(rows, groups.tolist(), strict=True)}
    present = torch.zeros(len(number), num_classes, dtype=torch.bool)
    predicted = torch.zeros_like(present)
    for annotated in images:
        if annotated.path in number:
            present[number[annotated.path], annotated.label] = True
    for row, image in zip(rows, groups.tolist(), strict=True):
        predicted[image, list(row.predicted or ())] = True
    scores: Mapping[str, object] = multilabel_scores(predicted, present)._asdict()
    plain = {name: _plain(value) for name, value in scores.items()}
    if draws:
        of_classes, overall = f1_intervals(predicted, present, draws=draws, seed=seed)
        plain |= {"class_f1_interval": list(of_classes), "overall_f1_interval": list(overall)}
    return plain


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value
