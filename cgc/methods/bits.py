"""Masks as bits: what processes send each other of a saliency mask, an eighth of its bytes.

Shapes: N batch, P pixels of a mask, B = ⌈P/8⌉ bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack_bits(masks: Tensor) -> Tensor:
    """(N, ...) bool or whole numbers to (N, B) uint8, on the device: a bit is 1 where a mask is not 0.

    >>> pack_bits(torch.tensor([[[0, 1, 0], [0, 0, 0], [255, 0, 1]]]))
    tensor([[66,  1]], dtype=torch.uint8)
    """
    bits_NP = masks.flatten(1).ne(0).to(torch.uint8)
    padding = bits_NP.new_zeros(len(bits_NP), -bits_NP.shape[1] % 8)
    bits_NB8 = torch.cat([bits_NP, padding], dim=1).view(len(bits_NP), -1, 8)
    return (bits_NB8 << _places(masks)).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed_NB: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(N, *shape) bool: the inverse of :func:`pack_bits` for masks of this shape."""
    bits_NP = ((packed_NB[:, :, None] >> _places(packed_NB)) & 1).flatten(1)
    pixels = torch.Size(shape).numel()
    return bits_NP[:, :pixels].bool().view(len(packed_NB), *shape)


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
