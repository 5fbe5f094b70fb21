"""The window of an image that its `xe` view shows."""

from __future__ import annotations

import math

import torch

from cgc.spatial import crop_parameters

_SCALE, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


def draw_window(
    image_size: tuple[int, int], generator: torch.Generator
) -> tuple[tuple[int, int, int, int], bool]:
    """Crop (left, top, right, bottom) of an image of (width, height), and whether its view is flipped.

    The crop is the one that :func:`cgc.spatial.crop_parameters` draws, to the last bit. For a single image most of
    that one's time goes into calling torch, so the arithmetic here is on plain numbers (benchmarks/loader.py).
    """
    width, height = image_size
    state = generator.get_state()
    window = _first_that_fits(width, height, generator)
    if window is None:
        generator.set_state(state)
        drawn = crop_parameters(1, height, width, scale=_SCALE, ratio=_RATIO, generator=generator)
        top, left, h, w = (int(value) for value in drawn)
        window = left, top, left + w, top + h
    return window, torch.rand((), generator=generator).item() < 0.5


def _first_that_fits(width: int, height: int, generator: torch.Generator) -> tuple[int, int, int, int] | None:
    draws = torch.rand(4, 1, _TRIES, dtype=torch.float64, generator=generator)
    log_low, log_high = math.log(_RATIO[0]), math.log(_RATIO[1])
    # Of all the arithmetic only exp may round in another way outside of torch.
    aspects = torch.exp(log_low + (log_high - log_low) * draws[1])[0].tolist()
    areas, _, tops, lefts = draws[:, 0].tolist()
    for area, aspect, top, left in zip(areas, aspects, tops, lefts, strict=True):
        pixels = height * width * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * area)
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    return None
