"""Boxes of an image as its cropped, resized and flipped view shows them.

Shapes: N images, B boxes each: x0 y0 x1 y1, 0-based and inclusive. Empty boxes (x1 < x0) pad images of fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def boxes_in_view(boxes: Tensor, window: Tensor, hflip: Tensor, size: int) -> Tensor:
    """Boxes of the source images as boxes of their size×size views, (N, B, 4) int64; what is not seen becomes empty.

    A pixel that a box touches belongs to it. ``window`` (N, 4) is the crop that was resized to the view, as left, top,
    right, bottom in source pixels counted from the image's corner (fractions allowed, computed in float64); ``hflip``
    (N,) bool. Empty boxes become 0 0 -1 -1.
    """
    left, top, right, bottom = window.double()[:, :, None].unbind(dim=1)

    def along(first: Tensor, last: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        scale = size / (end - start)
        # Rounded to a millionth of a pixel, or the rounding error of one decimal could touch a pixel more.
        low = ((first - start) * scale).round(decimals=6).floor()
        high = ((last + 1 - start) * scale).round(decimals=6).ceil() - 1
        return low.clamp(min=0).long(), high.clamp(max=size - 1).long()

    x0, x1 = along(boxes[..., 0], boxes[..., 2], left, right)
    y0, y1 = along(boxes[..., 1], boxes[..., 3], top, bottom)
    flipped = hflip[:, None]
    x0, x1 = torch.where(flipped, size - 1 - x1, x0), torch.where(flipped, size - 1 - x0, x1)
    empty = (x1 < x0) | (y1 < y0) | (boxes[..., 2] < boxes[..., 0]) | (boxes[..., 3] < boxes[..., 1])
    nothing = -(torch.arange(4, device=boxes.device) // 2)  # 0 0 -1 -1
    return torch.where(empty[..., None], nothing, torch.stack([x0, y0, x1, y1], dim=-1))
