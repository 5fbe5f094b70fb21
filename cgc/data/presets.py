"""The only mean/std and resize rules of the project."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Channel statistics of ImageNet in RGB order, for pixel values in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resize_size(image_size: int) -> int:
    """Shorter side, in pixels, to resize to before the centre crop of `image_size`.

    The published 256 for a crop of 224, kept in proportion for other sizes; never smaller than the crop.

    >>> resize_size(224), resize_size(64), resize_size(32)
    (256, 73, 37)
    """
    return round(image_size * 256 / 224)


@lru_cache(maxsize=16)
def _scale_and_bias(device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept per device: building them anew in every step would make the GPU wait for a copy from the host.
    with torch.inference_mode(False):
        scale = torch.tensor([1 / (255 * std) for std in STD], dtype=torch.float32, device=device)
        bias = torch.tensor([-mean / std for mean, std in zip(MEAN, STD, strict=True)], device=device)
    return scale.view(1, 3, 1, 1), bias.float().view(1, 3, 1, 1)


def normalise(images_u8_NCHW: Tensor) -> Tensor:
    """uint8 images in 0..255 to float32 with the ImageNet mean and standard deviation taken out.

    Equal to `ToTensor` then `Normalize` up to rounding, as one multiply-add; runs on the device of its
    input, and keeps its memory format.

    Raises:
        ValueError: not uint8, or not of shape (N, 3, H, W).
    """
    if images_u8_NCHW.dtype != torch.uint8 or images_u8_NCHW.dim() != 4 or images_u8_NCHW.shape[1] != 3:
        raise ValueError(
            f"expected uint8 images of shape (N, 3, H, W), got {images_u8_NCHW.dtype} "
            f"of shape {tuple(images_u8_NCHW.shape)}"
        )
    scale, bias = _scale_and_bias(images_u8_NCHW.device)
    return torch.addcmul(bias, images_u8_NCHW, scale)
