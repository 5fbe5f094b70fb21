"""Folders of saliency masks: what their manifest says, and how they are filled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgc.data.folders import ImageList, open_split
from cgc.data.saliency_files import MANIFEST, MadeBy, Manifest
from cgc.data.saliency_writer import MaskWriter
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
    opened,
    size_of,
    small_split,
)


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    return small_split(tmp_path)


# The manifest


def test_the_manifest_lists_masks_and_their_making(images: ImageList, tmp_path: Path) -> None:
    folder = filled_by(QUERY, images, tmp_path / "saliency")
    content = json.loads((folder / "train" / MANIFEST).read_text())
    assert content["made_by"] == [
        {"network": "u2netp", "weights": "0123456789abcdef", "view": "query", "size": 24, "resize": 27}
    ]
    assert content["masks"] == {images.paths[i]: 0 for i in range(6)}
    assert Manifest.read(folder / "train") == Manifest({images.paths[i]: QUERY for i in range(6)})
    assert Manifest.read(folder) is None
    assert not list(folder.rglob("*.partial"))


def test_masks_of_other_weights_are_noticed(images: ImageList, tmp_path: Path) -> None:
    folder = filled_by(QUERY, images, tmp_path / "saliency")
    assert opened(folder, images, weights=QUERY.weights).made_by == QUERY
    with pytest.raises(InputError, match=r"u2netp 0123456789abcdef.*not of ffff"):
        opened(folder, images, weights="ffff")
    other = MadeBy("u2net", "f" * 16, "query", SIZE, RESIZE)
    manifest = Manifest.read(folder / "train")
    assert manifest is not None
    manifest.masks["bee/1.png"] = other
    manifest.write(folder / "train")
    with pytest.raises(InputError, match=r"masks of 2 makings \(u2netp 0123.*; u2net ffff"):
        opened(folder, images)
    fill(images, tmp_path / "plain")
    with pytest.raises(InputError, match="unknown origin"):
        opened(tmp_path / "plain", images, weights=QUERY.weights)


def test_files_that_a_manifest_does_not_list_do_not_count(images: ImageList, tmp_path: Path) -> None:
    folder = filled_by(QUERY, images, tmp_path / "saliency")
    manifest = Manifest.read(folder / "train")
    assert manifest is not None
    del manifest.masks["ant/1.png"]
    manifest.write(folder / "train")
    (folder / "train/bee/2.png").unlink()  # and neither do entries without a file
    with pytest.raises(InputError, match=r"2 of 6 .*ant/1\.png"):
        opened(folder, images)
    assert len(opened(folder, images, "skip").images) == 4


def test_an_image_that_was_unreadable_is_not_missing(images: ImageList, tmp_path: Path) -> None:
    """It will be replaced when it is loaded, as always; should it be readable by now, its lack is told."""
    with MaskWriter(tmp_path / "saliency/train", images, QUERY) as writer:
        for index in writer.to_make[1:]:
            writer.write(index, blob((SIZE, SIZE), index))
        writer.fail(0, "a reason")
        writer.settle()
    assert writer.unreadable == ["a reason"]
    masks = opened(tmp_path / "saliency", images)
    assert masks(1, size_of(images, 1)).any()
    with pytest.raises(InputError, match=r"ant/0\.png: .*unreadable when masks were made"):
        masks(0, size_of(images, 0))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"format": 2, "made_by": [], "masks": {}}',
        '{"format": 1, "made_by": [], "masks": {"a": 0}}',
        '{"format": 1, "made_by": [{"network": "u2net"}], "masks": {}}',
        '{"format": 1, "made_by": [{"network": "u", "weights": "0", "view": "side", "size": 1, "resize": 1}],'
        ' "masks": {}}',
        '{"format": 1, "made_by": [{"network": "u", "weights": "0", "view": "query", "size": 0, "resize": 1}],'
        ' "masks": {}}',
    ],
)
def test_a_manifest_that_is_none(content: str, images: ImageList, tmp_path: Path) -> None:
    fill(images, tmp_path / "masks")
    (tmp_path / "masks" / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json is no manifest"):
        opened(tmp_path / "masks", images)


# Writing


def test_writing_takes_up_where_it_was(images: ImageList, tmp_path: Path) -> None:
    folder = tmp_path / "saliency/train"
    with MaskWriter(folder, images, QUERY) as writer:
        assert writer.to_make == [0, 1, 2, 3, 4, 5]
        for index in (0, 4):
            writer.write(index, blob((SIZE, SIZE), index))
        writer.fail(2, "unreadable")
        writer.settle()
        assert writer.written == [0, 4]
    (folder / "ant/0.png").unlink()
    with MaskWriter(folder, images, QUERY) as writer:
        assert writer.to_make == [0, 1, 2, 3, 5]


def test_an_error_in_between_leaves_a_manifest_of_what_is_there(images: ImageList, tmp_path: Path) -> None:
    folder = tmp_path / "saliency/train"

    def broken_off() -> None:
        with MaskWriter(folder, images, QUERY) as writer:
            writer.write(3, blob((SIZE, SIZE), 3))
            writer.settle()
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert Manifest.read(folder) == Manifest({"bee/0.png": QUERY})


def test_masks_of_another_making_are_replaced_on_request_only(images: ImageList, tmp_path: Path) -> None:
    folder = filled_by(QUERY, images, tmp_path / "saliency")
    before = (folder / "train/ant/0.png").read_bytes()
    with pytest.raises(InputError, match=r"u2netp 0123.*--replace"):
        MaskWriter(folder / "train", images, WHOLE)
    assert (folder / "train/ant/0.png").read_bytes() == before
    filled_by(WHOLE, images, tmp_path / "saliency", replace=True)
    assert (folder / "train/ant/0.png").read_bytes() != before
    assert opened(folder, images).made_by == WHOLE


def test_files_of_other_origin_are_never_overwritten(images: ImageList, tmp_path: Path) -> None:
    fill(images, tmp_path / "mine", but=(0,))
    for replace in (False, True):
        with pytest.raises(InputError, match=r"ant/1\.png is there, and no manifest says"):
            MaskWriter(tmp_path / "mine", images, QUERY, replace=replace)
    assert not (tmp_path / "mine" / MANIFEST).exists()


def test_a_replaced_mask_keeps_its_name(tmp_path: Path) -> None:
    """Two images shared a stem when the masks were made, and one of them is gone since."""
    for name in ("0.png", "0.bmp"):
        save_photograph(tmp_path / "data/train/ant" / name, 30, 30)
    filled_by(QUERY, open_split(tmp_path / "data", "train"), tmp_path / "saliency")
    (tmp_path / "data/train/ant/0.bmp").unlink()
    images = open_split(tmp_path / "data", "train")
    filled_by(WHOLE, images, tmp_path / "saliency", replace=True)
    mask = opened(tmp_path / "saliency", images)(0, (30, 30))
    whole = query_view(Image.fromarray(blob((30, 30), 0)), SIZE, RESIZE)
    assert np.array_equal(mask.numpy(), np.asarray(whole) > 127)


def test_a_folder_that_cannot_be_written_to(images: ImageList, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        MaskWriter(tmp_path / "file" / "train", images, QUERY)
