"""The SGC loss against the published numbers and the S x S oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import cgc.losses.masks
from cgc.gradcam import class_activation_map
from cgc.losses.sgc import sgc_loss
from tests.references import sgc as reference

GOLDEN = Path(__file__).parents[1] / "golden" / "sgc_loss.npz"


def draw(seed: int, n: int, h: int, w: int, size: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Maps of the query and of the masked view, and saliency; float64."""
    generator = torch.Generator().manual_seed(seed)
    query, masked = (torch.randn(n, h, w, dtype=torch.float64, generator=generator).relu() for _ in range(2))
    return query, masked, torch.rand(n, size, size, generator=generator) < 0.4


@pytest.mark.parametrize("temperature", ["0.1", "0.5"])
def test_agrees_with_the_published_implementation(temperature: str) -> None:
    recorded = {key: torch.as_tensor(value) for key, value in np.load(GOLDEN).items()}
    query, masked = (
        class_activation_map(recorded[key], recorded["fc_weight"], recorded["target_query"])
        for key in ("feats_query", "feats_masked")
    )
    expected = recorded[f"loss_T{temperature}"].item()
    saliency = recorded["saliency224"]
    loss = sgc_loss(query, masked, saliency, temperature=float(temperature))
    assert loss.item() == pytest.approx(expected, rel=2e-5)
    # The saliency matters, and so does the class.
    without = sgc_loss(query, masked, torch.ones_like(saliency), temperature=float(temperature))
    assert abs(without.item() - expected) > 0.1
    own = class_activation_map(
        recorded["feats_masked"], recorded["fc_weight"], recorded["target_masked_unused"]
    )
    assert abs(sgc_loss(query, own, saliency, temperature=float(temperature)).item() - expected) > 0.01


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 5),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    size=st.integers(6, 21),
    extra=st.integers(0, 3),
    temperature=st.sampled_from([0.01, 0.1, 0.5, 2.0]),
    weights=st.booleans(),
    empty=st.booleans(),
)
def test_equals_the_direct_computation(
    seed: int,
    n: int,
    h: int,
    w: int,
    size: int,
    extra: int,
    temperature: float,
    weights: bool,
    empty: bool,
) -> None:
    """Values and gradients, for square and rectangular grids; values also where maps may be empty."""
    query, masked, saliency = draw(seed, n, h, w, size)
    if weights:
        saliency = torch.rand(n, size, size, dtype=torch.float64)
    if not empty:
        query, masked = query + 0.01, masked + 0.01
    negatives = draw(seed + 1, extra, h, w, size)[1:] if extra else None
    results = []
    for loss, options in ((sgc_loss, {"reduction": "none"}), (reference.sgc_loss, {})):
        leaves = (query.clone().requires_grad_(), masked.clone().requires_grad_())
        losses_N = loss(*leaves, saliency, temperature=temperature, negatives=negatives, **options)
        losses_N.sum().backward()
        results.append((losses_N.detach(), *(leaf.grad for leaf in leaves)))
    (value, *gradients), (expected, *expected_gradients) = results
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    if not empty:  # an empty map's gradient is a difference of numbers of 1e16, rounding in both computations
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


def test_gradients_by_finite_differences() -> None:
    query, masked, saliency = draw(3, 3, 3, 2, 9)
    extra, _, extra_saliency = draw(4, 2, 3, 2, 9)
    leaves = [(maps + 0.1).requires_grad_() for maps in (query, masked, extra)]

    def loss(query: Tensor, masked: Tensor, extra: Tensor) -> Tensor:
        negatives = extra, extra_saliency
        return sgc_loss(query, masked, saliency, temperature=0.3, reduction="none", negatives=negatives)

    assert torch.autograd.gradcheck(loss, leaves)


def test_by_hand() -> None:
    """Two images of 2×2 pixels on a 2×2 grid: nothing is interpolated, the cosines can be read off."""
    query = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    masked = torch.tensor([[[3.0, 4.0], [5.0, 0.0]], [[1.0, 7.0], [0.0, 1.0]]], dtype=torch.float64)
    saliency = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 1]]], dtype=torch.uint8)
    # a_0 = (3, 4, 0, 0)/5, a_1 = (1, 0, 0, 1)/√2; a_0·q_0 = 3/5, a_1·q_1 = 1/2, a_0·a_1 = 3/(5√2).
    positive = torch.tensor([0.6, 0.5], dtype=torch.float64)
    expected = torch.log1p(torch.exp((0.6 / 2**0.5 - positive) / 0.25))
    losses = sgc_loss(query, masked, saliency, temperature=0.25, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    mean = sgc_loss(query, masked, saliency, temperature=0.25)
    torch.testing.assert_close(mean, losses.mean())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16])
