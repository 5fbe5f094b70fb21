"""RISE against the paper's definition one mask at a time, and what its masks are."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.rise import RISE, RandomMasks


class Patches(nn.Module):
    """Logits are mean values of quarters of the image, so the quarter is what a class is recognised by."""

    def forward(self, images: Tensor) -> Tensor:
        return 4 * F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


def images(n: int, *size: int) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(28, 28), (20, 33), (5, 64)])
@pytest.mark.parametrize("cells", [7, 4])
def test_masks_are_shifted_windows_of_resized_grids(size: tuple[int, int], cells: int) -> None:
    masks = RandomMasks(12, cells, 0.5, seed=3)
    made = masks.make(2, 9, size, torch.device("cpu"))
    assert made.shape == (7, *size)
    height, width = (math.ceil(side / cells) for side in size)
    for i, mask in enumerate(made, start=2):
        large = F.interpolate(
            masks.grids[i][None, None].float(),
            size=((cells + 1) * height, (cells + 1) * width),
            mode="bilinear",
            align_corners=False,
        )[0, 0]
        top, left = int(masks.shifts[i, 0] * height), int(masks.shifts[i, 1] * width)
        torch.testing.assert_close(mask, large[top : top + size[0], left : left + size[1]])


def test_masks_are_fair_and_of_the_seed_alone() -> None:
    masks = RandomMasks(2000, 7, 0.3, seed=0)
    made = masks.make(0, 2000, (14, 21), torch.device("cpu"))
    assert 0 <= float(made.min()) < 0.01
    assert 0.99 < float(made.max()) <= 1.0
    # The mean of 2000 values whose standard deviation is below 0.46: six standard errors.
    assert float((made.mean(0) - 0.3).abs().max()) < 0.06
    assert len({int(shift * 3) for shift in masks.shifts[:, 1]}) == 3
    torch.rand(5)  # moves the global generator
    again, other = RandomMasks(2000, 7, 0.3, seed=0), RandomMasks(2000, 7, 0.3, seed=1)
    assert torch.equal(masks.grids, again.grids)
    assert torch.equal(masks.shifts, again.shifts)
    assert not torch.equal(masks.grids, other.grids)


@pytest.mark.parametrize("batch_size", [None, 1, 5, 1000])
def test_equals_the_sum_over_masks(batch_size: int | None) -> None:
    net, x = Patches(), images(3, 13, 18)
    explain = RISE(net, masks=30, cells=5, p1=0.4, seed=2, batch_size=batch_size)
    target = torch.tensor([3, 0, 1])
    logits, maps = explain(x, target)
    torch.testing.assert_close(logits, net(x))
    expected = torch.zeros(3, 13, 18)
    for mask in explain.masks.make(0, 30, (13, 18), x.device):
        for i in range(3):
            probability = net((x[i] * mask)[None]).softmax(1)[0, target[i]]
            expected[i] += probability * mask / (30 * 0.4)
    torch.testing.assert_close(maps, expected)


def test_the_network_gets_no_more_than_the_batch_size() -> None:
    sizes: list[int] = []

    class Counting(Patches):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return super().forward(images)

    RISE(Counting(), masks=10, batch_size=4)(images(6, 8, 8), torch.zeros(6, dtype=torch.long))
    assert max(sizes) == 4
    assert sum(sizes) == 6 + 60


def test_several_maps_of_an_image_cost_one_run() -> None:
    net, x = Patches(), images(2, 12, 12)
    owner, target = torch.tensor([1, 0, 1]), torch.tensor([0, 2, 3])
    _, expected = RISE(net, masks=20, seed=1)(x[owner], target)
    for batch_size in (1, 64):
        logits, maps = RISE(net, masks=20, seed=1, batch_size=batch_size)(x, target, owner)
        torch.testing.assert_close(logits, net(x))
        torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize(("target", "rows", "columns"), [(0, 0, 0), (1, 0, 1), (3, 1, 1)])
def test_the_decisive_quarter_is_found(target: int, rows: int, columns: int) -> None:
    _, maps = RISE(Patches(), masks=400)(torch.ones(1, 3, 28, 28), torch.tensor([target]))
    quarters = F.avg_pool2d(maps[None], 14)[0, 0]
    assert divmod(int(quarters.argmax()), 2) == (rows, columns)


@pytest.mark.parametrize("options", [{"masks": 0}, {"cells": 0}, {"p1": 0.0}, {"p1": 1.0}, {"batch_size": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(InputError):
        RISE(Patches(), **options)  # type: ignore[arg-type]
