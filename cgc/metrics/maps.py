"""Maps and regions: what every localisation metric shares.

Shapes: ``map_hw`` a heatmap on its own grid, ``full_HW`` the same at the image's size (sums to 1),
``mask_HW`` bool. A region is either boxes, int (B, 4) as x0 y0 x1 y1, 0-based and inclusive, or a bool
mask (H, W).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-8
Region = Tensor | npt.NDArray[np.int64] | npt.NDArray[np.bool_]


def normalise_map(map_hw: Tensor) -> Tensor:
    """``m / (sum + 1e-8) + 1e-8`` over the last two dimensions: sums to 1 and no cell is zero."""
    return map_hw / (map_hw.sum(dim=(-2, -1), keepdim=True) + EPSILON) + EPSILON


def is_zero_map(map_hw: Tensor) -> bool:
    """Whether the raw map says nothing: no positive value anywhere."""
    return not bool((map_hw > 0).any())


def full_size_map(map_hw: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Resize bilinearly (align_corners False) to (H, W), normalise to sum 1; zeros become a uniform map.

    The published order is ``normalise_map`` first; its 1e-8 moves a score by 1e-6 at most unless the whole
    raw map is about as small, so it is left to the caller and a map may come raw or normalised.

    Args:
        map_hw: (h, w), non-negative and finite.
        image_size: (height, width) of the original image.

    Raises:
        ValueError: the map is not two-dimensional, holds negative or non-finite values, or the size is not
            positive.
    """
    if map_hw.ndim != 2:
        raise ValueError(f"a map has two dimensions, not shape {tuple(map_hw.shape)}")
    if min(image_size) < 1:
        raise ValueError(f"image size must be positive, not {image_size}")
    map_hw = map_hw.detach().float()
    low, total = float(map_hw.min()), float(map_hw.sum())
    if not (low >= 0 and math.isfinite(total)):
        raise ValueError(f"a map must be finite and not negative (smallest value {low}, sum {total})")
    if total == 0:
        map_hw = torch.ones_like(map_hw)
    full_HW = functional.interpolate(
        map_hw[None, None], size=image_size, mode="bilinear", align_corners=False
    )[0, 0]
    return full_HW / full_HW.sum()


def peak(full_HW: Tensor) -> tuple[int, int]:
    """(row, column) of the largest value; of equal ones the first in row-major order."""
    # NumPy promises the first of equal values, torch.argmax does not.
    row, column = divmod(int(full_HW.cpu().numpy().argmax()), full_HW.shape[1])
    return row, column


def region_mask(region: Region, image_size: tuple[int, int]) -> Tensor:
    """Union of the boxes (parts outside the image are cut off), or the mask itself: bool (H, W) on the
    CPU.
    """
    region = _checked(region, image_size)
    if region.dtype == torch.bool:
        return region
    mask_HW = torch.zeros(image_size, dtype=torch.bool)
    for x0, y0, x1, y1 in region.tolist():
        mask_HW[max(y0, 0) : max(y1 + 1, 0), max(x0, 0) : max(x1 + 1, 0)] = True
    return mask_HW


def near_region(region: Region, image_size: tuple[int, int], tolerance: float) -> Tensor:
    """Pixels whose Euclidean distance to the nearest pixel of the region is below ``tolerance``
    (strictly): bool (H, W).

    Exact for boxes and masks alike.

    Raises:
        ValueError: ``tolerance`` is not positive, or the region is neither boxes nor a mask of the image's
        size.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    region = _checked(region, image_size)
    if region.dtype == torch.bool:
        return _dilated(region, tolerance)
    height, width = image_size
    near_HW = torch.zeros(image_size, dtype=torch.bool)
    reach = math.ceil(tolerance)
    for x0, y0, x1, y1 in region.tolist():
        if x1 < x0 or y1 < y0:
            continue
        top, bottom = max(y0 - reach, 0), min(y1 + reach + 1, height)
        left, right = max(x0 - reach, 0), min(x1 + reach + 1, width)
        if top >= bottom or left >= right:
            continue
        rows, columns = torch.arange(top, bottom), torch.arange(left, right)
        dy = (y0 - rows).clamp(min=0) + (rows - y1).clamp(min=0)
        dx = (x0 - columns).clamp(min=0) + (columns - x1).clamp(min=0)
        near_HW[top:bottom, left:right] |= (dy * dy)[:, None] + (dx * dx)[None, :] < tolerance**2
    return near_HW


def mass_inside(full_HW: Tensor, mask_HW: Tensor) -> float:
    """Share of the map where the mask is true, in [0, 1]; exactly 1 where that is everywhere."""
    values = full_HW.cpu()
    return float((values * mask_HW).sum() / values.sum())


def _checked(region: Region, image_size: tuple[int, int]) -> Tensor:
    tensor = torch.as_tensor(region).cpu()
    if tensor.dtype == torch.bool:
        if tuple(tensor.shape) != tuple(image_size):
            raise ValueError(f"a mask of {tuple(tensor.shape)} does not fit an image of {tuple(image_size)}")
        return tensor
    if tensor.ndim != 2 or tensor.shape[1] != 4:
        raise ValueError(f"a region is boxes (B, 4) or a bool mask (H, W), not shape {tuple(tensor.shape)}")
    if tensor.is_floating_point():
        raise ValueError("boxes are whole pixels (x0 y0 x1 y1, inclusive): integers, not floats")
    return tensor


def _dilated(mask_HW: Tensor, tolerance: float) -> Tensor:
    """A row of the disc is an interval, so each of its rows costs one windowed count over a running sum."""
    height, width = mask_HW.shape
    reach = min(math.ceil(tolerance) - 1, max(height, width))
    # counts[:, reach + x] = mask pixels left of column x, so a window's count is the difference of two
    # slices.
    inner = functional.pad(mask_HW.cumsum(dim=1, dtype=torch.int32), (1, 0))
    counts = torch.cat((inner.new_zeros(height, reach), inner, inner[:, -1:].expand(-1, reach)), dim=1)
    near_HW = torch.zeros_like(mask_HW)
    for dy in range(min(reach, height - 1) + 1):
        half = next(dx for dx in range(reach, -1, -1) if dx * dx + dy * dy < tolerance**2)
        low, high = reach - half, reach + half + 1
        wide_HW = counts[:, high : high + width] > counts[:, low : low + width]
        near_HW[: height - dy] |= wide_HW[dy:]
        near_HW[dy:] |= wide_HW[: height - dy]
    return near_HW
