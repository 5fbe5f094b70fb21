"""Consistency over a set against loops over its groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgc.metrics.consistency import CGCConsistency, consistency
from cgc.spatial import SpatialTransform
from tests.references.cgc import cgc_loss, unit_masks

SIZE = 16


def maps_and_transform(n: int, seed: int = 0) -> tuple[Tensor, Tensor, SpatialTransform]:
    generator = torch.Generator().manual_seed(seed)
    query, augmented = torch.rand(2, n, 4, 4, generator=generator, dtype=torch.float64)
    return query, augmented, SpatialTransform.sample(n, SIZE, generator=generator)


def part(transform: SpatialTransform, indices: Tensor) -> SpatialTransform:
    return SpatialTransform.unpack(transform.pack()[indices], transform.size)


def by_loops(
    query: Tensor,
    augmented: Tensor,
    transform: SpatialTransform,
    *,
    temperature: float,
    per_group: int,
    seed: int,
) -> Tensor:
    """Shuffle, cut into groups, fill the last one up with negatives from the beginning; image by image."""
    n = len(query)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    losses = torch.zeros(n, dtype=torch.float64)
    for start in range(0, n, per_group):
        group = order[start : start + per_group]
        filled = group + order[: max(0, min(per_group, n) - len(group))]
        for i in group:
            others = torch.tensor([j for j in filled if j != i], dtype=torch.long)
            alone = torch.tensor([i])
            losses[i] = cgc_loss(
                query[alone],
                augmented[alone],
                part(transform, alone),
                temperature=temperature,
                negatives=augmented[others] if len(others) else None,
            )[0]
    return losses


@pytest.mark.parametrize(
    ("n", "negatives"), [(1, 7), (2, 7), (5, 7), (8, 7), (9, 7), (15, 7), (20, 7), (6, 1)]
)
def test_equals_the_loops(n: int, negatives: int) -> None:
    query, augmented, transform = maps_and_transform(n)
    found = consistency(query, augmented, transform, temperature=0.3, negatives=negatives, seed=5)
    expected = by_loops(query, augmented, transform, temperature=0.3, per_group=negatives + 1, seed=5)
    torch.testing.assert_close(found.loss_N, expected, rtol=1e-9, atol=1e-12)
    q, a = unit_masks(query, augmented, transform)
    torch.testing.assert_close(found.cosine_N, (q * a).sum(dim=1), rtol=1e-9, atol=1e-12)


def test_one_image_has_nothing_to_be_told_from() -> None:
    found = consistency(*maps_and_transform(1))
    assert found.loss_N.tolist() == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize("n", [40, 64])
def test_up_to_64_images_meet_all_others_whatever_the_seed(n: int) -> None:
    query, augmented, transform = maps_and_transform(n)
    one, other = (consistency(query, augmented, transform, seed=seed) for seed in (0, 1))
    torch.testing.assert_close(one.loss_N, other.loss_N)
    whole = cgc_loss(query, augmented, transform, temperature=0.5)
    torch.testing.assert_close(one.loss_N, whole)


def test_of_more_images_the_seed_draws_the_negatives() -> None:
    query, augmented, transform = maps_and_transform(70)
    first, again, other = (consistency(query, augmented, transform, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.loss_N, again.loss_N)
    assert not torch.allclose(first.loss_N, other.loss_N)
    assert torch.equal(first.cosine_N, again.cosine_N)
    torch.testing.assert_close(first.cosine_N, other.cosine_N)


def test_the_scale_of_maps_does_not_matter() -> None:
    query, augmented, transform = maps_and_transform(10)
    scaled = consistency(query * 1e3, augmented * 1e-2, transform)
    plain = consistency(query, augmented, transform)
    torch.testing.assert_close(scaled.loss_N, plain.loss_N, rtol=1e-4, atol=0)


def test_an_equivariant_model_has_cosine_one() -> None:
    """A map that is flat looks the same through every crop."""
    _, _, transform = maps_and_transform(6)
    flat = torch.ones(6, 4, 4, dtype=torch.float64)
    found = consistency(flat, 3 * flat, transform)
    assert found.cosine_N.tolist() == pytest.approx([1.0] * 6)
    assert found.loss_N.tolist() == pytest.approx([torch.log(torch.tensor(6.0)).item()] * 6)


def test_zero_maps_are_finite() -> None:
    query, augmented, transform = maps_and_transform(4)
    query[0], augmented[1] = 0, 0
    found = consistency(query.float(), augmented.float(), transform)
    assert found.loss_N.isfinite().all()
    assert ((found.cosine_N >= 0) & (found.cosine_N <= 1 + 1e-9)).all()


def test_maps_must_fit() -> None:
    query, augmented, transform = maps_and_transform(4)
    with pytest.raises(ValueError, match="4 query maps, 3 augmented"):
        consistency(query, augmented[:3], transform)
    with pytest.raises(ValueError, match="3 transforms"):
        consistency(query, augmented, part(transform, torch.arange(3)))


def test_the_accumulator_gives_the_figure_of_the_whole_set() -> None:
    generator = torch.Generator().manual_seed(3)
    query, augmented = torch.rand(2, 70, 4, 5, generator=generator)
    transform = SpatialTransform.sample(70, 40, generator=generator)
    metric = CGCConsistency(40, temperature=0.2, seed=7)
    for part in torch.arange(70).split(32):
        metric.update(query[part], augmented[part], SpatialTransform.unpack(transform.pack()[part], 40))
    expected = consistency(query, augmented, transform, temperature=0.2, seed=7).loss_N.mean()
    torch.testing.assert_close(metric.compute(), expected)
    with pytest.raises(ValueError, match="40 px"):
        metric.update(query[:2], augmented[:2], SpatialTransform.sample(2, 64))
