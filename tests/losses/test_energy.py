"""Supervised energy against the Content Heatmap metric and hand-computed values."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgc.losses.energy import energy_loss, has_boxes, region_weights
from cgc.metrics.content_heatmap import content_heatmap
from cgc.metrics.maps import region_mask

EMPTY = [0, 0, -1, -1]
BOX = st.tuples(*[st.integers(-8, 45)] * 4).map(list)
BOXES = st.lists(st.lists(BOX, min_size=3, max_size=3), min_size=1, max_size=4)


def test_worked_out_by_hand() -> None:
    """A 1×2 map on a 2×8 image: the left cell's columns weigh 1 1 1 7/8… falling by a quarter a column."""
    left = torch.tensor([[[1.0, 0.0]]]).expand(4, 1, 2)
    columns = [1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8, 0, 0]
    boxes = [[[0, 0, 1, 1], EMPTY], [[2, 0, 3, 0], [3, 0, 7, 0]], [EMPTY, [6, 0, 7, 1]], [EMPTY, EMPTY]]
    losses = energy_loss(left, torch.tensor(boxes), (2, 8), reduction="none")
    expected = [1 - 2 / 4, 1 - sum(columns[2:]) / 8, 1, 0]
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=0, atol=1e-6)
    assert energy_loss(left, torch.tensor(boxes), (2, 8)).item() == pytest.approx(sum(expected) / 4, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    boxes=BOXES,
    seed=st.integers(0, 2**31),
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.sampled_from([1.0, 1e-15, 1e15]),
)
def test_one_minus_the_content_heatmap(
    boxes: list[list[list[int]]], seed: int, grid: tuple[int, int], size: tuple[int, int], scale: float
) -> None:
    """Any boxes: overlapping, equal, empty, over the border, outside."""
    generator = torch.Generator().manual_seed(seed)
    maps = scale * (torch.rand(len(boxes), *grid, generator=generator) + 0.01)
    regions = torch.tensor(boxes)
    losses = energy_loss(maps, regions, size, reduction="none")
    boxed = has_boxes(regions, size)
    for map_hw, region, loss, has in zip(maps, regions, losses.tolist(), boxed.tolist(), strict=True):
        assert has == bool(region_mask(region, size).any())
        expected = 1 - content_heatmap(map_hw, region, size) if has else 0.0
        assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("grid", "size"), [((7, 7), (224, 224)), ((14, 14), (448, 448)), ((7, 9), (375, 500))]
)
def test_training_sizes(grid: tuple[int, int], size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(8, *grid, generator=generator).relu()
    corners = (
        (torch.rand(8, 5, 2, 2, generator=generator) * torch.tensor(size[::-1])).long().sort(dim=2).values
    )
    boxes = corners.flatten(2)
    losses = energy_loss(maps, boxes, size, reduction="none")
    expected = [1 - content_heatmap(m, b, size) for m, b in zip(maps, boxes, strict=True)]
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=0, atol=1e-5)


def test_gradients_equal_those_of_the_upsampled_map() -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(3, 4, 5, dtype=torch.float64, generator=generator)
    boxes = torch.tensor([[[2, 1, 9, 12], [5, 6, 14, 20]], [[0, 0, 3, 3], EMPTY], [EMPTY, EMPTY]])
    found = []
    for direct in (False, True):
        leaf = maps.clone().requires_grad_()
        if direct:
            full = F.interpolate(leaf[:, None], (23, 17), mode="bilinear", align_corners=False)[:, 0]
            masks = torch.stack([region_mask(b, (23, 17)) for b in boxes])
            losses = (1 - (full * masks).sum((1, 2)) / full.sum((1, 2))) * masks.any(2).any(1)
        else:
            losses = energy_loss(leaf, boxes, (23, 17), reduction="none")
        (losses * torch.tensor([1.0, 2, 3])).sum().backward()
        found.append((losses.detach(), leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    assert found[0][1][0].abs().max() > 1e-3
    assert not found[0][1][2].any()
    # The largest value, by which the map is divided, is a constant to autograd: the loss does not depend on it.
    leaf = maps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: energy_loss(m, boxes, (23, 17)), (leaf,))


def test_zero_and_extreme_maps() -> None:
    boxes = torch.tensor([[[0, 0, 1, 3]]]).expand(4, 1, 4)
    scales = torch.tensor([0.0, 1e-38, 1e-18, 1e37])[:, None, None]
    maps = (scales * torch.tensor([[1.0, 0.0], [1.0, 0.0]])).requires_grad_()
    losses = energy_loss(maps, boxes, (4, 4), reduction="none")
    # Zeros count as uniform; else the two left columns of 1 3/4 1/4 0.
    torch.testing.assert_close(losses, torch.tensor([0.5, 0.5, 1 - 7 / 8, 1 - 7 / 8]))
    losses.sum().backward()
    assert maps.grad.isfinite().all()
    assert not maps.grad[:2].any()
    half = torch.rand(1, 2, 2).half().requires_grad_()
    loss = energy_loss(half, boxes[:1], (4, 4))
    loss.backward()
    assert (loss.dtype, half.grad.dtype) == (torch.float32, torch.float16)


def test_the_whole_image_holds_everything() -> None:
    maps = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(3))
    boxes = torch.tensor([[[0, 0, 223, 223]], [[-5, -5, 400, 400]]])
    assert energy_loss(maps, boxes, (224, 224), reduction="none").tolist() == [0, 0]
    weights, total = region_weights(boxes, (224, 224), maps)
    torch.testing.assert_close(weights, total.expand(2, 7, 7))
    assert total.sum().item() == pytest.approx(224 * 224)


def test_nothing_is_read_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # which does not know the meta device
    maps = torch.zeros(3, 7, 7, device="meta", requires_grad=True)
    boxes = torch.zeros(3, 2, 4, dtype=torch.int64, device="meta")
    energy_loss(maps, boxes, (64, 64)).backward()


@pytest.mark.parametrize(
    ("maps", "boxes", "size", "named"),
    [
        (torch.ones(2, 3), torch.zeros(2, 1, 4, dtype=torch.int64), (4, 4), r"\(2, 3\)"),
        (torch.ones(2, 3, 3), torch.zeros(1, 1, 4, dtype=torch.int64), (4, 4), r"\(1, 1, 4\)"),
        (torch.ones(2, 3, 3), torch.zeros(2, 0, 4, dtype=torch.int64), (4, 4), r"\(2, 0, 4\)"),
        (torch.ones(2, 3, 3), torch.zeros(2, 1, 4), (4, 4), "float32"),
        (torch.ones(2, 3, 3), torch.zeros(2, 1, 4, dtype=torch.int64), (4, 0), r"\(4, 0\)"),
    ],
)
def test_bad_arguments_are_named(maps: Tensor, boxes: Tensor, size: tuple[int, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        energy_loss(maps, boxes, size)


def test_a_bad_reduction_is_named() -> None:
    with pytest.raises(ValueError, match="sum"):
        energy_loss(torch.ones(1, 2, 2), torch.zeros(1, 1, 4).long(), (4, 4), reduction="sum")  # type: ignore[arg-type]
