"""Slow, obvious insertion and deletion: one image, one pixel after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor


def resized(map_hw: Tensor, size: tuple[int, int]) -> list[list[Fraction]]:
    """Bilinear, align_corners False, in fractions: pixel centres are mapped to the grid, outside its outer cells'
    centres to those.
    """

    def place(pixel: int, side: int, cells: int) -> tuple[int, int, Fraction]:
        where = min(
            max(Fraction(2 * pixel + 1, 2) * cells / side - Fraction(1, 2), Fraction(0)), Fraction(cells - 1)
        )
        low = math.floor(where)
        return low, min(low + 1, cells - 1), where - low

    grid = [[Fraction(value) for value in row] for row in map_hw.double().tolist()]
    (h, w), (height, width) = map_hw.shape, size
    rows = []
    for row in range(height):
        r0, r1, dr = place(row, height, h)
        values = []
        for column in range(width):
            c0, c1, dc = place(column, width, w)
            top = grid[r0][c0] * (1 - dc) + grid[r0][c1] * dc
            bottom = grid[r1][c0] * (1 - dc) + grid[r1][c1] * dc
            values.append(top * (1 - dr) + bottom * dr)
        rows.append(values)
    return rows


def pixel_order(map_hw: Tensor, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(row, column) in decreasing order of the resized map, equal values in row-major order."""
    values = resized(map_hw, size)
    pixels = [(row, column) for row in range(size[0]) for column in range(size[1])]
    return sorted(pixels, key=lambda pixel: (-values[pixel[0]][pixel[1]], pixel))


def blurred(image_CHW: Tensor, kernel: Tensor) -> Tensor:
    """A weighted sum around every pixel; there is nothing outside the image."""
    channels, height, width = image_CHW.shape
    reach = len(kernel) // 2
    result = torch.zeros_like(image_CHW)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                for dy in range(-reach, reach + 1):
                    for dx in range(-reach, reach + 1):
                        y, x = row + dy, column + dx
                        if 0 <= y < height and 0 <= x < width:
                            weight = kernel[reach + dy, reach + dx]
                            result[channel, row, column] += weight * image_CHW[channel, y, x]
    return result


def blank(image_CHW: Tensor, baseline: str, kernel: Tensor) -> Tensor:
    """The image without its pixels."""
    if baseline == "blur":
        return blurred(image_CHW, kernel)
    if baseline == "mean":
        return torch.stack([torch.full_like(channel, float(channel.mean())) for channel in image_CHW])
    return torch.zeros_like(image_CHW)


def curve(
    predict: Callable[[Tensor], Tensor],
    image_CHW: Tensor,
    map_hw: Tensor,
    blank_CHW: Tensor,
    *,
    target: int | None,
    steps: int,
    inserting: bool,
) -> list[float]:
    """Probability of the class after every step."""
    order = pixel_order(map_hw, (image_CHW.shape[1], image_CHW.shape[2]))
    label = int(predict(image_CHW[None])[0].argmax()) if target is None else target
    start, finish = (blank_CHW, image_CHW) if inserting else (image_CHW, blank_CHW)
    scores = []
    for step in range(steps + 1):
        now = start.clone()
        for row, column in order[: math.floor(Fraction(step * len(order), steps) + Fraction(1, 2))]:
            now[:, row, column] = finish[:, row, column]
        scores.append(float(predict(now[None])[0, label]))
    return scores
