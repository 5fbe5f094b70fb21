"""Maps and regions: what every localisation metric shares.

Shapes: ``map_hw`` a heatmap on its own grid, ``full_HW`` the same at the image's size (sums to 1),
``mask_HW`` bool; ``..`` and ``N`` leading dimensions of a batch, whose maps are scored each for itself: the
batch around a map changes nothing. A region is either boxes, int (B, 4) as x0 y0 x1 y1, 0-based and
inclusive, or a bool mask (H, W).

``scaled_maps``, ``zero_maps``, ``bilinear``, ``resized_maps``, ``peaks`` and ``masses_inside`` work on whatever device
the maps are on and never wait for it; the functions of a single map check their input and return Python numbers.
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


def scaled_maps(maps_hw: Tensor) -> Tensor:
    """(.., h, w) maps, each times the power of two that brings its largest magnitude into [1, 2).

    Exact, so an ordinary map's score stays what it was, and one of 1e-30 or 1e30 does not vanish in an epsilon
    or overflow in a sum. float32, or float64 if the maps are; zeros stay, an infinite value makes its map NaN.
    """
    maps_hw = maps_hw if maps_hw.dtype == torch.float64 else maps_hw.float()
    largest = maps_hw.detach().abs().amax(dim=(-2, -1), keepdim=True)
    # frexp's mantissa lies in [0.5, 1), so this quotient is a power of two and never overflows.
    power = largest / (2 * torch.frexp(largest).mantissa)
    # Filled, not torch.where with a number: that copies the number to the device and waits.
    return maps_hw / power.masked_fill(~(largest > 0), 1.0)


def normalise_map(map_hw: Tensor) -> Tensor:
    """``m / (sum + 1e-8) + 1e-8`` over the last two dimensions: sums to 1 and no cell is zero.

    The map is scaled first (``scaled_maps``), so that the epsilon is small beside every map.
    """
    map_hw = scaled_maps(map_hw)
    return map_hw / (map_hw.sum(dim=(-2, -1), keepdim=True) + EPSILON) + EPSILON


def zero_maps(maps_hw: Tensor) -> Tensor:
    """(..) bool: which of the raw maps (.., h, w) say nothing, having no positive value. NaN is not nothing."""
    return maps_hw.amax(dim=(-2, -1)) <= 0


def is_zero_map(map_hw: Tensor) -> bool:
    """Whether the raw map says nothing: no positive value anywhere."""
    return bool(zero_maps(map_hw))


def bilinear(maps_hw: Tensor, size: tuple[int, int]) -> Tensor:
    """(.., h, w) -> (.., H, W): bilinear with align_corners False, in the maps' dtype and on their device.

    ``functional.interpolate`` up to its rounding, which is the point: it spreads equal neighbours, and a cell at the
    right or lower edge, to values that differ in the last digit and from device to device, so that "the first of
    equal maxima" is any of them. A lerp between equal values returns just that value.
    """
    for dim in (-1, -2):
        low, high, share = _taps(maps_hw.shape[dim], size[dim], maps_hw)
        first, second = maps_hw.index_select(dim, low), maps_hw.index_select(dim, high)
        maps_hw = first.lerp(second, share if dim == -1 else share[:, None])
    return maps_hw


def _taps(cells: int, side: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of ``side`` pixels: the two cells around its centre, and the second one's share. Whole numbers up to
    the last division, so that nothing is rounded twice.
    """
    pixel = torch.arange(side, device=like.device)
    place = ((2 * pixel + 1) * cells - side).clamp(min=0, max=2 * side * (cells - 1))
    low = place // (2 * side)
    return low, (low + 1).clamp(max=cells - 1), (place % (2 * side)).to(like.dtype) / (2 * side)


def resized_maps(maps_hw: Tensor, image_size: tuple[int, int]) -> Tensor:
    """``full_size_map`` without its checks: (.., h, w) -> (.., H, W) float32, on the maps' device.

    Constant maps, zeros among them, and maps that lose all their mass to a smaller image become exactly
    ``uniform_map``. A map with NaN or infinity becomes NaN.
    """
    maps_hw = scaled_maps(maps_hw.detach())
    low, high = maps_hw.amin(dim=(-2, -1), keepdim=True), maps_hw.amax(dim=(-2, -1), keepdim=True)
    full_HW = bilinear(maps_hw.float(), image_size)
    total = _sum(full_HW)[..., None, None]
    flat = (high <= 0) | (low == high) | (total == 0)
    return (full_HW / total).masked_fill(flat, 1.0 / math.prod(image_size))


