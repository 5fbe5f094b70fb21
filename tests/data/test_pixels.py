"""Pillow is the oracle."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.data.pixels import Pixels, to_tensor
from cgc.data.views import draw_window, query_view, random_view
from tests.data.images import photograph

SIZES = [(500, 375), (333, 500), (64, 64), (97, 61), (1200, 90), (90, 1200), (301, 299), (20, 11), (3, 2)]
THIN = [(1, 1), (1, 300), (300, 1)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> Pixels:
    return Pixels(to_tensor(image))


def difference(one: Image.Image, other: Pixels) -> np.ndarray:
    assert other.size == one.size
    return np.abs(np.asarray(one).astype(int) - other.rgb_HW3.numpy())


@pytest.mark.parametrize("draw", [photograph, noise])
@pytest.mark.parametrize("width_height", [*SIZES, *THIN])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (64, 73), (32, 32), (50, 51)])
def test_queries_are_pillows(draw: object, width_height: tuple[int, int], size: int, resize: int) -> None:
    image = draw(*width_height)
    found = difference(query_view(image, size, resize), query_view(pixels(image), size, resize))
    assert found.max() <= 2
    assert found.mean() <= 0.3


@pytest.mark.parametrize("draw", [photograph, noise])
@pytest.mark.parametrize("width_height", [*SIZES, *THIN])
@pytest.mark.parametrize("size", [224, 64])
def test_random_views_are_pillows_but_for_their_border(
    draw: object, width_height: tuple[int, int], size: int
) -> None:
    image = draw(*width_height)
    for seed in range(8):
        one = random_view(image, size, torch.Generator().manual_seed(seed))
        other = random_view(pixels(image), size, torch.Generator().manual_seed(seed))
        found = difference(one, other)
        assert found.mean() <= 1.5
        # Pixels outside the crop weigh on as much of the view as one of its pixels, or of the view's, is wide.
        left, top, right, bottom = draw_window(image.size, torch.Generator().manual_seed(seed))[0]
        x, y = (1 + -(-size // length) for length in (right - left, bottom - top))
        inner = found[y:-y, x:-x]
        assert not inner.size or inner.max() <= 2


def test_any_geometry_of_query_and_crop_stays_close_to_pillow() -> None:
    """Pure noise, and sizes at random: a part one pixel off is some 85 grey levels off."""
    rng = random.Random(0)
    for seed in range(300):
        low, high = rng.choice([(1, 80), (20, 300)])
        image = noise(rng.randrange(low, high), rng.randrange(low, high), seed)
        size = rng.randrange(8, 130)
        resize = size + rng.choice([0, 1, size // 7, size // 2])
        query = query_view(pixels(image), size, resize)
        assert difference(query_view(image, size, resize), query).mean() < 1
        one, other = (torch.Generator().manual_seed(seed) for _ in range(2))
        found = difference(random_view(image, size, one), random_view(pixels(image), size, other))
        assert found.mean() < 2


def test_a_part_with_as_many_pixels_as_are_made_is_still_resized() -> None:
    """torch skips an axis whose length stays the same; with the filter's reach a longer part may have that length."""
    for width in range(33, 60):
        image = noise(width, 40)
        for wide in range(30, width):
            for out in (wide - 1, wide, wide + 1, wide + 2):
                box = (0, 0, wide, 40)
                expected = image.resize((out, 40), Image.Resampling.BILINEAR, box=box)
                assert difference(expected, pixels(image).resize((out, 40), box=box)).mean() < 1


def test_the_whole_image_is_resized_to_any_shape() -> None:
    image = photograph(123, 77)
    for size in ((32, 32), (200, 50), (123, 77), (1, 1)):
        expected = image.resize(size, Image.Resampling.BILINEAR)
        assert difference(expected, pixels(image).resize(size)).max() <= 1


def test_mirrored_pixels_have_left_and_right_exchanged() -> None:
    image = noise(7, 5)
    flip = Image.Transpose.FLIP_LEFT_RIGHT
    assert not difference(image.transpose(flip), pixels(image).transpose(flip)).any()


def test_pixels_have_the_sizes_of_an_image() -> None:
    image = pixels(photograph(30, 20))
    assert (image.width, image.height, image.size) == (30, 20, (30, 20))
    assert to_tensor(image).shape == (20, 30, 3)
