"""Precision, recall and F1 where an image shows several classes, per class and overall.

Shapes: N images, K classes; ``predicted_NK`` and ``present_NK`` are bool. Per-class figures weigh every class alike,
overall ones every label.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torchmetrics
from torch import Tensor

THRESHOLD = 0.5


class MultilabelScores(NamedTuple):
    """All in [0, 1]. ``precision_K`` … hold each class's own figures, NaN for the classes left out; ``class_…`` their
    means (CP, CR, CF1: the mean of the F1s, not the F1 of the means); ``overall_…`` are of all labels pooled (OP, OR,
    OF1). NaN where nothing was predicted nor present at all.
    """

    class_precision: Tensor
    class_recall: Tensor
    class_f1: Tensor
    overall_precision: Tensor
    overall_recall: Tensor
    overall_f1: Tensor
    precision_K: Tensor
    recall_K: Tensor
    f1_K: Tensor
    classes_counted: Tensor
    classes_left_out: Tensor


def multilabel_scores(predicted_NK: Tensor, present_NK: Tensor) -> MultilabelScores:
    """Figures of a whole set, from what was predicted and what is there.

    A class that no image shows and none was said to show is left out of the class means, and counted. A class missed
    altogether has precision 0, one predicted but never present has recall 0.

    Raises:
        ValueError: the two are not bool matrices of one shape.

    >>> present = torch.tensor([[True, False, False], [True, True, False]])
    >>> scores = multilabel_scores(torch.tensor([[True, False, False], [False, True, False]]), present)
    >>> [round(float(x), 4) for x in scores[:6]], int(scores.classes_left_out)
    ([1.0, 0.75, 0.8333, 1.0, 0.6667, 0.8], 1)
    """
    return _scores(*_counts(predicted_NK, present_NK))


def _counts(predicted_NK: Tensor, present_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives of each class, int64 (K,)."""
    for matrix in (predicted_NK, present_NK):
        if matrix.ndim != 2 or matrix.dtype != torch.bool or matrix.shape != present_NK.shape:
            raise ValueError(
                "predictions and labels are bool matrices of one shape, not "
                f"{predicted_NK.dtype} {tuple(predicted_NK.shape)} and "
                f"{present_NK.dtype} {tuple(present_NK.shape)}"
            )
    pairs = (predicted_NK & present_NK, predicted_NK & ~present_NK, ~predicted_NK & present_NK)
    tp_K, fp_K, fn_K = (pair.sum(dim=0) for pair in pairs)
    return tp_K, fp_K, fn_K


def _ratios(tp: Tensor, fp: Tensor, fn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1, float64; 0/0 is 0 unless there was nothing to find and nothing was found: NaN."""
    nothing = tp + fp + fn == 0

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        return (part.double() / whole.clamp(min=1)).masked_fill(nothing, torch.nan)

    return ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(2 * tp, 2 * tp + fp + fn)


def _scores(tp_K: Tensor, fp_K: Tensor, fn_K: Tensor) -> MultilabelScores:
    per_class = _ratios(tp_K, fp_K, fn_K)
    overall = _ratios(tp_K.sum(), fp_K.sum(), fn_K.sum())
    counted = (tp_K + fp_K + fn_K > 0).sum()
    precision, recall, f1 = (values_K.nanmean() for values_K in per_class)
    return MultilabelScores(precision, recall, f1, *overall, *per_class, counted, len(tp_K) - counted)


def f1_intervals(
    predicted_NK: Tensor, present_NK: Tensor, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Percentile bootstrap over images of the class mean and of the overall F1: (low, high) each.

    Raises:
        ValueError: the two are not bool matrices of one shape, or no draws are asked for.
    """
    _counts(predicted_NK, present_NK)
    if draws < 1:
        raise ValueError(f"an interval needs draws, not {draws}")
    generator = torch.Generator().manual_seed(seed)
    pairs = (predicted_NK & present_NK, predicted_NK & ~present_NK, ~predicted_NK & present_NK)
    n = len(present_NK)
    found: list[Tensor] = []
    for start in range(0, draws, 50):
        chosen = torch.randint(n, (min(50, draws - start), n), generator=generator)
        weight_DN = torch.zeros(len(chosen), n).scatter_add_(1, chosen, torch.ones(chosen.shape))
        # Counts below 2^24 are whole in float32.
        tp_DK, fp_DK, fn_DK = ((weight_DN @ pair.float().cpu()).long() for pair in pairs)
        class_f1_D = _ratios(tp_DK, fp_DK, fn_DK)[2].nanmean(1)
        overall_f1_D = _ratios(*(counts_DK.sum(1) for counts_DK in (tp_DK, fp_DK, fn_DK)))[2]
        found.append(torch.stack([class_f1_D, overall_f1_D]))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    (class_low, overall_low), (class_high, overall_high) = (
        torch.cat(found, 1).nanquantile(ends, dim=1).tolist()
    )
    return (class_low, class_high), (overall_low, overall_high)


class MultilabelF1(torchmetrics.Metric):
    """Accumulates ``multilabel_scores``; ``compute`` returns all of them.

    ``threshold``: a class is predicted if its probability is above it (strictly).
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    tp: Tensor
    fp: Tensor
    fn: Tensor

    def __init__(self, num_classes: int, threshold: float = THRESHOLD) -> None:
        super().__init__()
        self.threshold = threshold
        for name in ("tp", "fp", "fn"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, present: Tensor) -> None:
        """Probabilities (N, K), or bool predictions; ``present`` (N, K) bool."""
        predicted = probabilities if probabilities.dtype == torch.bool else probabilities > self.threshold
        tp_K, fp_K, fn_K = _counts(predicted, present)
        self.tp, self.fp, self.fn = self.tp + tp_K, self.fp + fp_K, self.fn + fn_K

    def compute(self) -> MultilabelScores:
        """The figures of everything seen."""
        return _scores(self.tp, self.fp, self.fn)