def framed_maps(maps_Nhw: Tensor, sizes_N2: Tensor, frame: tuple[int, int]) -> Tensor:
    """``resized_maps`` for images of different sizes at once: (N, h, w) to (N, H, W), zero outside of each image.

    ``sizes_N2``: height and width of each image, at most those of the ``frame`` (H, W), which they share top left.
    """
    maps_Nhw = scaled_maps(maps_Nhw.detach()).float()
    low, high = maps_Nhw.amin(dim=(-2, -1)), maps_Nhw.amax(dim=(-2, -1))
    full_NHW, own_NHW = maps_Nhw, None
    for dim in (2, 1):
        first, second, share, inside = _taps_each(
            maps_Nhw.shape[dim], sizes_N2[:, dim - 1], frame[dim - 1], maps_Nhw
        )
        index = (slice(None), None, slice(None)) if dim == 2 else (slice(None), slice(None), None)
        shape = [*full_NHW.shape]
        shape[dim] = frame[dim - 1]
        one, other = (full_NHW.gather(dim, taps[index].expand(shape)) for taps in (first, second))
        full_NHW = one.lerp(other, share[index].expand(shape))
        own_NHW = inside[index] if own_NHW is None else own_NHW & inside[index]
    assert own_NHW is not None
    full_NHW = full_NHW.masked_fill(~own_NHW, 0)
    total = _sum(full_NHW)
    flat = (high <= 0) | (low == high) | (total == 0)
    full_NHW = full_NHW / total[:, None, None]
    uniform = own_NHW / sizes_N2.prod(dim=1)[:, None, None]
    return torch.where(flat[:, None, None], uniform, full_NHW)


def _taps_each(
    cells: int, sides_N: Tensor, longest: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``_taps`` for sides of different length, (N, longest) each, and which pixels are within the side."""
    pixel, side = torch.arange(longest, device=like.device)[None], sides_N[:, None]
    place = ((2 * pixel + 1) * cells - side).clamp(min=0).minimum(2 * side * (cells - 1))
    low = place // (2 * side)
    share = (place % (2 * side)).to(like.dtype) / (2 * side)
    return low, (low + 1).clamp(max=cells - 1), share, pixel < side


def full_size_map(map_hw: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Resize bilinearly (align_corners False) to (.., H, W), normalise to sum 1; zeros become a uniform map.

    The published order is ``normalise_map`` first; its 1e-8 moves a score by 1e-6 at most, so it is left to the
    caller and a map may come raw or normalised, at any scale.

    Args:
        map_hw: (h, w) or a batch (.., h, w), non-negative and finite.
        image_size: (height, width) of the original image.

    Raises:
        ValueError: a map is not two-dimensional or empty, holds negative or non-finite values, or the size is not
            positive.
    """
    if map_hw.ndim < 2 or 0 in map_hw.shape[-2:]:
        raise ValueError(f"a map has two dimensions, not shape {tuple(map_hw.shape)}")
    if min(image_size) < 1:
        raise ValueError(f"image size must be positive, not {image_size}")
    if map_hw.numel():
        low, high = torch.stack((map_hw.detach().min(), map_hw.detach().max())).tolist()
        if not (low >= 0 and math.isfinite(high)):
            raise ValueError(f"a map must be finite and not negative (smallest value {low}, largest {high})")
    return resized_maps(map_hw, image_size)


def peaks(full_NHW: Tensor) -> Tensor:
    """(N, 2) row and column of each map's largest value; of equal ones the first in row-major order."""
    index_N = full_NHW.flatten(-2).argmax(dim=-1)
    width = full_NHW.shape[-1]
    return torch.stack((index_N.div(width, rounding_mode="floor"), index_N % width), dim=-1)


def peak(full_HW: Tensor) -> tuple[int, int]:
    """(row, column) of the largest value; of equal ones the first in row-major order."""
    row, column = peaks(full_HW).tolist()
    return row, column


def masses_inside(full_NHW: Tensor, mask_NHW: Tensor) -> Tensor:
    """(N,) share of each map where its mask is true, in [0, 1]; exactly 1 where that is everywhere."""
    return _sum(full_NHW * mask_NHW) / _sum(full_NHW)


def mass_inside(full_HW: Tensor, mask_HW: Tensor) -> float:
    """``masses_inside`` of one map."""
    return float(masses_inside(full_HW, mask_HW.to(full_HW.device)))


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


def _sum(maps_hw: Tensor) -> Tensor:
    """Over rows first: a reduction over both dimensions at once is split between threads differently for one map
    and for many, and a score would depend on its batch.
    """
    return maps_hw.sum(dim=-1).sum(dim=-1)


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
