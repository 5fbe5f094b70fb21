"""One pass over boxed images, with stand-ins for a model whose maps are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cgc.evaluation.rows import summarise
from cgc.modes import evaluating
from tests.evaluation.stand_ins import (
    localise,
    looks_at_background,
    looks_at_object,
    looks_left,
    triple,
    values,
)


def test_scores_worked_out_by_hand(fixture_images):
    result = localise(looks_left, fixture_images, input_resize=32, batch_size=2)
    # The map over columns: 1 up to 24, then 0.99, 0.97, … 0.01 at 74, in all 50; tolerance round(15·100/448) = 3.
    expected = {
        0: (43.75 / 50, 1, (43.75 + 0.49 + 0.47) / 50),
        1: (25 / 50, 1, (25 + 0.99 + 0.97 + 0.03 + 0.01) / 50),
        2: (0, None, (0.03 + 0.01) / 50),  # difficult
        3: (None, None, None),  # zero map
        4: (0.01 / 50, 0, (0.05 + 0.03 + 0.01) / 50),
    }
    assert [row.index for row in result.rows] == list(expected)
    for row in result.rows:
        assert triple(row) == pytest.approx(expected[row.index], abs=1e-6)
    assert result.failed == []
    scores, summary = values(result, fixture_images)
    assert (summary.images, summary.zero_maps, summary.all_difficult) == (5, 1, 1)
    assert scores["top1"]["model"] == 0.4
    counted = {metric: summary.scores[metric]["model"].rows for metric in ("ch", "pg", "spg")}
    assert counted == {"ch": 4, "pg": 3, "spg": 4}
    assert scores["ch"]["model"] == pytest.approx((0.875 + 0.5 + 0 + 0.0002) / 4, abs=1e-6)
    assert scores["ch"]["uniform"] == pytest.approx((0.5 + 0.5 + 0.25 + 0.26) / 4, abs=1e-6)
    # A uniform map points at (0, 0), the Gaussian at (49, 49): cats hit, hit and hit, miss; the dog is missed.
    assert {name: scores["pg"][name] for name in ("model", "uniform", "gaussian")} == {
        "model": 0.5,
        "uniform": 0.5,
        "gaussian": 0.25,
    }
    assert scores["spg"]["model"] == pytest.approx((0.8942 + 0.54 + 0.0008 + 0.0018) / 4, abs=1e-6)


def test_random_maps_are_the_same_for_every_model_and_batch(fixture_images):
    runs = [
        localise(explain, fixture_images, input_resize=32, batch_size=b)
        for explain, b in ((looks_left, 1), (looks_left, 4))
    ]
    assert [triple(row, "random") for row in runs[0].rows] == [triple(row, "random") for row in runs[1].rows]
    other = localise(looks_left, fixture_images, input_resize=32, seed=1)
    assert [triple(row, "random") for row in other.rows] != [triple(row, "random") for row in runs[0].rows]
    assert len({triple(row, "random") for row in runs[0].rows}) == 5
    # By hand: a 2×2 grid upsampled as above; all columns of a row of the map are interpolations of its two cells.
    from cgc.data.views import mix_seed
    from cgc.metrics.baselines import random_map

    (a, b), (c, d) = random_map((2, 2), mix_seed(0, 0)).double().tolist()
    weight = np.clip((np.arange(100) - 24.5) / 50, 0, 1)
    columns = (a + c) * (1 - weight) + (b + d) * weight  # rows are averaged symmetrically
    assert runs[0].rows[0].score("ch", "random") == pytest.approx(
        columns[:50].sum() / columns.sum(), abs=1e-6
    )


def test_zero_maps_can_count_as_uniform(fixture_images):
    result = localise(looks_left, fixture_images, input_resize=32, zero_maps="uniform")
    scores, summary = values(result, fixture_images)
    assert result.rows[3].score("ch") == pytest.approx(0.5, abs=1e-6)
    assert (summary.zero_maps, summary.scores["ch"]["model"].rows) == (1, 5)
    assert scores["ch"]["model"] == pytest.approx((1.3752 + 0.5) / 5, abs=1e-6)


def test_scores_do_not_depend_on_the_batches(fixture_images):
    one = localise(looks_left, fixture_images, input_resize=32, batch_size=1)
    many = localise(looks_left, fixture_images, input_resize=32, batch_size=64, workers=1)
    assert [row.scores for row in one.rows] == [row.scores for row in many.rows]


def test_a_decoy_that_looks_at_the_background_loses(white_squares):
    good, decoy = (
        values(localise(explain, white_squares, input_resize=64, batch_size=4), white_squares)[0]
        for explain in (looks_at_object, looks_at_background)
    )
    assert good["ch"]["model"] > 0.95
    assert good["spg"]["model"] > 0.99
    assert good["pg"]["model"] == 1
    assert decoy["ch"]["model"] < good["ch"]["uniform"] < good["ch"]["model"]
    assert decoy["spg"]["model"] < good["spg"]["uniform"]
    assert decoy["pg"]["model"] == 0


def test_a_given_tolerance_is_used(white_squares):
    near, far = (localise(looks_at_background, white_squares, input_resize=64, tolerance=t) for t in (1, 400))
    assert {row.tolerance for row in far.rows} == {400}
    assert values(far, white_squares)[0]["spg"]["model"] == pytest.approx(1)
    scores = values(near, white_squares)[0]
    assert scores["spg"]["model"] == scores["ch"]["model"]


def test_drawn_points_agree_with_the_expectation(white_squares):
    options = {"input_resize": 64, "metrics": ("spg",), "tolerance": 20}
    exact = localise(looks_at_background, white_squares, **options)
    drawn = localise(looks_at_background, white_squares, spg_samples=400, **options)
    again = localise(looks_at_background, white_squares, spg_samples=400, batch_size=1, **options)
    assert [row.scores for row in drawn.rows] == [row.scores for row in again.rows]
    for a, b in zip(exact.rows, drawn.rows, strict=True):
        p = a.score("spg")
        assert 0.01 < p < 0.99
        assert b.score("spg") == pytest.approx(p, abs=4 * (p * (1 - p) / 400) ** 0.5)
        assert b.score("spg") * 400 == pytest.approx(round(b.score("spg") * 400))


def test_unreadable_images_and_bad_maps_are_named(white_squares):
    white_squares[2].path.write_bytes(b"gone")

    def sometimes_nan(images, target):
        logits, maps = looks_at_object(images, target)
        return logits, torch.where((target == 1)[:, None, None], torch.nan, maps)

    result = localise(sometimes_nan, white_squares, input_resize=64, batch_size=4)
    assert [row.index for row in result.rows] == [0, 4]
    assert [failure.row for failure in result.failed] == [1, 2, 3, 5]
    assert [failure.reason for failure in result.failed] == [
        "logits or map not finite",
        "unreadable image",
        "logits or map not finite",
        "logits or map not finite",
    ]


def test_every_row_and_map_is_shown(fixture_images):
    seen = []

    def show(rows, maps):
        seen.extend((row.index, map_hw) for row, map_hw in zip(rows, maps, strict=True))

    localise(looks_left, fixture_images, input_resize=32, batch_size=2, on_maps=show)
    assert sorted(index for index, _ in seen) == [0, 1, 2, 3, 4]
    assert all(map_hw.shape == (2, 2) for _, map_hw in seen)
    assert {index for index, map_hw in seen if not map_hw.any()} == {3}


def test_modes_come_back_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()))
    model.train()
    model[1][0].eval()
    inside = []

    def work():
        with evaluating(model):
            inside.extend(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert inside == [False] * 5
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_nothing_scored_gives_no_numbers():
    summary = summarise([], [], ("ch", "pg", "top1"), num_classes=2)
    assert summary.scores["top1"] == {"model": None}
    assert summary.scores["pg"] == {"model": None, "uniform": None, "gaussian": None, "random": None}


def test_a_zero_map_counted_as_uniform_points_where_the_uniform_map_does(white_squares):
    """Resizing a constant map moves its peak by rounding: seen for 7×7 cells at sizes like these."""

    def blind(images, target):
        return torch.zeros(len(images), 2), torch.zeros(len(images), 7, 7)

    for image in white_squares:  # a box that holds the first pixel alone
        image.boxes[:] = 0
    result = localise(blind, white_squares, input_resize=32, zero_maps="uniform", tolerance=1)
    for row in result.rows:
        assert triple(row) == pytest.approx(triple(row, "uniform"), rel=1e-5)
        assert row.score("pg") == 1
