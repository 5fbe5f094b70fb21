"""The CGC loss by heatmap algebra against the S x S oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgc.gradcam import class_activation_map
from cgc.losses.cgc import cgc_loss, l2_consistency_loss
from cgc.spatial import SpatialTransform
from tests.references import cgc as reference

GOLDEN = Path(__file__).parents[1] / "golden"
ANCHORS: tuple[Literal["augmented", "query"], ...] = ("augmented", "query")


def draw(
    seed: int, n: int, h: int, w: int, size: int = 20, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, SpatialTransform]:
    generator = torch.Generator().manual_seed(seed)
    query, augmented = (torch.randn(n, h, w, dtype=dtype, generator=generator).relu() for _ in range(2))
    return query, augmented, SpatialTransform.sample(n, size, generator=generator)


def golden() -> dict[str, Tensor]:
    return {key: torch.as_tensor(value) for key, value in np.load(GOLDEN / "cgc_loss.npz").items()}


def relative(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    ("temperature", "tolerance"), [("0.01", 1e-4), ("0.1", 2e-5), ("0.5", 2e-5), ("1.0", 2e-5)]
)
def test_agrees_with_the_published_implementation(temperature: str, tolerance: float) -> None:
    recorded = golden()
    transform = SpatialTransform(
        *(recorded[key] for key in ("top", "left", "height", "width", "hflip")), size=224
    )
    leaves = [
        recorded[key].clone().requires_grad_() for key in ("feats_query", "feats_augmented", "fc_weight")
    ]
    query, augmented = (
        class_activation_map(features, leaves[2], recorded["target_query"]) for features in leaves[:2]
    )
    loss = cgc_loss(query, augmented, transform, temperature=float(temperature))
    expected = recorded[f"loss_T{temperature}"].item()
    assert loss.item() == pytest.approx(expected, rel=2e-5)
    loss.backward()
    for leaf, name in zip(leaves, ("grad_f1", "grad_f2", "grad_w"), strict=True):
        assert leaf.grad is not None
        assert relative(leaf.grad, recorded[f"{name}_T{temperature}"]) < tolerance, name
    l2 = l2_consistency_loss(query, augmented, transform)
    assert l2.item() == pytest.approx(recorded["l2_no_contrast"].item(), rel=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 5),
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    extra=st.integers(0, 3),
    temperature=st.sampled_from([0.01, 0.1, 0.5, 2.0]),
    anchor=st.sampled_from(ANCHORS),
    empty=st.booleans(),
)
def test_equals_the_direct_computation(
    seed: int,
    n: int,
    h: int,
    w: int,
    extra: int,
    temperature: float,
    anchor: Literal["augmented", "query"],
    empty: bool,
) -> None:
    """Values and gradients, for square and rectangular grids; values also where maps may be empty."""
    query, augmented, transform = draw(seed, n, h, w)
    if not empty:
        query, augmented = query + 0.01, augmented + 0.01
    negatives = draw(seed + 1, extra, h, w)[0] if extra else None
    results = []
    for loss in (cgc_loss, reference.cgc_loss):
        leaves = (query.clone().requires_grad_(), augmented.clone().requires_grad_())
        options = {"reduction": "none"} if loss is cgc_loss else {}
        losses_N = loss(
            *leaves, transform, temperature=temperature, anchor=anchor, negatives=negatives, **options
        )
        losses_N.sum().backward()
        results.append((losses_N.detach(), *(leaf.grad for leaf in leaves)))
    (value, *gradients), (expected, *expected_gradients) = results
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    if not empty:  # an empty map's gradient is a difference of numbers of 1e16, rounding in both computations
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), h=st.integers(1, 6), w=st.integers(1, 6))
def test_l2_equals_the_direct_computation(seed: int, h: int, w: int) -> None:
    query, augmented, transform = draw(seed, 4, h, w)
    expected = reference.l2_consistency_loss(query, augmented, transform)
    value = l2_consistency_loss(query, augmented, transform, reduction="none")
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    mean = l2_consistency_loss(query, augmented, transform)
    torch.testing.assert_close(mean, expected.mean(), rtol=1e-10, atol=1e-12)


def test_negatives_receive_gradients() -> None:
    query, augmented, transform = draw(5, 3, 4, 4)
    extra = draw(6, 2, 4, 4)[0]
    gradients = []
    for loss in (lambda *a, **k: cgc_loss(*a, reduction="none", **k), reference.cgc_loss):
        leaf = extra.clone().requires_grad_()
        loss(query, augmented, transform, temperature=0.3, negatives=leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_permuting_the_batch_permutes_the_losses(anchor: Literal["augmented", "query"]) -> None:
    query, augmented, transform = draw(7, 6, 5, 4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    losses = cgc_loss(query, augmented, transform, temperature=0.2, anchor=anchor, reduction="none")
    permuted = cgc_loss(
        query[order],
        augmented[order],
        SpatialTransform.unpack(transform.pack()[order], transform.size),
        temperature=0.2,
        anchor=anchor,
        reduction="none",
    )
    assert losses.unique().numel() == 6
    torch.testing.assert_close(permuted, losses[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_gradcheck(anchor: Literal["augmented", "query"]) -> None:
    query, augmented, transform = draw(9, 3, 3, 4)
    leaves = ((query + 0.1).requires_grad_(), (augmented + 0.1).requires_grad_())

    def contrastive(q: Tensor, a: Tensor) -> Tensor:
        return cgc_loss(q, a, transform, temperature=0.3, anchor=anchor, reduction="none")

    def l2(q: Tensor, a: Tensor) -> Tensor:
        return l2_consistency_loss(q, a, transform, reduction="none") * transform.size**2

    assert torch.autograd.gradcheck(contrastive, leaves)
    assert torch.autograd.gradcheck(l2, leaves)


def test_the_scale_of_a_map_does_not_matter() -> None:
    query, augmented, transform = draw(11, 4, 5, 5)
    losses = cgc_loss(query, augmented, transform, temperature=0.5, reduction="none")
    scaled = cgc_loss(query * 1e3, augmented * 1e3, transform, temperature=0.5, reduction="none")
    torch.testing.assert_close(scaled, losses, rtol=1e-6, atol=0)  # but for the 1e-8 beside the sum


def test_an_equivariant_heatmap_scores_best() -> None:
    """A query map that is constant looks the same through any transform: cosine 1 with itself."""
    _, _, transform = draw(13, 4, 5, 5)
    flat = torch.ones(4, 5, 5, dtype=torch.float64)
    assert l2_consistency_loss(flat, flat, transform).abs().item() < 1e-15
    losses = cgc_loss(flat, flat, transform, temperature=0.5, reduction="none")
    torch.testing.assert_close(losses, torch.full((4,), float(np.log(4))).double(), rtol=1e-7, atol=0)


def test_batch_of_one_has_no_negatives() -> None:
    query, augmented, transform = draw(15, 1, 7, 7, dtype=torch.float32)
    query.requires_grad_()
    loss = cgc_loss(query, augmented, transform, temperature=0.01)
    loss.backward()
    assert loss.item() == 0.0
    assert query.grad is not None
    assert not query.grad.any()


@pytest.mark.parametrize("floor", [0.0, 0.05])
@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (0.0, torch.float32),
        (1e-38, torch.float32),
        (1e-30, torch.float32),
        (1e-20, torch.float32),
        (1e-12, torch.float32),
        (1e-8, torch.float32),
        (1e6, torch.float32),
        (1e-3, torch.float16),  # of smaller ones the published gradient exceeds what float16 can hold
        (1e3, torch.float16),
        (1.0, torch.bfloat16),
        (1e6, torch.bfloat16),
        (1e-30, torch.bfloat16),
        (1e-300, torch.float64),
    ],
)
@pytest.mark.parametrize("which", ["one", "all"])
def test_extreme_maps_are_finite(
    scale: float, dtype: torch.dtype, which: str, anchor: Literal["augmented", "query"], floor: float
) -> None:
    """One extreme map among ordinary ones, and a whole batch of them."""
    query, augmented, transform = draw(17, 4, 7, 7, dtype=torch.float64)
    affected = slice(0, 1) if which == "one" else slice(None)
    for maps in (query, augmented):
        maps[affected] *= scale
    leaves = [maps.to(dtype).requires_grad_() for maps in (query, augmented)]
    for loss in (
        cgc_loss(*leaves, transform, temperature=0.01, anchor=anchor, floor=floor),
        l2_consistency_loss(*leaves, transform, floor=floor),
    ):
        assert loss.dtype in (torch.float32, torch.float64)
        assert loss.isfinite()
        for gradient in torch.autograd.grad(loss, leaves, retain_graph=True):
            assert gradient.dtype == dtype
            assert gradient.isfinite().all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.integers(-40, 0))
def test_the_floor_bounds_the_gradient_of_a_small_map(seed: int, exponent: int) -> None:
    query, augmented, transform = draw(seed, 4, 6, 6, dtype=torch.float64)
    query, augmented = query + 0.01, augmented + 0.01
    augmented[0] *= 10.0**exponent
    augmented.requires_grad_()
    cgc_loss(query, augmented, transform, temperature=0.5, floor=0.05).backward()
    assert augmented.grad is not None
    others = augmented.grad[1:].flatten(1).norm(dim=1).max()
    # The norm of a unit map's gradient is about 1 / size of the map; the floor is 1/20 of the mean size.
    assert augmented.grad[0].norm() < 60 * (others + 1)


def test_without_the_floor_the_gradient_of_a_small_map_explodes() -> None:
    """The published arithmetic, which the floor is there to mend."""
    query, augmented, transform = draw(19, 4, 6, 6)
    augmented[0] *= 1e-6
    norms = []
    for floor in (0.0, 0.05):
        leaf = augmented.clone().requires_grad_()
        cgc_loss(query, leaf, transform, temperature=0.5, floor=floor).backward()
        assert leaf.grad is not None
        norms.append(leaf.grad[0].norm().item())
    assert norms[0] > 1e3 * norms[1]


@pytest.mark.parametrize("anchor", ANCHORS)
def test_the_floor_leaves_ordinary_maps_as_they_are(anchor: Literal["augmented", "query"]) -> None:
    query, augmented, transform = (x + 0.5 if isinstance(x, Tensor) else x for x in draw(21, 6, 7, 7))
    plain, floored = (
        cgc_loss(query, augmented, transform, temperature=0.5, anchor=anchor, reduction="none", floor=floor)
        for floor in (0.0, 0.01)
    )
    # Each cosine moves by about floor**2 = 1e-4 of itself.
    torch.testing.assert_close(floored, plain, rtol=0, atol=2e-3)
    assert not torch.equal(floored, plain)


def test_reductions() -> None:
    query, augmented, transform = draw(23, 5, 4, 4)
    losses = cgc_loss(query, augmented, transform, temperature=0.5, reduction="none")
    assert losses.shape == (5,)
    torch.testing.assert_close(cgc_loss(query, augmented, transform, temperature=0.5), losses.mean())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"anchor": "both"}, "both"),
        ({"reduction": "sum"}, "sum"),
        ({"floor": -1.0}, "floor"),
        ({"negatives": torch.zeros(2, 3, 3)}, "3"),
    ],
)
def test_bad_options_are_named(change: dict[str, object], named: str) -> None:
    query, augmented, transform = draw(25, 3, 4, 4)
    options: dict[str, object] = {"temperature": 0.5, **change}
    with pytest.raises(ValueError, match=named):
        cgc_loss(query, augmented, transform, **options)  # type: ignore[arg-type]


def test_bad_shapes_are_named() -> None:
    query, augmented, transform = draw(27, 3, 4, 4)
    with pytest.raises(ValueError, match="2"):
        cgc_loss(query[:2], augmented, transform, temperature=0.5)
    with pytest.raises(ValueError, match="5"):
        cgc_loss(query, torch.zeros(3, 5, 5), transform, temperature=0.5)
    with pytest.raises(ValueError, match="2"):
        l2_consistency_loss(query[:2], augmented[:2], transform)
