"""Grid consistency against hand-computed values and the loop oracle."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgc.losses.grid_consistency import grid_consistency_loss
from tests.references import grid_consistency as reference

GRIDS = [
    ((2, 2), (4, 4)),
    ((3, 4), (6, 8)),
    ((3, 3), (7, 7)),
    ((3, 2), (6, 5)),
    ((4, 3), (2, 9)),
    ((1, 1), (2, 2)),
]


def draw(
    seed: int,
    positive: tuple[int, int],
    composite: tuple[int, int],
    n: int = 4,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.rand(n, *grid, dtype=torch.float64, generator=generator).to(dtype)
        for grid in (positive, composite)
    ]
    return maps[0], maps[1], torch.randint(4, (n,), generator=generator)


def test_worked_out_by_hand() -> None:
    """Target: 1/4 and 3/4 in the first column of the lower left cell; composite: 1/16 everywhere."""
    positive = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    loss = grid_consistency_loss(positive, torch.full((1, 4, 4), 5.0), torch.tensor([2]))
    assert loss.item() == pytest.approx((14 / 16 + 3 / 16 + 11 / 16) / 16, abs=1e-7)
    # All of the composite's mass outside of the quadrant: both sums of 1 count in full.
    elsewhere = torch.zeros(1, 4, 4)
    elsewhere[0, 0, 0] = 7.0
    assert grid_consistency_loss(positive, elsewhere, torch.tensor([2])).item() == pytest.approx(
        2 / 16, abs=1e-7
    )


def test_an_uneven_grid_by_hand() -> None:
    """A 1×1 map in a 3×3 grid: cells of 2 and 1 rows, columns. Cell 0 holds 1/4 four times, cell 3 a single 1."""
    positive, composite = torch.full((2, 1, 1), 0.3), torch.ones(2, 3, 3)
    losses = grid_consistency_loss(positive, composite, torch.tensor([0, 3]), reduction="none")
    expected = [(4 * (1 / 4 - 1 / 9) + 5 / 9) / 9, (8 / 9 + 8 / 9) / 9]
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=0, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), grids=st.sampled_from(GRIDS))
def test_loss_and_gradients_equal_the_oracle(
    seed: int, grids: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    positive, composite, quadrant = draw(seed, *grids)
    found = []
    for loss in (
        lambda p, c: grid_consistency_loss(p, c, quadrant, reduction="none"),
        lambda p, c: reference.grid_consistency_loss(p, c, quadrant),
    ):
        leaves = [maps.clone().requires_grad_() for maps in (positive, composite)]
        losses = loss(*leaves)
        found.append([losses, *torch.autograd.grad((losses * torch.tensor([1.0, 2, 3, 4])).sum(), leaves)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_gradients_flow_through_the_target() -> None:
    """Too much in the one cell and too little in the other: both maps are pulled towards each other."""
    positive = torch.tensor([[[3.0], [1.0]]], requires_grad=True)
    composite = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    loss = grid_consistency_loss(positive, composite, torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx((1 / 2 + 1 / 2) / 8, abs=1e-6)
    # d/dm of (m0 - m1) / (m0 + m1) is 2 m1 / 16 and -2 m0 / 16 for a sum of 4.
    torch.testing.assert_close(positive.grad, torch.tensor([[[1 / 64], [-3 / 64]]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(composite.grad[0, :2, 0], torch.tensor([-3 / 64, 1 / 64]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("grids", [((2, 2), (4, 4)), ((2, 3), (5, 4))])
def test_gradcheck(grids: tuple[tuple[int, int], tuple[int, int]]) -> None:
    positive, composite, quadrant = draw(3, *grids, n=2)
    leaves = (positive.requires_grad_(), composite.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, c: grid_consistency_loss(p, c, quadrant), leaves)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), grids=st.sampled_from(GRIDS), scale=st.floats(0.01, 100))
def test_consistent_maps_cost_nothing(
    seed: int, grids: tuple[tuple[int, int], tuple[int, int]], scale: float
) -> None:
    """The composite's map is the positive one in its cell, of any scale, and zero elsewhere."""
    positive, _, quadrant = draw(seed, *grids)
    positive = positive + 1
    composite = torch.stack(
        [reference.target_map(p, *grids[1], q) for p, q in zip(positive, quadrant.tolist(), strict=True)]
    )
    cells = grids[1][0] * grids[1][1]
    # The published epsilon shifts the sums, of about the scale and at least 1, by 1e-8, and each cell by as much again.
    epsilons = 1e-8 * ((1 / scale + 1) / cells + 3)
    assert grid_consistency_loss(positive, scale * composite, quadrant).item() < epsilons
    # In another quadrant it costs all there is.
    elsewhere = grid_consistency_loss(positive, composite, (quadrant + 1) % 4)
    assert elsewhere.item() == pytest.approx(2 / cells, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 6))
