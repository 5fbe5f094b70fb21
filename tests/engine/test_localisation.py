"""One pass over boxed images, with stand-ins for a model whose maps are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cgc.data.boxes import BoxedImage, open_boxes
from cgc.engine.localisation import evaluate_localisation, summarise
from cgc.engine.runtime import evaluating
from tests.data.boxed_fixture import scored_folder


def looks_left(images, target):
    """Weight on the left half, nothing at all on black images; always says class 0."""
    bright = (images.mean(dim=(1, 2, 3)) > 0).float()
    maps = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(len(images), 2, 2) * bright[:, None, None]
    return torch.tensor([[2.0, 0.0]]).expand(len(images), 2), maps


def looks_at_object(images, target):
    """Brightness above a dark background, pixel by pixel."""
    grid = images.mean(dim=1)
    return torch.zeros(len(images), 2), (grid - grid.amin(dim=(1, 2), keepdim=True)).clamp(min=0)


def looks_at_background(images, target):
    logits, maps = looks_at_object(images, target)
    return logits, maps.amax(dim=(1, 2), keepdim=True) - maps


@pytest.fixture
def fixture_images(tmp_path):
    return open_boxes(scored_folder(tmp_path), classes=tmp_path / "names.txt").images


@pytest.fixture
def white_squares(tmp_path):
    generator = np.random.default_rng(0)
    images = []
    for index in range(6):
        side = int(generator.integers(60, 90))
        y, x = generator.integers(0, 200 - side), generator.integers(0, 300 - side)
        pixels = np.zeros((200, 300, 3), dtype=np.uint8)
        pixels[y : y + side, x : x + side] = 255
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).save(path)
        boxes = np.array([[x, y, x + side - 1, y + side - 1]], dtype=np.int64)
        images.append(BoxedImage(path, index % 2, boxes, False, (200, 300)))
    return images


def test_scores_worked_out_by_hand(fixture_images):
    result = evaluate_localisation(looks_left, fixture_images, input_resize=32, batch_size=2)
    # The map over columns: 1 up to 24, then 0.99, 0.97, … 0.01 at 74, in all 50; tolerance round(15·100/448) = 3.
    expected = {
        0: (43.75 / 50, 1, (43.75 + 0.49 + 0.47) / 50),
        1: (25 / 50, 1, (25 + 0.99 + 0.97 + 0.03 + 0.01) / 50),
        2: (0, None, (0.03 + 0.01) / 50),  # difficult
        3: (None, None, None),  # zero map
        4: (0.01 / 50, 0, (0.05 + 0.03 + 0.01) / 50),
    }
    assert [row.index for row in result.scores] == list(expected)
    for row in result.scores:
        got = (row.model.ch, row.model.pg, row.model.spg)
        assert got == pytest.approx(expected[row.index], abs=1e-6)
    assert result.failed == []
    summary = summarise(result.scores)
    assert (summary.images, summary.zero_maps, summary.all_difficult, summary.top1) == (5, 1, 1, 0.4)
    assert summary.counted == {"ch": 4, "pg": 3, "spg": 4}
    assert summary.values["ch"]["model"] == pytest.approx((0.875 + 0.5 + 0 + 0.0002) / 4, abs=1e-6)
    assert summary.values["ch"]["uniform"] == pytest.approx((0.5 + 0.5 + 0.25 + 0.26) / 4, abs=1e-6)
    # A uniform map points at (0, 0), the Gaussian at (49, 49): cats hit, hit and hit, miss; the dog is missed.
    assert summary.values["pg"] == {"model": 0.5, "uniform": 0.5, "gaussian": 0.25}
    assert summary.values["spg"]["model"] == pytest.approx((0.8942 + 0.54 + 0.0008 + 0.0018) / 4, abs=1e-6)


def test_zero_maps_can_count_as_uniform(fixture_images):
    result = evaluate_localisation(looks_left, fixture_images, input_resize=32, zero_maps="uniform")
    summary = summarise(result.scores)
    assert result.scores[3].model.ch == pytest.approx(0.5, abs=1e-6)
    assert (summary.zero_maps, summary.counted["ch"]) == (1, 5)
    assert summary.values["ch"]["model"] == pytest.approx((1.3752 + 0.5) / 5, abs=1e-6)


def test_scores_do_not_depend_on_the_batches(fixture_images):
    one = evaluate_localisation(looks_left, fixture_images, input_resize=32, batch_size=1)
    many = evaluate_localisation(looks_left, fixture_images, input_resize=32, batch_size=64, workers=1)
    assert one == many


def test_a_decoy_that_looks_at_the_background_loses(white_squares):
    scores = {}
    for explain in (looks_at_object, looks_at_background):
        result = evaluate_localisation(explain, white_squares, input_resize=64, batch_size=4)
        scores[explain] = summarise(result.scores).values
    good, decoy = scores[looks_at_object], scores[looks_at_background]
    assert good["ch"]["model"] > 0.95
    assert good["spg"]["model"] > 0.99
    assert good["pg"]["model"] == 1
    assert decoy["ch"]["model"] < good["ch"]["uniform"] < good["ch"]["model"]
    assert decoy["spg"]["model"] < good["spg"]["uniform"]
    assert decoy["pg"]["model"] == 0


def test_a_given_tolerance_is_used(white_squares):
    near, far = (
        evaluate_localisation(looks_at_background, white_squares, input_resize=64, tolerance=t)
        for t in (1, 400)
    )
    assert {row.tolerance for row in far.scores} == {400}
    assert summarise(far.scores).values["spg"]["model"] == pytest.approx(1)
    assert summarise(near.scores).values["spg"]["model"] == summarise(near.scores).values["ch"]["model"]


def test_unreadable_images_and_bad_maps_are_named(white_squares):
    white_squares[2].path.write_bytes(b"gone")

    def sometimes_nan(images, target):
        logits, maps = looks_at_object(images, target)
        return logits, torch.where((target == 1)[:, None, None], torch.nan, maps)

    result = evaluate_localisation(sometimes_nan, white_squares, input_resize=64, batch_size=4)
    assert [row.index for row in result.scores] == [0, 4]
    assert [index for index, _ in result.failed] == [1, 2, 3, 5]
    assert "not finite" in result.failed[0][1]


def test_every_row_and_map_is_shown(fixture_images):
    seen = []
    evaluate_localisation(
        looks_left,
        fixture_images,
        input_resize=32,
        on_map=lambda row, map_hw: seen.append((row.index, map_hw)),
    )
    assert sorted(index for index, _ in seen) == [0, 1, 2, 3, 4]
    assert all(map_hw.shape == (2, 2) for _, map_hw in seen)


def test_modes_come_back_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout()))
    model.train()
    model[1][0].eval()
    inside = []

    def work():
        with evaluating(model):
            inside.extend(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert inside == [False] * 5
    assert [module.training for module in model.modules()] == [True, True, True, False, True]


def test_nothing_scored_gives_no_numbers():
    summary = summarise([])
    assert summary.top1 is None
    assert summary.values["pg"] == {"model": None, "uniform": None, "gaussian": None}


def test_a_zero_map_counted_as_uniform_points_where_the_uniform_map_does(white_squares):
    """Resizing a constant map moves its peak by rounding: seen for 7×7 cells at sizes like these."""

    def blind(images, target):
        return torch.zeros(len(images), 2), torch.zeros(len(images), 7, 7)

    for image in white_squares:  # a box that holds the first pixel alone
        image.boxes[:] = 0
    result = evaluate_localisation(blind, white_squares, input_resize=32, zero_maps="uniform", tolerance=1)
    assert [row.model for row in result.scores] == [row.uniform for row in result.scores]
    assert [row.model.pg for row in result.scores] == [1.0] * 6
