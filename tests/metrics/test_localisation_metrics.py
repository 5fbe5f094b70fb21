"""Content Heatmap and the pointing games against recorded numbers, slow references and hand calculations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgc.metrics.baselines import centre_gaussian_map, uniform_map
from cgc.metrics.content_heatmap import ContentHeatmap, content_heatmap
from cgc.metrics.maps import full_size_map, near_region, normalise_map, peak, region_mask
from cgc.metrics.pointing_game import (
    PointingGame,
    StochasticPointingGame,
    pointing_game_hit,
    scaled_tolerance,
    stochastic_pointing_game,
)
from tests.references import regions as slow

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "localisation.npz")
SIZE = (12, 17)
boxes = st.lists(
    st.tuples(*(st.integers(-3, 19) for _ in range(4))).map(
        lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
    ),
    min_size=1,
    max_size=3,
)


def golden_cases():
    start = 0
    for index, (h, w, height, width) in enumerate(GOLDEN["map_and_image_hw"].tolist()):
        flat = GOLDEN["maps_flat"][start : start + h * w]
        start += h * w
        owned = GOLDEN["boxes_voc_1based_inclusive"][GOLDEN["box_owner"] == index] - 1
        yield index, torch.from_numpy(flat.reshape(h, w)), owned, (height, width)


@pytest.mark.parametrize("case", list(golden_cases()), ids=lambda case: str(case[0]))
def test_agrees_with_recorded_numbers(case):
    index, map_hw, owned, size = case
    assert content_heatmap(map_hw, owned, size) == pytest.approx(GOLDEN["ch"][index], rel=2e-5)
    assert pointing_game_hit(map_hw, owned, size) == GOLDEN["pg"][index]
    spg = stochastic_pointing_game(map_hw, owned, size)
    assert spg == pytest.approx(GOLDEN["spg_expectation"][index], rel=2e-5)
    expected = (GOLDEN["peak_row"][index], GOLDEN["peak_col"][index])
    assert peak(full_size_map(map_hw, size)) == expected


@settings(max_examples=40, deadline=None)
@given(boxes=boxes, tolerance=st.floats(0.5, 9), seed=st.integers(0, 99))
def test_equals_loops_over_pixels(boxes, tolerance, seed):
    map_hw = torch.rand(3, 4, generator=torch.Generator().manual_seed(seed))
    region, mask, full = torch.tensor(boxes), slow.union(boxes, SIZE), slow.full(map_hw, SIZE)
    assert torch.equal(region_mask(region, SIZE), mask)
    assert content_heatmap(map_hw, region, SIZE) == pytest.approx(float(full[mask].sum()), abs=1e-6)
    dilated = slow.near(mask, tolerance)
    assert torch.equal(near_region(mask, SIZE, tolerance), dilated)
    spg = stochastic_pointing_game(map_hw, mask, SIZE, tolerance=tolerance)
    assert spg == pytest.approx(float(full[dilated].sum()), abs=1e-6)
    inside = [b for b in boxes if b[0] < SIZE[1] and b[1] < SIZE[0] and b[2] >= 0 and b[3] >= 0]
    clipped = [[max(b[0], 0), max(b[1], 0), min(b[2], 16), min(b[3], 11)] for b in inside]
    if clipped:
        assert torch.equal(near_region(torch.tensor(clipped), SIZE, tolerance), dilated)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999))
def test_raw_and_normalised_maps_score_alike(seed):
    raw = 40 * torch.rand(5, 6, generator=torch.Generator().manual_seed(seed))
    region = torch.tensor([[2, 3, 9, 8]])
    for metric in (content_heatmap, stochastic_pointing_game):
        assert metric(raw, region, SIZE) == pytest.approx(metric(normalise_map(raw), region, SIZE), abs=2e-6)


def test_sampled_points_agree_with_the_expectation():
    map_hw = torch.rand(7, 7, generator=torch.Generator().manual_seed(1)) ** 4
    region, size, n = torch.tensor([[20, 20, 60, 70]]), (90, 120), 20_000
    exact = stochastic_pointing_game(map_hw, region, size)
    generator = torch.Generator().manual_seed(0)
    drawn = stochastic_pointing_game(map_hw, region, size, samples=n, generator=generator)
    assert 0.05 < exact < 0.95
    assert abs(drawn - exact) < 4 * (exact * (1 - exact) / n) ** 0.5


def test_peak_takes_the_first_of_a_tie():
    assert peak(full_size_map(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), (100, 100))) == (0, 75)


@pytest.mark.parametrize(
    ("region", "tolerance", "text"),
    [
        (torch.zeros(2, 3, dtype=torch.bool), 15, "does not fit"),
        (torch.zeros(1, 5, dtype=torch.int64), 15, "region is boxes"),
        (torch.zeros(1, 4), 15, "integers"),
        (torch.zeros(1, 4, dtype=torch.int64), 0, "tolerance"),
    ],
)
def test_refuses_what_it_cannot_score(region, tolerance, text):
    with pytest.raises(ValueError, match=text):
        pointing_game_hit(torch.ones(2, 2), region, SIZE, tolerance=tolerance)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_refuses_bad_maps(value):
    with pytest.raises(ValueError, match="finite and not negative"):
        content_heatmap(torch.tensor([[1.0, value]]), torch.tensor([[0, 0, 1, 1]]), SIZE)


def test_trivial_maps():
    region = torch.tensor([[0, 0, 16, 5]])
    assert content_heatmap(uniform_map(SIZE), region, SIZE) == pytest.approx(0.5)
    gaussian = centre_gaussian_map((200, 300))
    assert float(gaussian.sum()) == pytest.approx(1, abs=1e-5)
    assert peak(gaussian) == (99, 149)
    # One σ is a quarter of the side: exp(-1/2) of the maximum.
    assert float(gaussian[149, 149] / gaussian[99, 149]) == pytest.approx(np.exp(-0.5), rel=0.02)
    assert scaled_tolerance((64, 64)) == 2


def test_accumulators_leave_zero_maps_out_and_average_classes():
    left, right = torch.tensor([[0, 0, 49, 99]]), torch.tensor([[75, 0, 99, 99]])
    maps = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]).reshape(4, 1, 2)
    regions, sizes = [left, left, right, left], [(100, 100)] * 4
    ch, uniform = ContentHeatmap(), ContentHeatmap(zero_maps="uniform")
    for metric in (ch, uniform):
        metric.update(maps[:2], regions[:2], sizes[:2])
        metric.update(maps[2:], regions[2:], sizes[2:])
    # Bilinear from 1 to 0 over columns 25..74: the left half holds (25 + 18.75) of 50.
    assert float(ch.compute()) == pytest.approx((0.875 + 0.875 + 0) / 3, abs=1e-6)
    assert float(uniform.compute()) == pytest.approx((0.875 + 0.875 + 0 + 0.5) / 4, abs=1e-6)
    assert int(ch.zero_count) == int(uniform.zero_count) == 1
    spg = StochasticPointingGame(tolerance=3)
    spg.update(maps[2:3], [right], [(100, 100)])
    assert float(spg.compute()) == pytest.approx((0.03 + 0.01) / 50, abs=1e-6)
    pg = PointingGame(num_classes=5, tolerance=3)
    pg.update(maps, regions, sizes, labels=[0, 0, 3, 3])
    assert float(pg.compute()) == 0.5  # class 0: two hits of two; class 3: one miss; the others are unseen
    pg.reset()
    pg.update(maps[:3], regions[:3], sizes[:3], labels=[0, 0, 3], difficult=[False, False, True])
    assert float(pg.compute()) == 1.0
