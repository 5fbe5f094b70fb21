"""Masks as bits against numpy's, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cgc.methods.bits import pack_bits, unpack_bits


@pytest.mark.parametrize("shape", [(1, 1), (7,), (8,), (3, 3), (2, 3, 5), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_bits_are_packed_and_come_back(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    masks = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[1], masks[2] = False, True
    values = masks.to(dtype) if dtype == torch.bool else masks.to(dtype) * 200
    packed = pack_bits(values)
    expected = np.packbits(masks.flatten(1).numpy(), axis=1, bitorder="little")
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), expected)
    assert torch.equal(unpack_bits(packed, shape), masks)


def test_views_of_other_memory_are_packed_alike() -> None:
    masks = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpack_bits(pack_bits(masks.mT)[:, :4], (6, 5)), masks.mT)
