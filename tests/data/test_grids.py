"""Composite images and the choice of their distractors."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgc.data.grids import (
    choose_distractors,
    compose_grids,
    draw_categories,
    draw_quadrants,
    lacking_distractors,
    of_other_classes,
    without_category,
)
from tests.references import grid_consistency as reference


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(values: list[int], side: int = 1) -> Tensor:
    """Images of one grey value each."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, side, side).contiguous()


def test_cells_are_filled_in_order() -> None:
    images = plain([10, 20, 30, 40])
    distractors = torch.tensor([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 0, 1]])
    grids = compose_grids(images, distractors, torch.tensor([0, 1, 2, 3]))
    assert grids.dtype == torch.uint8
    assert grids[:, 1].flatten(1).tolist() == [
        [10, 20, 30, 40],
        [10, 20, 30, 40],
        [40, 20, 30, 10],
        [30, 10, 20, 40],
    ]


@pytest.mark.parametrize("nhwc", [False, True])
def test_composites_equal_the_oracle(nhwc: bool) -> None:
    n, side = 6, 5
    images = torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=seeded(1))
    if nhwc:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    distractors, quadrant = torch.randint(n, (n, 3), generator=seeded(2)), torch.tensor([0, 1, 2, 3, 3, 0])
    grids = compose_grids(images, distractors, quadrant)
    for i in range(n):
        assert torch.equal(grids[i], reference.composite(images[i], images[distractors[i]], int(quadrant[i])))
    assert torch.equal(images, before)
    assert grids.is_contiguous(memory_format=torch.channels_last) == nhwc
    assert grids.is_contiguous() != nhwc


def test_given_distractors_replace_the_batch_s() -> None:
    images, distractors = plain([10, 20, 30]), torch.tensor([[1, 2, 1], [0, 2, 0], [0, 1, 0]])
    others, quadrant = plain([1, 2, 3, 4, 5, 6]).unflatten(0, (2, 3)), torch.tensor([3, 0, 1])
    grids = compose_grids(images, distractors, quadrant, given=others, rows=torch.tensor([2, 0]))
    assert grids[:, 0].flatten(1).tolist() == [[4, 5, 6, 10], [20, 10, 30, 10], [1, 30, 2, 3]]
    assert distractors[2].tolist() == [0, 1, 0]  # left as it was
    everyone = plain(list(range(9))).unflatten(0, (3, 3))
    grids = compose_grids(images, distractors, quadrant, given=everyone)
    assert grids[:, 0].flatten(1).tolist() == [[0, 1, 2, 10], [20, 3, 4, 5], [6, 30, 7, 8]]


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=12), seed=st.integers(0, 2**31))
def test_distractors_are_three_different_images_of_other_classes(labels: list[int], seed: int) -> None:
    admissible = of_other_classes(torch.tensor(labels))
    chosen, complete = choose_distractors(admissible, seeded(seed))
    assert torch.equal(complete, ~lacking_distractors(admissible))
    for n, (row, whole) in enumerate(zip(chosen.tolist(), complete.tolist(), strict=True)):
        others = [m for m, label in enumerate(labels) if label != labels[n]]
        assert whole == (len(others) >= 3)
        if whole:
            assert len(set(row)) == 3
        # What the batch has of them, then one again; itself where there are none.
        assert len(set(row)) == max(min(len(others), 3), 1)
        assert set(row) <= (set(others) or {n})
    again, _ = choose_distractors(admissible, seeded(seed))
    assert torch.equal(chosen, again)


def test_every_choice_and_order_is_as_likely() -> None:
    """Of four candidates: 24 ordered triples, 250 expected each."""
    admissible = of_other_classes(torch.tensor([0, 0, 1, 2, 3, 3]))
    generator = seeded(3)
    counts = Counter(tuple(choose_distractors(admissible, generator)[0][0].tolist()) for _ in range(6000))
    assert set(counts) == set(itertools.permutations([2, 3, 4, 5], 3))
    assert (
        sum((count - 250) ** 2 / 250 for count in counts.values()) < 49.7
    )  # χ², 23 degrees of freedom, p = 0.001
    assert set(Counter(draw_quadrants(4000, generator).tolist()).values()) <= set(range(880, 1121))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_with_several_labels_the_drawn_category_is_in_no_distractor(data: st.DataObject, seed: int) -> None:
    n, k = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5))
    rows = data.draw(st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=n, max_size=n))
    labels, generator = torch.tensor(rows), seeded(seed)
    category, labelled = draw_categories(labels, generator)
    assert labelled.tolist() == [any(row) for row in rows]
    assert [c for c, any_ in zip(category.tolist(), labelled.tolist(), strict=True) if not any_] == [0] * (
        n - int(labelled.sum())
    )
    admissible = without_category(labels, category)
    for i, j in itertools.product(range(n), range(n)):
        assert bool(admissible[i, j]) == (not rows[j][int(category[i])])
    chosen, complete = choose_distractors(admissible, generator)
    for i in range(n):
        if labelled[i]:
            assert rows[i][int(category[i])]
        if complete[i]:
            assert not any(rows[j][int(category[i])] for j in chosen[i].tolist())


def test_every_category_of_an_image_is_as_likely() -> None:
    labels = torch.tensor([[True, False, True, False, True]]).expand(6000, -1)
    counts = Counter(draw_categories(labels, seeded(4))[0].tolist())
    assert set(counts) == {0, 2, 4}
    assert all(abs(count - 2000) < 130 for count in counts.values())


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors on the meta device have no values, so whoever asks for one fails."""
    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8, device="meta")
    labels = torch.zeros(6, 5, dtype=torch.bool, device="meta")
    category, _ = draw_categories(labels, seeded())
    for admissible in (without_category(labels, category), of_other_classes(category)):
        chosen, complete = choose_distractors(admissible, seeded())
        others, rows = torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8, device="meta"), category[:2]
        grids = compose_grids(images, chosen, draw_quadrants(6, seeded(), "meta"), given=others, rows=rows)
        assert (grids.shape, complete.shape) == ((6, 3, 8, 8), (6,))
        assert (grids.device.type, complete.device.type) == ("meta", "meta")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": torch.zeros(2, 3, 4, 5)}, r"\(2, 3, 4, 5\)"),
        ({"distractors": torch.zeros(2, 4, dtype=torch.int64)}, r"\(2, 4\)"),
        ({"quadrant": torch.tensor([0])}, r"\(1,\)"),
        ({"quadrant": torch.tensor([0, 4])}, "4"),
        ({"given": torch.zeros(1, 3, 3, 4, 4)}, r"\(1, 3, 3, 4, 4\)"),
        ({"given": torch.zeros(2, 3, 3, 4, 4, dtype=torch.uint8)}, "uint8"),
        ({"rows": torch.tensor([0])}, "none are given"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Tensor], named: str) -> None:
    arguments = {
        "images": torch.zeros(2, 3, 4, 4),
        "distractors": torch.zeros(2, 3, dtype=torch.int64),
        "quadrant": torch.zeros(2, dtype=torch.int64),
    }
    with pytest.raises(ValueError, match=named):
        compose_grids(**{**arguments, **change})
