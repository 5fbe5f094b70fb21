"""Grid consistency cell by cell: loops wherever the definition has an index."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normalised(map_hw: Tensor) -> Tensor:
    return map_hw / (map_hw.sum() + 1e-8) + 1e-8


def resized(map_hw: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, align_corners False, pixel by pixel."""
    h, w = map_hw.shape
    rows = []
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0.0), h - 1.0)
        y0, row = math.floor(y), []
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0.0), w - 1.0)
            x0 = math.floor(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            upper = (1 - (x - x0)) * map_hw[y0, x0] + (x - x0) * map_hw[y0, x1]
            lower = (1 - (x - x0)) * map_hw[y1, x0] + (x - x0) * map_hw[y1, x1]
            row.append((1 - (y - y0)) * upper + (y - y0) * lower)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def target_map(positive_hw: Tensor, height: int, width: int, quadrant: int) -> Tensor:
    """(height, width): the normalised positive map in its quadrant, zeros in the three others."""
    g = normalised(positive_hw)
    down, across = quadrant // 2, quadrant % 2
    cell_height = height // 2 if down else height - height // 2
    cell_width = width // 2 if across else width - width // 2
    if (height, width) != (2 * g.shape[0], 2 * g.shape[1]):
        g = normalised(resized(g, cell_height, cell_width))
    target = torch.zeros(height, width, dtype=g.dtype)
    for i in range(cell_height):
        for j in range(cell_width):
            y = i + (height - cell_height if down else 0)
            x = j + (width - cell_width if across else 0)
            target[y, x] = g[i, j]
    return target


def grid_consistency_loss(positive_Nhw: Tensor, composite_NHW: Tensor, quadrant_N: Tensor) -> Tensor:
    """Per-sample losses (N,)."""
    losses = []
    for positive, composite, quadrant in zip(positive_Nhw, composite_NHW, quadrant_N.tolist(), strict=True):
        height, width = composite.shape
        target, g = target_map(positive, height, width, quadrant), normalised(composite)
        total = torch.zeros((), dtype=g.dtype)
        for y in range(height):
            for x in range(width):
                total = total + (g[y, x] - target[y, x]).abs()
        losses.append(total / (height * width))
    return torch.stack(losses)


def composite(positive_CSS: Tensor, distractors_3CSS: Tensor, quadrant: int) -> Tensor:
    """(C, 2S, 2S): the positive image in its quadrant, the three others in the free cells in order."""
    others = list(distractors_3CSS)
    cells = [positive_CSS if cell == quadrant else others.pop(0) for cell in range(4)]
    return torch.cat([torch.cat(cells[:2], dim=2), torch.cat(cells[2:], dim=2)], dim=1)
