"""What rows add up to: means, class means, intervals over images, several labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgc.data.boxes import BoxedImage
from cgc.evaluation.rows import Row, summarise

NOTHING = np.empty((0, 4), dtype=np.int64)


def image(name, label=0):
    return BoxedImage(Path(name), label, NOTHING, False, (10, 10))


def test_trivial_maps_are_averaged_over_the_rows_that_count_for_the_model():
    images = [image("a"), image("b"), image("c")]
    rows = [
        Row(0, 0, scores={"ch": {"model": 0.5, "uniform": 0.1}}),
        Row(1, 0, scores={"ch": {"model": 0.7, "uniform": 0.3}}),
        Row(2, 0, zero_map=True, scores={"ch": {"uniform": 0.9}}),
    ]
    summary = summarise(rows, images, ("ch",), num_classes=1, draws=0)
    assert summary.scores["ch"]["model"] == pytest.approx((0.6, 0.6, 0.6, 2))
    assert summary.scores["ch"]["uniform"].value == pytest.approx(0.2)
    assert summary.scores["ch"]["random"] is None
    assert summary.zero_maps == 1


def test_the_pointing_game_weighs_classes_alike_and_others_rows():
    images = [image("a"), image("b"), image("c"), image("d", 1)]
    rows = [
        Row(i, images[i].label, scores={"pg": {"model": v}, "spg": {"model": v}})
        for i, v in enumerate((1, 1, 0, 0))
    ]
    summary = summarise(rows, images, ("pg", "spg"), num_classes=5, draws=0)
    assert summary.scores["pg"]["model"].value == pytest.approx((2 / 3 + 0) / 2)
    assert summary.scores["spg"]["model"].value == 0.5


def test_intervals_draw_images_not_rows():
    """Eight rows of two images know no more than two."""
    images = [image("a", k) for k in range(4)] + [image("b", k) for k in range(4)]
    rows = [Row(i, i % 4, scores={"ch": {"model": 0.0 if i < 4 else 1.0}}) for i in range(8)]
    estimate = summarise(rows, images, ("ch",), num_classes=4).scores["ch"]["model"]
    assert (estimate.value, estimate.low, estimate.high, estimate.rows) == (0.5, 0.0, 1.0, 8)
    apart = [image(f"{i}") for i in range(8)]
    narrower = summarise(rows, apart, ("ch",), num_classes=4).scores["ch"]["model"]
    assert 0 < narrower.low < 0.5 < narrower.high < 1


def test_accuracies():
    images = [image(f"{i}") for i in range(4)]
    rows = [Row(i, 0, prediction=r, rank=r, correct=r == 0) for i, r in enumerate((0, 4, 5, 0))]
    summary = summarise(rows, images, ("top1", "top5"), num_classes=10, draws=0)
    assert (summary.scores["top1"]["model"].value, summary.scores["top5"]["model"].value) == (0.5, 0.75)


def test_several_labels():
    images = [image("a", 0), image("a", 2), image("b", 1)]
    rows = [Row(0, 0, predicted=(0, 1)), Row(1, 2, predicted=(0, 1)), Row(2, 1, predicted=(1,))]
    summary = summarise(rows, images, ("f1",), num_classes=4, draws=0)
    assert (summary.images, summary.rows) == (2, 3)
    # Said: 0 and 1 of a, 1 of b. There: 0 and 2 of a, 1 of b.
    assert summary.multi_label["overall_precision"] == pytest.approx(2 / 3)
    assert summary.multi_label["overall_recall"] == pytest.approx(2 / 3)
    assert summary.multi_label["class_recall"] == pytest.approx((1 + 1 + 0) / 3)
    assert summary.multi_label["f1_K"][3] is None


def test_labels_come_from_the_annotations_not_from_the_rows_that_were_scored():
    """A row lost on the way, to a damaged mask for instance, is no label that was never there."""
    images = [image("a", 0), image("a", 2), image("b", 1)]
    rows = [Row(0, 0, predicted=(0,)), Row(2, 1, predicted=(1,))]
    summary = summarise(rows, images, ("f1",), num_classes=3, draws=0)
    assert summary.multi_label["overall_recall"] == pytest.approx(2 / 3)
    unseen = summarise(rows[1:], images, ("f1",), num_classes=3, draws=0)
    assert unseen.multi_label["overall_recall"] == 1  # image a was not seen at all


def test_f1_has_intervals_over_images():
    images = [image(f"{i}", i % 2) for i in range(40)]
    rows = [Row(i, i % 2, predicted=(i % 2,) if i % 5 else (1 - i % 2,)) for i in range(40)]
    found = summarise(rows, images, ("f1",), num_classes=2).multi_label
    for name in ("class_f1", "overall_f1"):
        low, high = found[f"{name}_interval"]
        assert 0.5 < low < found[name] < high < 1
    assert found["overall_f1"] == pytest.approx(0.8)
    again = summarise(rows, images, ("f1",), num_classes=2).multi_label
    assert again == found


def test_the_pointing_game_goes_by_annotated_category():
    """Whichever of the admissible classes the model favours."""
    path = Path("a")
    images = [BoxedImage(path, 0, NOTHING, False, (9, 9), None, (1,), name) for name in ("dog", "dog", "cat")]
    rows = [
        Row(i, label, scores={"pg": {"model": hit}})
        for i, (label, hit) in enumerate(((0, 1), (1, 0), (1, 0)))
    ]
    assert summarise(rows, images, ("pg",), num_classes=2, draws=0).scores["pg"]["model"].value == 0.25