def test_mirrored_maps_in_the_mirrored_quadrant_cost_the_same(seed: int, size: int) -> None:
    positive, composite, quadrant = draw(seed, (size, size), (2 * size, 2 * size))
    loss = grid_consistency_loss(positive, composite, quadrant, reduction="none")
    for axis, mirrored in ((2, quadrant ^ 1), (1, quadrant ^ 2)):
        other = grid_consistency_loss(positive.flip(axis), composite.flip(axis), mirrored, reduction="none")
        torch.testing.assert_close(other, loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grid_consistency_loss(positive, composite, quadrant), loss.mean())
    assert loss.max().item() <= 2 / (4 * size * size) + 1e-7


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (0.0, torch.float32),
        (1e-38, torch.float32),
        (1e-8, torch.float32),
        (1e30, torch.float32),
        (1e-3, torch.float16),
        (1e3, torch.float16),
        (1e-30, torch.bfloat16),
        (1e-300, torch.float64),
    ],
)
@pytest.mark.parametrize("composite_grid", [(6, 6), (7, 7)])
def test_extreme_maps_are_finite(scale: float, dtype: torch.dtype, composite_grid: tuple[int, int]) -> None:
    *maps, quadrant = draw(7, (3, 3), composite_grid)
    leaves = [(scale * m).to(dtype).requires_grad_() for m in maps]
    loss = grid_consistency_loss(*leaves, quadrant)
    assert loss.isfinite()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for gradient in torch.autograd.grad(loss, leaves):
        assert gradient.dtype == dtype
        assert gradient.float().isfinite().all()


@pytest.mark.parametrize("composite_grid", [(6, 6), (7, 7)])
def test_nothing_is_read_back_from_the_device(
    composite_grid: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    monkeypatch.setattr(
        torch, "autocast", lambda *_, **__: nullcontext()
    )  # which does not know the meta device
    *maps, quadrant = (tensor.to("meta") for tensor in draw(9, (3, 3), composite_grid))
    leaves = [m.requires_grad_() for m in maps]
    grid_consistency_loss(*leaves, quadrant).backward()
    assert leaves[0].grad is not None


@pytest.mark.parametrize(
    ("positive", "composite", "quadrant", "named"),
    [
        ((3, 2, 2), (3, 4, 4), [0, 1, 4], "4"),
        ((3, 2, 2), (3, 4, 4), [0, -1, 2], "-1"),
        ((3, 2, 2), (2, 4, 4), [0, 1, 2], r"\(2, 4, 4\)"),
        ((3, 2, 2), (3, 4, 4), [0, 1], r"\(2,\)"),
        ((3, 4), (3, 4, 4), [0, 1, 2], r"\(3, 4\)"),
        ((3, 2, 2), (3, 4, 1), [0, 1, 2], "2×2"),
    ],
)
def test_bad_arguments_are_named(
    positive: tuple[int, ...], composite: tuple[int, ...], quadrant: list[int], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        grid_consistency_loss(torch.rand(positive), torch.rand(composite), torch.tensor(quadrant))


def test_a_bad_reduction_is_named() -> None:
    positive, composite, quadrant = draw(11, (2, 2), (4, 4))
    with pytest.raises(ValueError, match="sum"):
        grid_consistency_loss(positive, composite, quadrant, reduction="sum")  # type: ignore[arg-type]
