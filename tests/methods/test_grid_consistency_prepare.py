"""What grid consistency draws from a batch, and what becomes of images that it cannot serve."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cgc.methods.grid_consistency import GridConsistencyMethod
from tests.methods.test_grid_consistency import CLASSES, batch, seeded, several_labels, small_model
from tests.methods.toy import gradients
from tests.references import grid_consistency as reference


@pytest.mark.parametrize("several", [False, True])
def test_prepare_draws_what_the_method_needs(several: bool) -> None:
    data = batch(10)
    if several:
        data.labels = several_labels(10)
    method = GridConsistencyMethod(small_model(), multi_label=several)
    images, composites, labels, target, quadrant, usable = method.prepare(data, seeded(7))
    assert images is data.xe
    assert labels is data.labels
    assert usable.all()
    contains = data.labels if several else F.one_hot(data.labels, CLASSES).bool()
    for i in range(10):
        assert contains[i, target[i]]
        cells = [composites[i, :, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)]
        found = [next(j for j in range(10) if torch.equal(cell, images[j])) for cell in cells]
        assert found[quadrant[i]] == i
        others = [j for j in found if j != i]
        assert len(set(others)) == 3
        assert not contains[others, target[i]].any()
    assert len(set(quadrant.tolist())) > 1
    again, other = method.prepare(data, seeded(7)), method.prepare(data, seeded(8))
    assert all(
        torch.equal(a, b)
        for a, b in zip(again[1:], (composites, labels, target, quadrant, usable), strict=True)
    )
    assert not torch.equal(again[1], other[1])


def test_given_distractors_fill_the_free_cells() -> None:
    data = batch(3)  # three images cannot give three distractors
    method = GridConsistencyMethod(small_model())
    assert not method.prepare(data, seeded())[-1].any()
    data.distractors, data.distractor_rows = batch(6, seed=9).xe.unflatten(0, (2, 3)), torch.tensor([2, 0])
    _, composites, _, _, quadrant, usable = method.prepare(data, seeded())
    assert usable.tolist() == [True, False, True]
    for row, given in zip((2, 0), data.distractors, strict=True):
        expected = reference.composite(data.xe[row], given, int(quadrant[row]))
        assert torch.equal(composites[row], expected)
    data.distractors, data.distractor_rows = batch(9, seed=9).xe.unflatten(0, (3, 3)), None
    assert method.prepare(data, seeded())[-1].all()


def test_given_distractors_of_several_labels_come_with_their_category() -> None:
    data = batch(3, distractors=batch(9, seed=9).xe.unflatten(0, (3, 3)))
    data.labels = several_labels(3)
    method = GridConsistencyMethod(small_model(), multi_label=True)
    with pytest.raises(ValueError, match="category"):
        method.prepare(data, seeded())
    data.category = torch.tensor([1, 2, 2])
    _, _, _, target, _, usable = method.prepare(data, seeded())
    assert target.tolist() == [1, 2, 2]
    assert usable.all()


def test_images_without_a_composite_are_classified_only() -> None:
    data = batch(5)
    data.labels = torch.tensor([0, 0, 0, 1, 1])  # images 3 and 4 find three others, 0 to 2 only two
    method = GridConsistencyMethod(small_model(frozen_norm=True))
    prepared = method.prepare(data, seeded())
    outputs = method(*prepared)
    assert outputs["unusable"].tolist() == [1, 1, 1, 0, 0]
    assert (outputs["consistency"] > 0).tolist() == [False, False, False, True, True]
    torch.testing.assert_close(outputs["loss"][:3], outputs["cross_entropy"][:3])
    lonely = method(*method.prepare(batch(1), seeded()))
    lonely["loss"].mean().backward()
    assert gradients(method).isfinite().all()
    labels = several_labels(6)
    labels[1] = False
    data = batch(6)
    data.labels = labels
    several = GridConsistencyMethod(small_model(frozen_norm=True), multi_label=True)
    outputs = several(*several.prepare(data, seeded()))
    assert outputs["unusable"].tolist() == [0, 1, 0, 0, 0, 0]
    assert outputs["consistency"][1] == 0
    assert outputs["cross_entropy"][1] > 0


def test_a_batch_without_the_cropped_view_is_refused() -> None:
    data = batch(2)
    data.xe = None
    with pytest.raises(ValueError, match="xe"):
        GridConsistencyMethod(small_model()).prepare(data, seeded())
