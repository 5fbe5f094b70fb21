"""Consistency between the heatmap of an image and that of a 2×2 grid of images which holds it.

Shapes: N batch, h×w feature grid of the image, H×W that of the composite (2h×2w for most networks).

Source: Explainable Models with Consistent Interpretations (GC, AAAI 2021): the composite's map for the image's class
should be the image's own map in the image's quadrant and nothing elsewhere. Cells of the composite are numbered 0..3
row-major.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cgc.losses.masks import EPS, Reduction, at_least_float32, reduced


def grid_consistency_loss(
    positive_maps: Tensor, composite_maps: Tensor, quadrant: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """``mean |g - t|`` with g the composite's map and t the positive one in its quadrant, zeros elsewhere.

    Both maps are normalised on their own grid, ``m / (sum m + 1e-8) + 1e-8``; gradients flow through both.

    Where the composite's grid is not exactly twice the image's (AlexNet: 13×13 and 27×27), its cells are the upper
    ⌈H/2⌉ and lower ⌊H/2⌋ rows, likewise the columns; the positive map is resized bilinearly to its cell and normalised
    again. Ours: the paper's networks but one have even grids, and it does not say.

    Args:
        positive_maps: (N, h, w), non-negative, any scale. Computed in float32 at least.
        composite_maps: (N, H, W) for the same classes.
        quadrant: (N,) integers 0..3: top left, top right, bottom left, bottom right.
        reduction: "mean" over the batch, or "none" for (N,).

    Returns a scalar, or (N,) for reduction "none", each in [0, 2 / (H·W)] up to the published epsilon.

    Raises ValueError for shapes that do not fit, a composite of less than 2×2 cells, an unknown reduction, and (on the
    CPU, since reading values would stall a GPU) a quadrant outside 0..3.
    """
    _check(positive_maps, composite_maps, quadrant)
    with torch.autocast(composite_maps.device.type, enabled=False):
        positive, composite = (_normalised(at_least_float32(m)) for m in (positive_maps, composite_maps))
        target = _in_quadrant(positive, composite.shape[1], composite.shape[2], quadrant)
        loss_N = (composite - target).abs().mean(dim=(1, 2))
    return reduced(loss_N, reduction)


def _in_quadrant(positive_Nhw: Tensor, height: int, width: int, quadrant_N: Tensor) -> Tensor:
    """(N, height, width): the normalised map in its cell, zeros elsewhere."""
    device = positive_Nhw.device
    rows, columns = ((height + 1) // 2, height // 2), ((width + 1) // 2, width // 2)
    if (height, width) == (2 * positive_Nhw.shape[1], 2 * positive_Nhw.shape[2]):
        everywhere = positive_Nhw.repeat(1, 2, 2)
    else:
        # The cells differ in size, so the map is made for each of them; which one counts is decided on the device.
        everywhere = torch.cat(
            [torch.cat([_resized(positive_Nhw, r, c) for c in columns], dim=2) for r in rows], dim=1
        )
    lower = torch.arange(height, device=device) >= rows[0]
    right = torch.arange(width, device=device) >= columns[0]
    cell_HW = 2 * lower[:, None].long() + right.long()
    return everywhere.masked_fill(cell_HW != quadrant_N[:, None, None], 0.0)


def _resized(maps_Nhw: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(maps_Nhw[:, None], (height, width), mode="bilinear", align_corners=False)
    return _normalised(resized[:, 0])


def _normalised(maps_Nhw: Tensor) -> Tensor:
    return maps_Nhw / (maps_Nhw.sum(dim=(1, 2), keepdim=True) + EPS) + EPS


def _check(positive_maps: Tensor, composite_maps: Tensor, quadrant: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (positive_maps, composite_maps, quadrant)]
    n = composite_maps.shape[:1]
    if [len(s) for s in shapes] != [3, 3, 1] or not n == positive_maps.shape[:1] == quadrant.shape:
        raise ValueError(f"expected maps (N, h, w) and (N, H, W) and quadrants (N,), got {shapes}")
    if min(shapes[1][1:]) < 2 or min(shapes[0][1:]) < 1:
        raise ValueError(f"a composite's map has at least 2×2 cells, got {shapes[1]} (positive: {shapes[0]})")
    if quadrant.device.type == "cpu" and bool(((quadrant < 0) | (quadrant > 3)).any()):
        raise ValueError(f"quadrants are 0..3, got {quadrant.tolist()}")
