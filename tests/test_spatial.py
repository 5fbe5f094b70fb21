"""The spatial transform against crop, interpolate and flip sample by sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgc.spatial import SpatialTransform, crop_parameters
from tests.references import spatial as reference

GOLDEN = Path(__file__).parent / "golden"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def golden_transform(name: str) -> tuple[SpatialTransform, dict[str, Tensor]]:
    recorded = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / name).items()}
    parameters = (recorded[key] for key in ("top", "left", "height", "width", "hflip"))
    return SpatialTransform(*parameters, size=224), recorded


def test_agrees_with_the_published_implementation() -> None:
    transform, recorded = golden_transform("spatial_transform.npz")
    features = torch.from_numpy(np.load(GOLDEN / "gradcam.npz")["gradcam"])
    view = transform(reference.normalised_mask(features, 224))
    torch.testing.assert_close(view[:, ::7, ::7], recorded["out_stride7"], rtol=2e-5, atol=1e-10)
    torch.testing.assert_close(view.sum((1, 2)), recorded["out_sum"], rtol=2e-5, atol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 4), size=st.integers(1, 40))
def test_images_equal_crop_interpolate_flip(seed: int, n: int, size: int) -> None:
    transform = SpatialTransform.sample(n, size, generator=seeded(seed))
    images = torch.rand(n, 3, size, size, dtype=torch.float64, generator=seeded(seed + 1))
    expected = reference.crop_resize_flip(images, transform)
    torch.testing.assert_close(transform(images), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(transform(images[:, 0]), expected[:, 0], rtol=0, atol=1e-12)


def test_images_in_float32_at_224_pixels() -> None:
    transform = SpatialTransform.sample(4, generator=seeded(3))
    images = torch.rand(4, 3, 224, 224, generator=seeded(4))
    expected = reference.crop_resize_flip(images.double(), transform)
    # Sampling positions are float32 fractions of up to 224 pixels: 224 * 2**-24 times a few roundings.
    torch.testing.assert_close(transform(images).double(), expected, rtol=0, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), h=st.integers(1, 8), w=st.integers(1, 8), size=st.integers(8, 33))
def test_map_matrices_replay_the_transform_on_upsampled_maps(seed: int, h: int, w: int, size: int) -> None:
    transform = SpatialTransform.sample(3, size, generator=seeded(seed))
    maps = torch.rand(3, h, w, dtype=torch.float64, generator=seeded(seed + 1))
    upsampled = torch.nn.functional.interpolate(maps[:, None], (size, size), mode="bilinear")[:, 0]
    rows, columns = transform.map_matrices(h, w, maps)
    expected = reference.transformed_mask(upsampled, transform)
    torch.testing.assert_close(rows @ maps @ columns.mT, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_identity_is_the_identity(size: int) -> None:
    images = torch.rand(2, 3, size, size, dtype=torch.float64, generator=seeded(0))
    zero, full, never = torch.zeros(2).long(), torch.full((2,), size), torch.zeros(2).bool()
    transform = SpatialTransform(zero, zero, full, full, never, size)
    torch.testing.assert_close(transform(images), images, rtol=0, atol=1e-12)
    flipping = SpatialTransform(zero, zero, full, full, ~never, size)
    torch.testing.assert_close(flipping(images), images.flip(-1), rtol=0, atol=1e-12)


def test_nothing_outside_the_crop_is_read() -> None:
    transform = SpatialTransform.sample(20, 32, generator=seeded(5))
    images = torch.full((20, 1, 32, 32), 1e3)  # times a weight of 1e-5 by rounding
    for i, (top, left, height, width, _) in enumerate(transform.pack().tolist()):
        images[i, :, top : top + height, left : left + width] = 1.0
    torch.testing.assert_close(transform(images), torch.ones_like(images), rtol=0, atol=2e-2)


def test_pack_and_unpack() -> None:
    transform = SpatialTransform.sample(6, 50, generator=seeded(1))
    packed = transform.pack()
    assert packed.dtype == torch.int64
    assert packed.shape == (6, 5)
    again = SpatialTransform.unpack(packed, 50)
    for name in ("top", "left", "height", "width", "hflip"):
        assert torch.equal(getattr(again, name), getattr(transform, name)), name
    assert again.hflip.dtype == torch.bool
    images = torch.rand(6, 1, 50, 50)
    assert torch.equal(again(images), transform(images))


def test_same_seed_same_draw_whatever_the_global_state() -> None:
    torch.manual_seed(0)
    first = SpatialTransform.sample(8, generator=seeded(7)).pack()
    state = torch.get_rng_state()
    second = SpatialTransform.sample(8, generator=seeded(7)).pack()
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(SpatialTransform.sample(8, generator=seeded(8)).pack(), first)


def test_gradient_flows_to_the_images() -> None:
    transform = SpatialTransform.sample(2, 6, generator=seeded(2))
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform, (images,))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    low=st.floats(0.05, 0.9),
)
def test_crops_lie_inside_the_image(seed: int, height: int, width: int, low: float) -> None:
    top, left, h, w = crop_parameters(16, height, width, scale=(low, 1.0), generator=seeded(seed))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_crops_follow_scale_and_ratio() -> None:
    """Area uniform, log aspect ratio symmetric about 0, on an image where every draw fits."""
    _, _, h, w = crop_parameters(4000, 500, 500, scale=(0.1, 0.5), generator=seeded(0))
    share = (h * w) / 250_000
    assert share.min() > 0.095
    assert share.max() < 0.505
    assert abs(share.mean().item() - 0.3) < 0.01  # standard error 0.0018
    ratio = torch.log(w / h)
    assert ratio.abs().max() < np.log(4 / 3) + 0.02
    assert abs(ratio.mean().item()) < 0.015  # standard error 0.0026


def test_crop_positions_reach_both_borders() -> None:
    top, left, h, w = crop_parameters(3000, 12, 12, scale=(0.3, 0.5), generator=seeded(1))
    assert (top == 0).any()
    assert (left == 0).any()
    assert (top + h == 12).any()
    assert (left + w == 12).any()


def test_central_fallback_when_nothing_fits() -> None:
    """A 10 x 1000 strip cannot hold a nearly square crop of most of its area."""
    top, left, h, w = crop_parameters(5, 10, 1000, scale=(0.9, 1.0), generator=seeded(0))
    assert h.tolist() == [10] * 5
    assert w.tolist() == [13] * 5  # round(10 * 4 / 3)
    assert top.tolist() == [0] * 5
    assert left.tolist() == [(1000 - 13) // 2] * 5


def test_bad_arguments_are_named() -> None:
    good = SpatialTransform.sample(2, 8, generator=seeded(0))
    with pytest.raises(ValueError, match=r"8, 8"):
        good(torch.zeros(2, 3, 9, 9))
    with pytest.raises(ValueError, match="8"):
        good(torch.zeros(3, 3, 8, 8))
    with pytest.raises(ValueError, match="leave"):
        SpatialTransform(good.top + 8, good.left, good.height, good.width, good.hflip, 8)
    with pytest.raises(ValueError, match="shape"):
        SpatialTransform(good.top[:1], good.left, good.height, good.width, good.hflip, 8)
    with pytest.raises(ValueError, match="scale"):
        crop_parameters(1, 8, 8, scale=(0.5, 1.5))
