"""Saliency masks: found, read, cut like the query view, and missing ones dealt with."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.data.boxes import BoxedImage, BoxedImages
from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList, open_split
from cgc.data.masks import MaskArray
from cgc.data.saliency import MaskFolder, RegionMasks, SaliencyMasks
from cgc.data.saliency_files import find_masks, mask_kinds, mask_path, read_grey
from cgc.data.views import query_view
from cgc.errors import InputError
from tests.data.images import save_photograph
from tests.data.saliency_fixture import (
    QUERY,
    RESIZE,
    SIZE,
    WHOLE,
    blob,
    fill,
    filled_by,
    loaded,
    opened,
    size_of,
    small_split,
)


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    return small_split(tmp_path)


# Cut and threshold


@pytest.mark.parametrize(("width", "height"), [(40, 30), (31, 57), (24, 24), (200, 31)])
def test_masks_are_cut_exactly_as_their_images_are(width: int, height: int, tmp_path: Path) -> None:
    """An image that shows its own mask: what is bright in the query view is what the mask says there."""
    picture = np.where(blob((height, width), 3) > 100, 255, 0).astype(np.uint8)
    rgb = Image.fromarray(picture).convert("RGB")
    for place, image in (("data/train/ant/0.png", rgb), ("masks/ant/0.png", Image.fromarray(picture))):
        (tmp_path / place).parent.mkdir(parents=True)
        image.save(tmp_path / place)
    images = open_split(tmp_path / "data", "train")
    mask = opened(tmp_path / "masks", images)(0, (height, width))
    assert mask.dtype == torch.uint8
    query = np.asarray(query_view(rgb, SIZE, RESIZE))[..., 0]
    assert 0 < (query > 127).mean() < 1
    assert np.array_equal(mask.numpy(), query > 127)


def test_files_of_the_query_view_are_thresholded_as_they_are(images: ImageList, tmp_path: Path) -> None:
    masks = opened(filled_by(QUERY, images, tmp_path / "saliency"), images)
    assert masks.made_by == QUERY
    for index, mask in enumerate(loaded(masks)):
        assert np.array_equal(mask.numpy(), blob((SIZE, SIZE), index) > 127.5)


def test_files_of_the_query_view_serve_at_another_size(images: ImageList, tmp_path: Path) -> None:
    folder = filled_by(QUERY, images, tmp_path / "saliency")
    masks = SaliencyMasks(MaskFolder(folder, images, 48, 54), images)
    mask = masks(0, size_of(images, 0))
    expected = Image.fromarray(blob((SIZE, SIZE), 0)).resize((48, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(mask.numpy(), np.asarray(expected) > 127)
    for size, resize in ((24, 24), (48, 58), (224, 255)):
        with pytest.raises(InputError, match=f"central 24 of 27 px, this run crops {size} of {resize}"):
            MaskFolder(folder, images, size, resize)


def test_whole_images_masks_serve_at_any_crop(images: ImageList, tmp_path: Path) -> None:
    folder = filled_by(WHOLE, images, tmp_path / "saliency")
    for size, resize in ((24, 24), (48, 58)):
        masks = SaliencyMasks(MaskFolder(folder, images, size, resize), images)
        for index, mask in enumerate(loaded(masks)):
            whole = Image.fromarray(blob(size_of(images, index), index))
            assert np.array_equal(mask.numpy(), np.asarray(query_view(whole, size, resize)) > 127)


def test_every_file_is_stretched_to_its_own_range(tmp_path: Path) -> None:
    values = np.array([[10, 20, 30], [20, 21, 19]])
    above = values > 20  # the middle between 10 and 30
    for name, array in (
        ("8 bits", values.astype(np.uint8)),
        ("16 bits", (values * 256).astype(np.uint16)),
        ("1 bit", above),
    ):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        grey = np.asarray(read_grey(tmp_path / f"{name}.png", (2, 3)))
        assert grey.dtype == np.uint8
        assert (grey.min(), grey.max()) == (0, 255)
        assert np.array_equal(grey > 127, above), name


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (127, 0), (128, 255), (255, 255)])
def test_flat_files_are_all_or_nothing(value: int, expected: int, tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), value, dtype=np.uint8)).save(tmp_path / "flat.png")
    assert (np.asarray(read_grey(tmp_path / "flat.png", (3, 3))) == expected).all()


# Where they lie


def test_any_folder_of_grey_files_will_do(images: ImageList, tmp_path: Path) -> None:
    """With the split's folder in between or without, and with the image's suffix before its own."""
    plain, split = tmp_path / "plain", tmp_path / "split"
    fill(images, plain)
    expected = loaded(opened(plain, images))
    fill(images, split / "train")
    (split / "train/ant/0.png").rename(split / "train/ant/0.png.png")
    for one, other in zip(loaded(opened(split, images)), expected, strict=True):
        assert torch.equal(one, other)
    assert opened(plain, images).made_by is None


def test_images_that_differ_in_their_suffix_have_masks_of_their_own(tmp_path: Path) -> None:
    for name in ("0.png", "0.bmp", "1.bmp"):
        save_photograph(tmp_path / "data/train/ant" / name, 30, 30)
    images = open_split(tmp_path / "data", "train")
    assert [images.paths[i] for i in range(3)] == ["ant/0.bmp", "ant/0.png", "ant/1.bmp"]
    kinds = mask_kinds(images)
    names = [mask_path(Path("m"), images.paths[i], int(kinds[i])).as_posix() for i in range(3)]
    assert names == ["m/ant/0.bmp.png", "m/ant/0.png.png", "m/ant/1.png"]
    folder = tmp_path / "masks"
    (folder / "ant").mkdir(parents=True)
    for name in ("0.png", "1.png"):
        Image.fromarray(blob((30, 30), 1)).save(folder / "ant" / name)
    assert (find_masks(images, folder) > 0).tolist() == [False, False, True]  # whose 0.png is, nobody knows
    Image.fromarray(blob((30, 30), 1)).save(folder / "ant/0.bmp.png")
    assert (find_masks(images, folder) > 0).tolist() == [True, False, True]


def test_the_images_are_not_their_own_masks(images: ImageList) -> None:
    for folder in (images.root, images.root.parent, images.root / "ant"):
        with pytest.raises(InputError, match="folder of the images"):
            MaskFolder(folder, images, SIZE, RESIZE)


def test_no_folder(images: ImageList, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder .*saliency-masks"):
        MaskFolder(tmp_path / "nowhere", images, SIZE, RESIZE)


# Missing, damaged, empty


def test_missing_masks(images: ImageList, tmp_path: Path) -> None:
    everything = tmp_path / "all"
    fill(images, everything)
    expected = loaded(opened(everything, images))
    folder = tmp_path / "some"
    fill(images, folder, but=(1, 5))
    with pytest.raises(InputError, match=r"2 of 6 images have no mask in .*some, the first: .*ant/1\.png"):
        opened(folder, images)
    skip = opened(folder, images, "skip")
    assert [skip.images.paths[i] for i in range(4)] == ["ant/0.png", "ant/2.png", "bee/0.png", "bee/1.png"]
    assert skip.images.labels.tolist() == [0, 0, 1, 1]
    assert skip.images.classes == images.classes
    for mask, index in zip(loaded(skip), (0, 2, 3, 4), strict=True):
        assert torch.equal(mask, expected[index])
    full = opened(folder, images, "full")
    assert full.images is images
    for index, mask in enumerate(loaded(full)):
        assert torch.equal(mask, torch.ones_like(mask) if index in (1, 5) else expected[index])
    assert [note.split(": ")[-1] for note in skip.notes + full.notes] == ["left out", "all foreground"]
    assert opened(everything, images).notes == []


@pytest.mark.parametrize("missing", ["skip", "full"])
def test_a_folder_without_any_mask_is_no_folder_of_masks(
    missing: str, images: ImageList, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="6 of 6 images have no mask"):
        opened(tmp_path / "empty", images, missing)


def test_unusable_files_are_named(images: ImageList, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    fill(images, folder)
    Image.fromarray(blob((30, 40), 0)).save(folder / "ant/0.png")  # on its side
    (folder / "ant/1.png").write_bytes((folder / "ant/1.png").read_bytes()[:60])
    Image.new("RGB", (36, 36)).save(folder / "ant/2.png")
    (folder / "bee/0.png").write_text("no picture")
    problems = {
        0: r"ant/0\.png: mask is 30×40 px, not 40×30",
        1: r"ant/1\.png: mask ",
        2: r"ant/2\.png: mask is not a grey picture \(mode RGB\)",
        3: r"bee/0\.png: mask ",
    }
    for missing in ("error", "skip", "full"):
        masks = opened(folder, images, missing)
        assert len(masks.images) == 6
        for index, problem in problems.items():
            kind = InputError if missing == "error" else UnreadableImage
            with pytest.raises(kind, match=problem) as raised:
                masks(index, size_of(images, index))
            assert "\n" not in str(raised.value)
        assert masks(4, size_of(images, 4)).any()


def test_a_mask_that_is_empty_in_the_crop_is_a_missing_one(images: ImageList, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    fill(images, folder)
    height, width = size_of(images, 0)
    corner = np.zeros((height, width), dtype=np.uint8)
    corner[0, :] = 255  # the crop begins far below
    Image.fromarray(corner).save(folder / "ant/0.png")
    with pytest.raises(InputError, match=r"ant/0\.png: its saliency mask is empty"):
        opened(folder, images)(0, (height, width))
    with pytest.raises(UnreadableImage, match="empty"):
        opened(folder, images, "skip")(0, (height, width))
    assert opened(folder, images, "full")(0, (height, width)).all()


def test_an_unknown_rule(images: ImageList, tmp_path: Path) -> None:
    fill(images, tmp_path / "masks")
    with pytest.raises(ValueError, match="never"):
        opened(tmp_path / "masks", images, "never")


# Regions


class HalfMask:
    """The left half of an image."""

    def __init__(self, size: tuple[int, int], *, broken: bool = False) -> None:
        self.size, self.broken = size, broken

    def decode(self) -> MaskArray:
        if self.broken:
            raise ValueError("the mask is empty")
        mask = np.zeros(self.size, dtype=bool)
        mask[:, : self.size[1] // 2] = True
        return mask


def boxed(images: ImageList, index: int, *boxes: tuple[int, ...], **options: Any) -> BoxedImage:
    array = np.array(boxes, dtype=np.int64).reshape(-1, 4)
    size = options.pop("size", size_of(images, index))
    return BoxedImage(images.path(index), options.pop("label", 0), array, False, size, **options)


def regions(images: ImageList, rows: list[BoxedImage], missing: Any = "error") -> SaliencyMasks:
    found = BoxedImages(rows, images.classes, "a layout")
    return SaliencyMasks(RegionMasks(found, images, SIZE, RESIZE), images, missing=missing)


def test_regions_become_masks(images: ImageList) -> None:
    rows = [
        boxed(images, 0, (2, 5, 9, 20), (5, 30, 29, 39)),
        boxed(images, 0, (20, 10, 24, 12), label=1),  # another class, another row of the same image
        boxed(images, 2, mask=HalfMask(size_of(images, 2))),
        boxed(images, 1, (12, 12, 20, 20)),
    ]
    masks = regions(images, rows, "skip")
    assert [masks.images.paths[i] for i in range(3)] == ["ant/0.png", "ant/1.png", "ant/2.png"]
    whole = np.zeros((40, 30), dtype=np.uint8)
    whole[5:21, 2:10] = whole[30:40, 5:30] = whole[10:13, 20:25] = 255
    expected = np.asarray(query_view(Image.fromarray(whole), SIZE, RESIZE)) > 127
    assert np.array_equal(masks(0, (40, 30)).numpy(), expected)
    half = masks(2, (36, 36))
    assert half[:, :12].all()
    assert not half[:, 12:].any()
    assert masks.made_by is None
    with pytest.raises(InputError, match=r"3 of 6 images have no mask in the annotations \(a layout\)"):
        regions(images, rows)


def test_unusable_regions_are_named(images: ImageList) -> None:
    rows = [
        boxed(images, 0, (0, 0, 5, 5), size=(41, 30)),
        boxed(images, 1, mask=HalfMask(size_of(images, 1), broken=True)),
        boxed(images, 2, (0, 0, 0, 0)),
    ]
    masks = regions(images, rows, "full")
    with pytest.raises(UnreadableImage, match=r"ant/0\.png: .*40×30 px, its annotation says 41×30"):
        masks(0, (40, 30))
    with pytest.raises(UnreadableImage, match=r"ant/1\.png: .*the mask is empty"):
        masks(1, size_of(images, 1))
    assert masks(2, size_of(images, 2)).all()  # outside of the crop
    assert masks(3, size_of(images, 3)).all()  # no annotation


def test_masks_travel_to_loading_processes(images: ImageList, tmp_path: Path) -> None:
    masks = opened(filled_by(QUERY, images, tmp_path / "saliency"), images)
    there = pickle.loads(pickle.dumps(masks))
    assert torch.equal(there(2, size_of(images, 2)), masks(2, size_of(images, 2)))
