"""Slow, obvious versions of the localisation metrics: loops over pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def near(mask_HW: Tensor, tolerance: float) -> Tensor:
    """Pixels closer than `tolerance` to a true pixel."""
    points = mask_HW.nonzero().tolist()
    result = torch.zeros_like(mask_HW)
    for row in range(mask_HW.shape[0]):
        for column in range(mask_HW.shape[1]):
            result[row, column] = any((row - r) ** 2 + (column - c) ** 2 < tolerance**2 for r, c in points)
    return result


def union(boxes: list[list[int]], size: tuple[int, int]) -> Tensor:
    """Pixels in any of the boxes."""
    mask = torch.zeros(size, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        for row in range(size[0]):
            for column in range(size[1]):
                mask[row, column] |= y0 <= row <= y1 and x0 <= column <= x1
    return mask


def full(map_hw: Tensor, size: tuple[int, int]) -> Tensor:
    """The published order: normalise on the grid, resize, normalise."""
    grid = map_hw.double() / (map_hw.double().sum() + 1e-8) + 1e-8
    large = functional.interpolate(grid[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return large / large.sum()
