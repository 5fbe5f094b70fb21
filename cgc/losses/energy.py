"""Supervised energy: the share of a heatmap's mass that lies outside of the annotated boxes.

Shapes: N batch, B boxes per image, h×w feature grid, H×W image, I×J intervals between box edges.

The Content Heatmap score (the metric of GC, AAAI 2021, and CGC, CVPR 2022) made differentiable, in the spirit of the
energy loss of Rao et al., "Studying How to Efficiently and Effectively Guide Models with Explanations" (ICCV 2023). The
mass of an upsampled map ``U_r M U_cᵀ`` inside a region is linear in M, so the region is brought down to the grid once
(:func:`region_weights`) instead of every map up to the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cgc.losses.masks import Reduction, at_least_float32, reduced
from cgc.spatial import upsampling_matrix

_SMALLEST = 1e-20  # a map nowhere above this counts as zero; keeps one over it in float32


def energy_loss(
    maps: Tensor, boxes: Tensor, image_size: tuple[int, int], *, reduction: Reduction = "mean"
) -> Tensor:
    """``1 - CH``: one minus the share of the bilinearly upsampled map's mass inside the union of the boxes.

    Args:
        maps: (N, h, w), non-negative, any scale. Computed in float32 at least.
        boxes: (N, B, 4) integers x0 y0 x1 y1 in the image's pixels, 0-based and inclusive. What leaves the image is cut
            off; empty ones (x1 < x0) pad images of fewer boxes.
        image_size: (height, width) of the images that the maps explain.
        reduction: "mean" over the batch, those without boxes included, or "none" for (N,).

    Returns a scalar, or (N,) for reduction "none", each in [0, 1] up to rounding. An image without a box contributes 0.
    A map of zeros (below 1e-20) counts as uniform and has no gradient; others' gradients grow as one over their size.

    Raises ValueError for shapes that do not fit, boxes that are no integers, or an unknown reduction.
    """
    if maps.dim() != 3:
        raise ValueError(f"maps must be (N, h, w), got {tuple(maps.shape)}")
    with torch.autocast(maps.device.type, enabled=False):
        maps = at_least_float32(maps)
        inside_Nhw, total_hw = region_weights(boxes, image_size, maps)
        # Only ratios matter; brought to a largest value of 1, neither sum vanishes or overflows.
        largest_N11 = maps.detach().amax(dim=(1, 2), keepdim=True)
        zero_N11 = ~(largest_N11 > _SMALLEST)
        maps = (maps / largest_N11.masked_fill(zero_N11, 1.0)).masked_fill(zero_N11, 1.0)
        share_N = (maps * inside_Nhw).sum((1, 2)) / (maps * total_hw).sum((1, 2))
        loss_N = (1 - share_N).masked_fill(~has_boxes(boxes, image_size), 0.0)
    return reduced(loss_N, reduction)


def region_weights(boxes: Tensor, image_size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the region's pixels, and of all, each cell of a map stands for: (N, h, w) and (h, w).

    The mass of the upsampled map inside the region is the sum of map times weights. ``like`` (.., h, w) gives the grid,
    device and dtype. The union of the boxes is found on the intervals between their edges, so no H×W mask is made.
    """
    _check(boxes, like, image_size)
    (h, w), (height, width) = like.shape[-2:], image_size
    x0, x1 = _extent(boxes[..., 0], boxes[..., 2], width)
    y0, y1 = _extent(boxes[..., 1], boxes[..., 3], height)
    rows_up_to, columns_up_to = _running_sum(height, h, like), _running_sum(width, w, like)
    in_rows_NBI, rows_NIh = _between_edges(y0, y1, rows_up_to)
    in_columns_NBJ, columns_NJw = _between_edges(x0, x1, columns_up_to)
    # How many boxes cover a rectangle between edges; small whole numbers, exact in every precision. Empty boxes cover
    # no interval, or some of no extent.
    boxes_NIJ = in_rows_NBI.to(like.dtype).mT @ in_columns_NBJ.to(like.dtype)
    weights_Nhw = rows_NIh.mT @ (boxes_NIJ > 0.5).to(like.dtype) @ columns_NJw
    return weights_Nhw, rows_up_to[-1][:, None] * columns_up_to[-1]


def has_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N,) bool: whether any of an image's boxes (N, B, 4) has a pixel inside the image."""
    height, width = image_size
    x0, x1 = _extent(boxes[..., 0], boxes[..., 2], width)
    y0, y1 = _extent(boxes[..., 1], boxes[..., 3], height)
    return ((x0 < x1) & (y0 < y1)).any(dim=1)


def _extent(first: Tensor, last: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """From inclusive pixels to a half-open range inside the image."""
    return first.clamp(0, size), (last + 1).clamp(0, size)


def _running_sum(size: int, cells: int, like: Tensor) -> Tensor:
    """(size + 1, cells): row p is the sum of the first p rows of the upsampling matrix."""
    up = upsampling_matrix(size, cells, like).cumsum(dim=0)
    return torch.cat([torch.zeros_like(up[:1]), up])


def _between_edges(start_NB: Tensor, end_NB: Tensor, up_to: Tensor) -> tuple[Tensor, Tensor]:
    """For the 2B-1 intervals between an image's sorted edges: which boxes cover them, and the cells' weights there."""
    edges = torch.cat([start_NB, end_NB], dim=1).sort(dim=1).values
    low, high = edges[:, None, :-1], edges[:, None, 1:]
    covers_NBI = (start_NB[..., None] <= low) & (high <= end_NB[..., None])
    return covers_NBI, up_to[edges[:, 1:]] - up_to[edges[:, :-1]]


def _check(boxes: Tensor, like: Tensor, image_size: tuple[int, int]) -> None:
    n = like.shape[0]
    if boxes.dim() != 3 or boxes.shape[0] != n or boxes.shape[1] < 1 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be ({n}, B, 4) with B >= 1, got {tuple(boxes.shape)}")
    if boxes.is_floating_point() or boxes.dtype == torch.bool:
        raise ValueError(f"boxes are whole pixels (x0 y0 x1 y1, inclusive): integers, not {boxes.dtype}")
    if min(image_size) < 1:
        raise ValueError(f"image size must be positive, not {image_size}")
