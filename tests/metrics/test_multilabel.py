"""Precision, recall and F1 of several labels against counting by hand and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification

from cgc.metrics.multilabel import MultilabelF1, f1_intervals, multilabel_scores


def labels(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


def test_by_hand():
    # Class 0: one of two found; 1: found, and once where it is not; 2: missed; 3: only imagined; 4: not there.
    present = labels(["11000", "10100", "00000"])
    predicted = labels(["11000", "01000", "00010"])
    scores = multilabel_scores(predicted, present)
    assert scores.precision_K.tolist()[:4] == [1, 0.5, 0, 0]
    assert scores.recall_K.tolist()[:4] == [0.5, 1, 0, 0]
    assert scores.f1_K.tolist()[:4] == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert all(math.isnan(column[4]) for column in (scores.precision_K, scores.recall_K, scores.f1_K))
    assert (int(scores.classes_counted), int(scores.classes_left_out)) == (4, 1)
    means = (scores.class_precision, scores.class_recall, scores.class_f1)
    assert [float(mean) for mean in means] == pytest.approx([1.5 / 4, 1.5 / 4, 1 / 3])
    overall = (scores.overall_precision, scores.overall_recall, scores.overall_f1)
    assert [float(value) for value in overall] == pytest.approx([2 / 4, 2 / 4, 0.5])


def test_nothing_said_of_nothing_is_no_number():
    nothing = torch.zeros(3, 2, dtype=torch.bool)
    scores = multilabel_scores(nothing, nothing)
    assert all(math.isnan(float(value)) for value in scores[:6])
    assert int(scores.classes_left_out) == 2
    missed = multilabel_scores(nothing, labels(["10"] * 3))
    assert [float(value) for value in missed[:6]] == [0] * 6


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 8), k=st.integers(2, 5), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_agrees_with_torchmetrics(n, k, seed, share):
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.rand(n, k, generator=generator) < share
    present = torch.rand(n, k, generator=generator) < 0.4
    scores = multilabel_scores(predicted, present)
    seen = (predicted | present).any(dim=0)
    assert int(scores.classes_counted) == int(seen.sum())
    for name in ("precision", "recall", "f1"):
        theirs = getattr(classification, f"multilabel_{name}{'_score' if name == 'f1' else ''}")
        per_class = theirs(predicted.int(), present.int(), num_labels=k, average="none").double()
        mine = getattr(scores, f"{name}_K")
        assert mine[seen].tolist() == pytest.approx(per_class[seen].tolist(), abs=1e-6)
        assert torch.isnan(mine[~seen]).all()
        if seen.any():
            mean, overall = getattr(scores, f"class_{name}"), getattr(scores, f"overall_{name}")
            assert float(mean) == pytest.approx(float(per_class[seen].mean()), abs=1e-6)
            micro = theirs(predicted.int(), present.int(), num_labels=k, average="micro")
            assert float(overall) == pytest.approx(float(micro), abs=1e-6)


def test_the_accumulator_gives_the_figures_of_the_whole_set():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(11, 4, generator=generator)
    probabilities[0] = 0.5  # not above the threshold
    present = torch.rand(11, 4, generator=generator) < 0.4
    metric = MultilabelF1(4)
    for part in torch.arange(11).split(4):
        metric.update(probabilities[part], present[part])
    expected = multilabel_scores(probabilities > 0.5, present)
    for mine, whole in zip(metric.compute(), expected, strict=True):
        assert torch.equal(mine, whole)
    assert not (probabilities > 0.5)[0].any()
    strict = MultilabelF1(4, threshold=0.9)
    strict.update(probabilities, present)
    assert torch.equal(strict.compute().f1_K, multilabel_scores(probabilities > 0.9, present).f1_K)
    metric.reset()
    metric.update(present, present)
    assert float(metric.compute().overall_f1) == 1


@pytest.mark.parametrize(
    "predicted", [torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)]
)
def test_refuses_anything_but_two_bool_matrices(predicted):
    with pytest.raises(ValueError, match="bool matrices of one shape"):
        multilabel_scores(predicted, torch.zeros(2, 3, dtype=torch.bool))


def test_intervals_are_those_of_resampled_images():
    """Against the plain loop with the same draws."""
    generator = torch.Generator().manual_seed(3)
    predicted, present = torch.rand(2, 30, 4, generator=generator) < 0.4
    (class_low, class_high), (low, high) = f1_intervals(predicted, present, draws=60, seed=5)
    draw = torch.Generator().manual_seed(5)
    chosen = torch.cat([torch.randint(30, (n, 30), generator=draw) for n in (50, 10)])
    scores = [multilabel_scores(predicted[rows], present[rows]) for rows in chosen]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    overall = torch.stack([score.overall_f1 for score in scores]).quantile(ends).tolist()
    classes = torch.stack([score.class_f1 for score in scores]).quantile(ends).tolist()
    assert [low, high] == pytest.approx(overall)
    assert [class_low, class_high] == pytest.approx(classes)
    with pytest.raises(ValueError, match="draws"):
        f1_intervals(predicted, present, draws=0)