def test_saliency_of_any_dtype(dtype: torch.dtype) -> None:
    query, masked, saliency = draw(5, 3, 4, 4)
    expected = sgc_loss(query, masked, saliency, temperature=0.5)
    assert torch.equal(sgc_loss(query, masked, saliency.to(dtype), temperature=0.5), expected)
    if dtype in (torch.uint8, torch.int64):
        assert torch.equal(sgc_loss(query, masked, saliency.to(dtype) * 255, temperature=0.5), expected)


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_nothing_salient_nothing_learnt(dtype: torch.dtype, floor: float) -> None:
    """Similarity 0 with everything; the other images learn as if a negative of similarity 0 stood there."""
    query, masked, saliency = draw(7, 4, 5, 5)
    saliency[1] = False
    leaves = [maps.to(dtype).requires_grad_() for maps in (query, masked)]
    losses = sgc_loss(*leaves, saliency, temperature=0.1, reduction="none", floor=floor)
    assert losses.isfinite().all()
    assert losses[1].item() == pytest.approx(np.log(4), rel=1e-6)
    losses.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert (leaf.grad[1] == 0).all()
        assert (leaf.grad[0] != 0).any()


def test_pixels_outside_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that reach no salient pixel may hold anything; on the query's map they count."""
    monkeypatch.setattr(cgc.losses.masks, "EPS", 0.0)  # added to the mask after the division by the whole sum
    query, masked, saliency = draw(9, 3, 4, 4)
    saliency[:, :, 8:] = False  # 20 px over 4 cells: pixels below 8 are interpolated from columns 0 to 2
    changed = masked.clone()
    changed[:, :, 3] += 5.0
    first, second = (sgc_loss(query, maps, saliency, temperature=0.5) for maps in (masked, changed))
    torch.testing.assert_close(first, second, rtol=1e-12, atol=0)
    query[:, :, 3] += 5.0
    assert abs(sgc_loss(query, masked, saliency, temperature=0.5).item() - first.item()) > 1e-2


def test_permuting_the_batch_permutes_the_losses() -> None:
    query, masked, saliency = draw(11, 5, 4, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    losses = sgc_loss(query, masked, saliency, temperature=0.2, reduction="none")
    permuted = sgc_loss(query[order], masked[order], saliency[order], temperature=0.2, reduction="none")
    torch.testing.assert_close(permuted, losses[order])


def test_gathered_negatives_are_those_of_a_larger_batch() -> None:
    query, masked, saliency = draw(13, 5, 4, 4)
    whole = sgc_loss(query, masked, saliency, temperature=0.2, reduction="none")
    part = sgc_loss(
        query[:2],
        masked[:2],
        saliency[:2],
        temperature=0.2,
        reduction="none",
        negatives=(masked[2:], saliency[2:].float()),
    )
    torch.testing.assert_close(part, whole[:2])


def test_one_image_alone_has_no_loss() -> None:
    query, masked, saliency = draw(15, 1, 4, 4)
    assert sgc_loss(query, masked, saliency, temperature=0.5).item() == 0.0


def test_the_floor_bounds_the_gradient_of_a_small_map() -> None:
    query, masked, saliency = draw(17, 4, 6, 6)
    masked[0] *= 1e-6
    norms = []
    for floor in (0.0, 0.05):
        leaf = (masked.clone()).requires_grad_()
        sgc_loss(query, leaf, saliency, temperature=0.5, floor=floor).backward()
        assert leaf.grad is not None
        norms.append(leaf.grad[0].norm().item())
    assert norms[0] > 1e3 * norms[1]
    ordinary = [
        sgc_loss(query[1:] + 0.5, masked[1:] + 0.5, saliency[1:], temperature=0.5, floor=floor).item()
        for floor in (0.0, 0.01)
    ]
    assert ordinary[1] == pytest.approx(ordinary[0], abs=2e-3)


def test_autocast_does_not_reach_the_products() -> None:
    query, masked, saliency = (x.float() if x.is_floating_point() else x for x in draw(19, 4, 6, 6))
    expected = sgc_loss(query, masked, saliency, temperature=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sgc_loss(query, masked, saliency, temperature=0.1), expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"reduction": "sum"}, "sum"),
        ({"floor": 1.0}, "floor"),
        ({"negatives": (torch.zeros(2, 3, 3), torch.ones(2, 20, 20))}, "negatives"),
        ({"negatives": (torch.zeros(2, 4, 4), torch.ones(3, 20, 20))}, "negatives"),
    ],
)
def test_bad_options_are_named(change: dict[str, object], named: str) -> None:
    query, masked, saliency = draw(21, 3, 4, 4)
    options: dict[str, object] = {"temperature": 0.5, **change}
    with pytest.raises(ValueError, match=named):
        sgc_loss(query, masked, saliency, **options)  # type: ignore[arg-type]


def test_bad_shapes_are_named() -> None:
    query, masked, saliency = draw(23, 3, 4, 4)
    with pytest.raises(ValueError, match="maps"):
        sgc_loss(query[:2], masked, saliency, temperature=0.5)
    for wrong in (saliency[:2], saliency[:, :10], saliency[0], saliency[:, None]):
        with pytest.raises(ValueError, match="saliency"):
            sgc_loss(query, masked, wrong, temperature=0.5)
