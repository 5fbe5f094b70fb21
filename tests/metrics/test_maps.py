"""Batches of maps against single ones, and what floating point could do to a score."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cgc.metrics.baselines import centre_gaussian_map, random_map, uniform_map
from cgc.metrics.content_heatmap import content_heatmap
from cgc.metrics.maps import (
    bilinear,
    framed_maps,
    full_size_map,
    is_zero_map,
    mass_inside,
    masses_inside,
    normalise_map,
    peak,
    peaks,
    resized_maps,
    scaled_maps,
    zero_maps,
)
from cgc.metrics.pointing_game import pointing_game_hit, stochastic_pointing_game
from tests.references import regions as slow

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def random_maps(n: int, grid: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Non-negative, with zeros, as from a ReLU."""
    return torch.randn(n, *grid, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


@settings(max_examples=40, deadline=None)
@given(grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=sizes, seed=st.integers(0, 999))
def test_a_batch_is_its_maps_one_by_one(grid, size, seed):
    maps = random_maps(5, grid, seed)
    masks = torch.rand(5, *size, generator=torch.Generator().manual_seed(seed)) > 0.5
    full = resized_maps(maps, size)
    assert full.shape == (5, *size)
    assert full.sum(dim=(1, 2)).tolist() == pytest.approx([1] * 5, abs=1e-5)
    inside, places, zeros = masses_inside(full, masks), peaks(full), zero_maps(maps)
    assert places.dtype == torch.int64
    for i, map_hw in enumerate(maps):
        assert torch.equal(full[i], full_size_map(map_hw, size))
        assert tuple(places[i].tolist()) == peak(full[i])
        assert float(inside[i]) == mass_inside(full[i], masks[i])
        assert bool(zeros[i]) == is_zero_map(map_hw)
        if not zeros[i]:
            # The oracle normalises first, as published: beside little mass in a smaller image its epsilon counts.
            published = mass_inside(full_size_map(normalise_map(map_hw), size), masks[i])
            expected = slow.full(map_hw, size)
            assert published == pytest.approx(float(expected[masks[i]].sum()), abs=1e-6)
    assert torch.equal(full_size_map(maps.reshape(1, 5, *grid), size)[0], full)


@settings(max_examples=40, deadline=None)
@given(grid=sizes, size=sizes, seed=st.integers(0, 999))
def test_the_resize_is_bilinear_interpolation(grid, size, seed):
    maps = random_maps(2, grid, seed).double()
    expected = functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(bilinear(maps, size), expected, rtol=0, atol=1e-12)
    if grid == size:
        assert torch.equal(bilinear(maps, size), maps)


def test_nothing_waits_for_the_device():
    """Tensors on "meta" have no values: whoever asks for one raises."""
    maps = torch.empty(3, 7, 7, device="meta")
    full = resized_maps(maps, (90, 120))
    masks = torch.empty(3, 90, 120, dtype=torch.bool, device="meta")
    assert (full.dtype, full.shape) == (torch.float32, (3, 90, 120))
    assert (peaks(full).shape, masses_inside(full, masks).shape) == ((3, 2), (3,))
    assert (zero_maps(maps).dtype, zero_maps(maps).shape) == (torch.bool, (3,))
    assert normalise_map(maps).shape == maps.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_scores_alike_and_is_not_waited_for():
    maps, masks = random_maps(8, (7, 7)), torch.rand(8, 90, 120) > 0.5
    maps[3] = 0
    expected = resized_maps(maps, (90, 120))
    maps_gpu, masks_gpu = maps.cuda(), masks.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        full = resized_maps(maps_gpu, (90, 120))
        places, inside, zeros = peaks(full), masses_inside(full, masks_gpu), zero_maps(maps_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(full.cpu(), expected, rtol=1e-5, atol=1e-9)
    assert torch.equal(places.cpu(), peaks(expected))
    assert zeros.tolist() == zero_maps(maps).tolist()
    torch.testing.assert_close(inside.cpu(), masses_inside(expected, masks), rtol=0, atol=1e-6)


def test_an_empty_batch_is_no_trouble():
    maps = torch.empty(0, 7, 7)
    full = full_size_map(maps, (9, 8))
    assert full.shape == (0, 9, 8)
    assert (peaks(full).shape, zero_maps(maps).shape) == ((0, 2), (0,))


@pytest.mark.parametrize(
    "map_hw", [torch.zeros(7, 7), torch.full((7, 7), 3.7), torch.ones(1, 1), torch.ones(5, 5).half()]
)
def test_constant_maps_are_exactly_the_uniform_one(map_hw):
    for size in ((90, 121), (1, 1), (224, 333)):
        full = full_size_map(map_hw, size)
        assert torch.equal(full, uniform_map(size))
        assert peak(full) == (0, 0)


def test_the_first_pixel_of_a_plateau_is_the_peak():
    """The outer half of an edge cell is one value. Plain interpolation rounds it to several."""
    maps = torch.zeros(4, 7, 7)
    maps[0, 6, 6] = maps[1, 0, 6] = maps[2, 6, 0] = 0.3
    maps[3, 2:4, 4] = 0.3  # the plateau lies between two centres: rows 2.5 · 100/7 to 3.5 · 100/7
    for width in (100, 131, 163):
        column, between = -(-(13 * width - 7) // 14), -(-(9 * width - 7) // 14)
        expected = [[93, column], [0, column], [93, 0]]
        found = peaks(resized_maps(maps, (100, width))).tolist()
        assert found[:3] == expected
        assert found[3][0] == 36
        assert abs(found[3][1] - between) <= 1


@pytest.mark.parametrize("scale", [1e-30, 1e-42, 1e30, 3e38])
def test_the_scale_of_a_map_changes_no_score(scale):
    raw = random_maps(1, (6, 5), seed=3)[0].double()
    raw /= raw.max()
    scaled, size, box = (raw * scale).float(), (60, 70), torch.tensor([[10, 5, 40, 33]])
    abs_error = 1e-6 if scale != 1e-42 else 2e-3  # 1e-42 has ten bits left
    for metric in (content_heatmap, stochastic_pointing_game):
        expected = metric(raw.float(), box, size)
        assert metric(scaled, box, size) == pytest.approx(expected, abs=abs_error)
        assert metric(normalise_map(scaled), box, size) == pytest.approx(expected, abs=abs_error)
    assert peak(full_size_map(scaled, size)) == peak(full_size_map(raw, size))
    assert not is_zero_map(scaled)


def test_powers_of_two_change_nothing_at_all():
    maps = random_maps(4, (6, 5), seed=3)
    expected = resized_maps(maps, (60, 70))
    for power in (2.0**-100, 2.0**100):
        assert torch.equal(resized_maps(maps * power, (60, 70)), expected)
    mixed = maps * torch.tensor([1.0, 2.0**-90, 2.0**90, 4.0])[:, None, None]
    assert torch.equal(resized_maps(mixed, (60, 70)), expected)
    assert torch.equal(scaled_maps(maps * 2.0**-7), scaled_maps(maps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_maps_of_other_types_score_as_their_float32_values(dtype):
    maps = (300 * random_maps(3, (14, 14))).to(dtype)  # their sum is beyond float16
    full = resized_maps(maps, (64, 80))
    assert full.dtype == torch.float32
    # Scaling first and rounding to float32 second may differ in the last digit of a float64.
    torch.testing.assert_close(full, resized_maps(maps.float(), (64, 80)), rtol=1e-6, atol=0)
    normalised = normalise_map(maps)
    assert float(normalised.sum()) == pytest.approx(3, abs=1e-4)
    assert float(normalised.min()) > 0


def test_a_map_whose_only_cell_falls_between_the_pixels_of_a_small_image():
    one = torch.zeros(40, 40)
    one[1, 1] = 1
    assert torch.equal(full_size_map(one, (4, 4)), uniform_map((4, 4)))


def test_bad_maps_in_a_batch():
    maps = torch.ones(3, 2, 2)
    maps[1, 0, 0] = torch.nan
    assert torch.isnan(resized_maps(maps, (5, 5))).flatten(1).any(1).tolist() == [False, True, False]
    assert zero_maps(torch.full((1, 2, 2), torch.nan)).tolist() == [False]
    for bad in (torch.nan, torch.inf, -0.5):
        maps[1, 0, 0] = bad
        with pytest.raises(ValueError, match="finite and not negative"):
            full_size_map(maps, (5, 5))
    for shape, size, text in (
        ((4,), (5, 5), "two dim"),
        ((0, 4), (5, 5), "two dim"),
        ((2, 2), (0, 5), "positive"),
    ):
        with pytest.raises(ValueError, match=text):
            full_size_map(torch.ones(shape), size)


def test_the_smallest_things_are_scored():
    pixel, size = torch.tensor([[3, 2, 3, 2]]), (6, 8)
    one = torch.zeros(6, 8)
    one[2, 3] = 5
    assert content_heatmap(one, pixel, size) == 1
    assert pointing_game_hit(one, pixel, size, tolerance=0.5)
    assert not pointing_game_hit(one, pixel + 1, size, tolerance=1)
    assert pointing_game_hit(one, pixel + 1, size, tolerance=1.5)
    dot = torch.tensor([[0.2]])
    assert content_heatmap(dot, pixel, size) == pytest.approx(1 / 48)
    assert stochastic_pointing_game(dot, pixel, size, tolerance=1.1) == pytest.approx(5 / 48)
    assert content_heatmap(torch.zeros(3, 3), pixel, size) == pytest.approx(1 / 48)
    assert content_heatmap(dot, torch.tensor([[0, 0, 0, 0]]), (1, 1)) == 1
    assert pointing_game_hit(torch.zeros(2, 2), torch.tensor([[0, 0, 0, 0]]), size, tolerance=1)


@pytest.mark.parametrize("samples", [100, 20_000])
@pytest.mark.parametrize("kind", ["boxes", "mask", "pixel", "zero map"])
def test_sampled_points_lie_within_four_standard_errors_of_the_expectation(samples, kind):
    size, tolerance = (70, 95), 9
    map_hw = torch.rand(7, 7, generator=torch.Generator().manual_seed(1)) ** 4 * (kind != "zero map")
    region = torch.tensor([[20, 20, 50, 45], [60, 5, 70, 30]])
    if kind == "mask":
        region = centre_gaussian_map(size) > centre_gaussian_map(size).median()
    elif kind == "pixel":
        region = torch.tensor([[35, 52, 35, 52]])
    exact = stochastic_pointing_game(map_hw, region, size, tolerance=tolerance)
    generator = torch.Generator().manual_seed(0)
    options = {"samples": samples, "generator": generator, "tolerance": tolerance}
    drawn = stochastic_pointing_game(map_hw, region, size, **options)
    assert 0.01 < exact < 0.95
    assert abs(drawn - exact) < 4 * (exact * (1 - exact) / samples) ** 0.5


def test_a_random_map_is_a_function_of_seed_and_grid():
    torch.manual_seed(0)
    first = random_map((7, 5), 3)
    torch.manual_seed(1)
    assert torch.equal(random_map((7, 5), 3), first)
    assert not torch.equal(random_map((7, 5), 4), first)
    assert (first.shape, first.dtype) == ((7, 5), torch.float32)
    many = random_map((200, 200), 0)
    assert float(many.min()) >= 0
    assert float(many.max()) < 1
    # Mean of uniform values: four standard errors of 1/√12/200.
    assert float(many.mean()) == pytest.approx(0.5, abs=4 / 12**0.5 / 200)


def test_maps_in_one_frame_are_those_at_their_own_sizes() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        n = int(torch.randint(1, 6, (), generator=generator))
        h, w = torch.randint(1, 9, (2,), generator=generator).tolist()
        sizes = torch.randint(1, 60, (n, 2), generator=generator)
        frame = (int(sizes[:, 0].max()) + n, int(sizes[:, 1].max()))
        maps = torch.rand(n, h, w, generator=generator)
        maps[0] = 0
        maps[-1, 0, 0] *= 1e30
        framed = framed_maps(maps, sizes, frame)
        assert framed.shape == (n, *frame)
        for full_HW, map_hw, (height, width) in zip(framed, maps, sizes.tolist(), strict=True):
            expected = resized_maps(map_hw, (height, width))
            torch.testing.assert_close(full_HW[:height, :width], expected, rtol=1e-6, atol=1e-9)
            assert peak(full_HW) == peak(expected)
            assert not full_HW[height:].any()
            assert not full_HW[:, width:].any()
    bad = framed_maps(
        torch.tensor([[[torch.nan, 1.0]], [[1.0, 2.0]]]), torch.tensor([[2, 2], [2, 3]]), (2, 3)
    )
    assert bad[0, :2, :2].isnan().all()
    assert bad[1].isfinite().all()
