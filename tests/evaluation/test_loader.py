"""Batches of the evaluation: one resized size each, rows of an image together, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.data.boxed_views import ViewSizes, decode_views, resized, size_batches
from cgc.data.boxes import BoxedImage
from cgc.data.decode import UnreadableImage
from cgc.evaluation.loader import Preparation, evaluation_loader, image_starts
from cgc.explainers.stored import MapProblem
from cgc.metrics.content_heatmap import content_heatmap
from cgc.metrics.maps import near_region, region_mask
from tests.data.boxed_fixture import make_image

SIZES = [(30, 40), (60, 80), (40, 30), (30, 41), (30, 40)]


class Circle:
    """A mask that is drawn when asked for."""

    def decode(self):
        y, x = np.mgrid[:30, :40]
        return (y - 15) ** 2 + (x - 20) ** 2 < 100


class Broken:
    def decode(self):
        raise ValueError("run lengths do not fill the image")


@pytest.fixture
def images(tmp_path):
    """Five images; the second shows two classes."""
    rows = []
    for index, (height, width) in enumerate(SIZES):
        path = tmp_path / f"{index}.png"
        make_image(path, size=(width, height))
        box = np.array([[2, 3, 12, 20]])
        rows += [
            BoxedImage(path, label, box, False, (height, width))
            for label in ((0, 1) if index == 1 else (index,))
        ]
    return rows


def batches(images, preparation, **options):
    return list(evaluation_loader(images, preparation, **{"batch_size": 2, "workers": 0, **options}))


def test_every_row_once_in_batches_of_one_size(images):
    found = batches(images, Preparation(ViewSizes(shorter_side=60)))
    assert sorted(row for batch in found for row in batch.rows) == list(range(6))
    shapes = {}
    for batch in found:
        assert batch.views.full.is_contiguous(memory_format=torch.channels_last)
        for row, owner in zip(batch.rows, batch.owners, strict=True):
            shapes[row] = tuple(batch.views.full[owner].shape[1:])
    assert shapes == {0: (60, 80), 1: (60, 80), 2: (60, 80), 3: (80, 60), 4: (60, 82), 5: (60, 80)}
    together = next(batch for batch in found if 1 in batch.rows)
    assert [together.owners[together.rows.index(row)] for row in (1, 2)] in ([0, 0], [1, 1])


def test_regions_and_trivial_scores_are_those_of_the_pure_functions(images):
    for batch in batches(images, Preparation(ViewSizes(), tolerance=4), batch_size=3):
        for frame in batch.frames():
            for g, position in enumerate(frame.positions):
                image = images[batch.rows[position]]
                height, width = image.size
                assert image.size == frame.sizes[g]
                for framed, expected in (
                    (frame.inside_GHW[g], region_mask(image.boxes, image.size)),
                    (frame.near_GHW[g], near_region(image.boxes, image.size, 4)),
                ):
                    assert torch.equal(framed[:height, :width], expected)
                    assert int(framed.sum()) == int(expected.sum())
                uniform = content_heatmap(torch.ones(1, 1), image.boxes, image.size)
                assert float(frame.uniform_G3[g, 0]) == pytest.approx(uniform, abs=1e-7)
        assert batch.views == (None, None, None)


def test_masks_are_decoded_late_and_their_trouble_is_named(images):
    first = images[0]
    rows = [
        BoxedImage(first.path, 0, first.boxes, False, first.size, Circle()),
        BoxedImage(first.path, 1, first.boxes, False, first.size, Broken()),
    ]
    [batch] = batches(rows, Preparation(ViewSizes(square=8)))
    assert batch.rows == [0]
    assert int(batch.frames()[0].inside_GHW.sum()) == int(Circle().decode().sum())
    assert [(f.row, f.reason) for f in batch.failed] == [(1, "unusable region")]
    assert "run lengths" in batch.failed[0].what
    assert batch.views.square.shape == (1, 3, 8, 8)


def test_unreadable_images_and_missing_maps_take_their_rows_with_them(images):
    images[1].path.write_bytes(b"gone")

    def load(image):
        if image.label == 3:
            raise MapProblem("no map", str(image.path))
        return torch.ones(2, 2)

    found = batches(images, Preparation(ViewSizes(shorter_side=60), load_map=load))
    failed = sorted(failure for batch in found for failure in batch.failed)
    assert [(f.row, f.reason) for f in failed] == [
        (1, "unreadable image"),
        (2, "unreadable image"),
        (4, "no map"),
    ]
    assert sorted(row for batch in found for row in batch.rows) == [0, 3, 5]
    assert all(len(batch.stored()) == len(batch.rows) for batch in found)
    assert sum(batch.images for batch in found) == 5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_make_the_whole(images, size):
    rows = []
    for rank in range(size):
        found = batches(images, Preparation(ViewSizes()), share=slice(rank, None, size))
        rows += [row for batch in found for row in batch.rows]
    assert sorted(rows) == list(range(6))


def test_rows_of_one_image_are_one_image(images):
    assert image_starts(images) == [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6)]
    assert image_starts([]) == []


def test_sizes_of_one_kind_stand_together():
    sizes = [resized(size, 30) for size in ((30, 40), (60, 80), (30, 40), (60, 80))]
    assert size_batches(sizes, 2, ["small", "large", "small", "large"]) == [[0, 2], [1, 3]]
    assert size_batches(sizes, 2) == [[0, 1], [2, 3]]


def test_an_image_of_another_size_than_its_annotation_is_refused(tmp_path):
    make_image(tmp_path / "a.png", size=(40, 30))
    with pytest.raises(UnreadableImage, match="30×40 px, its annotation says 40×30"):
        decode_views(tmp_path / "a.png", (40, 30), ViewSizes(square=8))


def test_views_are_those_of_torchvision(tmp_path):
    from torchvision.transforms import v2

    generator = np.random.default_rng(0)
    pixels = Image.fromarray(generator.integers(0, 256, (50, 70, 3), dtype=np.uint8)).resize((210, 150))
    pixels.save(tmp_path / "a.png")
    views = decode_views(tmp_path / "a.png", (150, 210), ViewSizes(96, 64, (96, 80)))
    resize = v2.Resize(96)(pixels)
    assert torch.equal(views.full, torch.from_numpy(np.array(resize)))
    assert torch.equal(views.square, torch.from_numpy(np.array(v2.Resize((64, 64))(pixels))))
    crop = torch.from_numpy(np.array(v2.CenterCrop(80)(resize)))
    assert (views.crop.int() - crop.int()).abs().max() <= 1
