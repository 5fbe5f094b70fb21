"""Crop, bilinear resize and flip of whole images and masks, one sample after the other."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Transform(Protocol):
    """What the oracles read of a spatial transform: tensors of shape (N,), pixels on a size x size image."""

    @property
    def top(self) -> Tensor: ...
    @property
    def left(self) -> Tensor: ...
    @property
    def height(self) -> Tensor: ...
    @property
    def width(self) -> Tensor: ...
    @property
    def hflip(self) -> Tensor: ...
    @property
    def size(self) -> int: ...


def crop_resize_flip(images_NCSS: Tensor, transform: Transform) -> Tensor:
    """The augmented view of every image (N, C, S, S): crop, bilinear to S x S, flip where drawn."""
    size = transform.size
    out = torch.zeros_like(images_NCSS)
    for i in range(images_NCSS.shape[0]):
        top, left = int(transform.top[i]), int(transform.left[i])
        height, width = int(transform.height[i]), int(transform.width[i])
        crop = images_NCSS[i : i + 1, :, top : top + height, left : left + width]
        view = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False)[0]
        out[i] = view.flip(-1) if bool(transform.hflip[i]) else view
    return out


def normalised_mask(maps_Nhw: Tensor, size: int) -> Tensor:
    """Masks (N, S, S): bilinear to S x S, divided by their sum + 1e-8, plus 1e-8."""
    masks = F.interpolate(maps_Nhw[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    return masks / (masks.sum(dim=(1, 2), keepdim=True) + 1e-8) + 1e-8


def transformed_mask(masks_NSS: Tensor, transform: Transform) -> Tensor:
    """The query's masks seen through the transform of the augmented view, (N, S, S)."""
    return crop_resize_flip(masks_NSS[:, None], transform)[:, 0]
