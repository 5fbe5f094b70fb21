"""Insertion and deletion against recorded numbers, loops over pixels and hand calculations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cgc.metrics.insertion import (
    DeletionAUC,
    InsertionAUC,
    area_under_curve,
    blur_kernel,
    blurred,
    deletion_curve,
    insertion_curve,
    pixel_ranks,
)
from tests.references import insertion as slow

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "insertion_deletion.npz")
CURVES = {"insertion": insertion_curve, "deletion": deletion_curve}


def golden_case() -> tuple[nn.Module, Tensor, Tensor]:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4, padding=3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
        nn.Softmax(dim=1),
    )
    names = ("0.weight", "conv_w"), ("0.bias", "conv_b"), ("4.weight", "lin_w"), ("4.bias", "lin_b")
    network.load_state_dict({key: torch.from_numpy(GOLDEN[name]) for key, name in names})
    generator = torch.Generator().manual_seed(int(GOLDEN["input_seed"]))
    noise = torch.randn(4, 3, 224, 224, generator=generator)[:, :, :28, :28]
    images = functional.interpolate(noise, size=224, mode="bilinear", align_corners=False)
    images = functional.avg_pool2d(images, 5, stride=1, padding=2)
    return network, images, torch.rand(4, 224, 224, generator=generator)


def linear_softmax(size: tuple[int, int], classes: int = 4, seed: int = 0):
    """Probabilities that depend on every pixel of a float64 image."""
    weights = torch.randn(
        3 * size[0] * size[1], classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return lambda images: (images.flatten(1) @ weights).softmax(dim=1)


def random_images(n: int, size: tuple[int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, *size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [None, 7])
def test_agrees_with_recorded_numbers(batch_size):
    network, images, explanations = golden_case()
    assert images.mean(dim=(1, 2, 3)).numpy() == pytest.approx(GOLDEN["images_mean"], rel=2e-5)
    for name, curve in CURVES.items():
        scores = curve(network, images, explanations, baseline="blur", batch_size=batch_size)
        assert not scores.requires_grad
        assert scores.numpy() == pytest.approx(GOLDEN[f"{name}_scores"], rel=2e-5)
        mean_curve = scores.double().mean(dim=1)
        assert float(area_under_curve(mean_curve)) == pytest.approx(float(GOLDEN[f"{name}_auc"]), rel=2e-5)


def test_the_blur_is_the_recorded_kernel_with_zeros_around_the_image():
    assert blur_kernel().numpy() == pytest.approx(GOLDEN["blur_kernel"], rel=2e-5)
    image = random_images(1, (9, 14))
    kernel = torch.from_numpy(GOLDEN["blur_kernel"]).double()
    torch.testing.assert_close(blurred(image)[0], slow.blurred(image[0], kernel), rtol=1e-6, atol=1e-7)
    assert blurred(image.bfloat16()).dtype == torch.bfloat16


def test_the_kernel_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    assert blur_kernel().numpy() == pytest.approx(ndimage.gaussian_filter(impulse, 5), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    n=st.integers(1, 3),
    levels=st.integers(1, 40),  # 1: constant maps; few: many ties
    steps=st.integers(1, 9),
    baseline=st.sampled_from(["blur", "zero", "mean"]),
    inserting=st.booleans(),
    labelled=st.booleans(),
    batch_size=st.sampled_from([None, 1, 4, 100]),
    seed=st.integers(0, 999),
)
def test_equals_loops_over_pixels(size, n, levels, steps, baseline, inserting, labelled, batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    images, predict = random_images(n, size, seed), linear_softmax(size, seed=seed)
    maps = torch.randint(0, levels, (n, *size), generator=generator) - 3.0
    target = torch.randint(0, 4, (n,), generator=generator) if labelled else None
    curve = insertion_curve if inserting else deletion_curve
    options = {"steps": steps, "baseline": baseline, "batch_size": batch_size}
    found = curve(predict, images, maps, target=target, **options)
    assert found.shape == (steps + 1, n)
    kernel = torch.from_numpy(GOLDEN["blur_kernel"]).double()
    for i in range(n):
        expected = slow.curve(
            predict,
            images[i],
            maps[i],
            slow.blank(images[i], baseline, kernel),
            target=None if target is None else int(target[i]),
            steps=steps,
            inserting=inserting,
        )
        # The recorded kernel is float32: 1e-7 of a logit.
        assert found[:, i].tolist() == pytest.approx(expected, abs=1e-6 if baseline == "blur" else 1e-12)


@pytest.mark.parametrize(
    ("grid", "size"), [((3, 4), (11, 7)), ((7, 7), (6, 5)), ((1, 5), (4, 9)), ((2, 2), (8, 8))]
)
def test_maps_on_a_grid_are_resized(grid, size):
    maps = torch.randn(3, *grid, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    maps[2] = maps[2].clamp(min=0)  # large areas of exact zeros, as in Grad-CAM
    ranks = pixel_ranks(maps, size)
    for map_hw, ranks_HW in zip(maps, ranks, strict=True):
        order = slow.pixel_order(map_hw, size)
        assert [int(ranks_HW[pixel]) for pixel in order] == list(range(size[0] * size[1]))


@pytest.mark.parametrize("value", [0.0, 3.7, -1.3, 1e-40])
def test_a_constant_map_goes_row_by_row(value):
    ranks = pixel_ranks(torch.full((1, 7, 7), value), (90, 121))
    assert torch.equal(ranks.flatten(), torch.arange(90 * 121))


def test_equal_cells_stay_equal_when_resized():
    """Columns of one value each, negative ones too: left to right, each from the top."""
    maps = torch.tensor([3.7, 0.3, -1.9]).expand(1, 5, 3)
    ranks = pixel_ranks(maps, (90, 121))[0]
    assert torch.equal(ranks[0, :20], torch.arange(20))  # the plateau of the first cell ends at 121 / 6
    assert torch.equal(ranks[:, 20:101], ranks[:1, 20:101] + torch.arange(90)[:, None])
    assert torch.equal(ranks[1, 101:], ranks[0, 101:] + 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_neither_scale_nor_range_nor_precision_changes_the_order(dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 6, generator=generator).bfloat16().float()
    expected = pixel_ranks(maps, (23, 17))
    assert torch.equal(pixel_ranks(maps.to(dtype), (23, 17)), expected)
    for scale in (1e-30, 1e30):
        assert torch.equal(pixel_ranks(maps.double() * scale, (23, 17)), expected)
    assert torch.equal(pixel_ranks(maps * 2.0**-110, (23, 17)), expected)
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    assert torch.equal(pixel_ranks((maps - low).double() / (high - low), (23, 17)), expected)


def test_ranking_never_waits_for_the_device():
    assert pixel_ranks(torch.empty(2, 7, 7, device="meta"), (30, 40)).shape == (2, 30, 40)


@pytest.mark.parametrize("curve", CURVES.values())
def test_known_probabilities_save_a_forward_pass_and_batches_stay_small(curve):
    predict, images, maps = linear_softmax((6, 5)), random_images(3, (6, 5)), torch.rand(3, 2, 2)
    batches = []

    def counting(x):
        batches.append(len(x))
        return predict(x)

    plain = curve(counting, images, maps, steps=5, batch_size=4)
    assert (sum(batches), max(batches)) == (3 * 6, 4)
    intact = predict(images)
    for given_intact, target in ((intact, None), (intact.max(dim=1).values, intact.argmax(dim=1))):
        batches.clear()
        scores = curve(counting, images, maps, steps=5, batch_size=4, intact=given_intact, target=target)
        assert (sum(batches), max(batches)) == (3 * 5, 4)
        torch.testing.assert_close(scores, plain)


def test_a_map_that_finds_the_evidence_beats_one_that_avoids_it():
    def predict(images):  # the class is a bright upper left corner
        logit = 8 * images[:, :, :4, :4].mean(dim=(1, 2, 3)) - 4
        return torch.stack((logit, -logit), dim=1).softmax(dim=1)

    image = torch.zeros(1, 3, 16, 16)
    image[:, :, :4, :4] = 1
    right = torch.zeros(1, 4, 4)
    right[0, 0, 0] = 1
    areas = {
        (name, which): float(area_under_curve(curve(predict, image, maps, baseline="zero", steps=16)))
        for name, curve in CURVES.items()
        for which, maps in (("right", right), ("wrong", 1 - right))
    }
    assert areas["insertion", "right"] > 0.9 > 0.3 > areas["insertion", "wrong"]
    assert areas["deletion", "right"] < 0.1 < 0.7 < areas["deletion", "wrong"]


def test_the_mean_of_an_image_is_its_own():
    images = torch.stack((torch.full((3, 4, 4), 0.25), torch.full((3, 4, 4), 0.75)))
    seen = []

    def predict(x):
        seen.append(x.clone())
        return torch.full((len(x), 2), 0.5)

    deletion_curve(predict, images, torch.rand(2, 4, 4), baseline="mean", steps=3)
    assert all(torch.equal(x, images) for x in seen)


def test_area_by_hand():
    scores = torch.tensor([[0.0, 1.0], [0.5, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert area_under_curve(scores).tolist() == pytest.approx([2 / 3, 2.5 / 3])
    with pytest.raises(ValueError, match="two points"):
        area_under_curve(scores[:1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"explanations_Nhw": torch.tensor([[[1.0, torch.nan]]] * 2)}, "not finite"),
        ({"explanations_Nhw": torch.tensor([[[1.0, torch.inf]]] * 2)}, "not finite"),
        ({"explanations_Nhw": torch.rand(3, 2, 2)}, r"\(2, h, w\)"),
        ({"explanations_Nhw": torch.rand(2, 1, 2, 2)}, r"\(2, h, w\)"),
        ({"explanations_Nhw": torch.rand(2, 0, 2)}, r"\(2, h, w\)"),
        ({"images_NCHW": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, "images are floats"),
        ({"target": torch.tensor([0, 4])}, "target 4 is none of 4 classes"),
        ({"target": torch.tensor([0, -1])}, "target -1"),
        ({"target": torch.tensor([0, 4]), "intact": torch.tensor([0.5, 0.5])}, "target 4 is none of 4"),
        ({"target": torch.tensor([0])}, "targets of 2 images"),
        ({"intact": torch.rand(2)}, "give the targets too"),
        ({"intact": torch.rand(3, 4)}, "intact of 2 images"),
        ({"baseline": "black"}, "baseline must be one of blur, zero, mean, not 'black'"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"predict": lambda x: 5 * torch.ones(len(x), 4)}, "must return probabilities"),
        ({"predict": lambda x: torch.ones(len(x))}, r"not \(B, K\)"),
    ],
)
def test_refuses_what_it_cannot_score(change, text):
    arguments = {
        "predict": linear_softmax((4, 4)),
        "images_NCHW": random_images(2, (4, 4)),
        "explanations_Nhw": torch.rand(2, 2, 2),
    }
    with pytest.raises(ValueError, match=text):
        insertion_curve(**(arguments | change))


@pytest.mark.parametrize(
    ("metric", "curve"), [(InsertionAUC, insertion_curve), (DeletionAUC, deletion_curve)]
)
def test_accumulators_give_the_mean_over_images_whatever_the_batches(metric, curve):
    predict, images = linear_softmax((5, 6)), random_images(7, (5, 6))
    maps = torch.rand(7, 3, 3, generator=torch.Generator().manual_seed(0))
    maps[4] = 0
    areas = area_under_curve(curve(predict, images, maps, steps=6))
    skipping, whole = metric(steps=6, batch_size=4), metric(steps=6, zero_maps="uniform")
    for accumulator in (skipping, whole):
        for part in (slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 7)):
            accumulator.update(predict, images[part], maps[part], intact=predict(images[part]))
        assert int(accumulator.zero_count) == 1
    kept = torch.tensor([0, 1, 2, 3, 5, 6])
    assert float(skipping.compute()) == pytest.approx(float(areas[kept].mean()), abs=1e-12)
    assert float(whole.compute()) == pytest.approx(float(areas.mean()), abs=1e-12)
    with pytest.raises(ValueError, match="zero_maps"):
        metric(zero_maps="drop")
