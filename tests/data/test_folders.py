from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from cgc.data.folders import ImageList, PathTable, open_split
from cgc.errors import InputError
from tests.data.images import image_folder, save_photograph


def pairs(images: ImageList) -> list[tuple[str, int]]:
    return [(str(images.path(i)), int(images.labels[i])) for i in range(len(images))]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_agrees_with_torchvision(tmp_path: Path) -> None:
    for name in (
        "b/2.JPG",
        "b/10.jpeg",
        "b/deep/er/1.Png",
        "b/notes.txt",
        "a/x.webp",
        "c/é.tiff",
        "loose.png",
    ):
        touch(tmp_path / "train" / name)
    images = open_split(tmp_path, "train")
    reference = ImageFolder(tmp_path / "train")
    assert pairs(images) == reference.samples
    assert list(images.classes) == reference.classes
    assert images.labels.dtype == np.int64


def test_hidden_names_are_no_classes_and_no_images(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/._1.png", ".ipynb_checkpoints/1.png"):
        touch(tmp_path / "train" / name)
    images = open_split(tmp_path, "train")
    assert images.classes == ("a",)
    assert len(images) == 1


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "dangling.png").symlink_to(tmp_path / "nowhere")
    names = {Path(path).name for path, _ in pairs(open_split(tmp_path, "train"))}
    assert names == {"1.png", "dangling.png"}


def test_scanning_asks_for_no_file_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(20):
        touch(tmp_path / "train" / "a" / f"{k}.png")
    asked = []
    real_stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kw: asked.append(str(path)) or real_stat(path, **kw))
    assert len(open_split(tmp_path, "train")) == 20
    assert not [path for path in asked if path.endswith(".png")]


def test_val_falls_back_to_test(tmp_path: Path) -> None:
    image_folder(tmp_path, splits=("train", "test"))
    assert open_split(tmp_path, "val").root == tmp_path / "test"
    image_folder(tmp_path, splits=("val",))
    assert open_split(tmp_path, "val").root == tmp_path / "val"


def test_named_dataset_chooses_the_folder_and_checks_the_count(tmp_path: Path) -> None:
    for split in ("val", "test"):
        for k in range(200):
            touch(tmp_path / split / f"{k:03d}.Bird" / "1.jpg")
    assert open_split(tmp_path, "val", dataset="cub").root == tmp_path / "test"
    with pytest.raises(InputError, match="200 classes, but the dataset imagenet has 1000"):
        open_split(tmp_path, "val", dataset="imagenet")
    with pytest.raises(InputError, match="unknown dataset 'nabirds'"):
        open_split(tmp_path, "val", dataset="nabirds")
    assert len(open_split(tmp_path, "val").classes) == 200


def test_labels_follow_the_given_order_of_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, 1)
    images = open_split(tmp_path, "val", classes=["bee", "ant"])
    assert [(Path(path).parent.name, label) for path, label in pairs(images)] == [("bee", 0), ("ant", 1)]


def test_other_classes_than_in_training_are_named(tmp_path: Path) -> None:
    image_folder(tmp_path, 1)
    with pytest.raises(InputError, match=r"lacks the class cat, has 2 classes \(ant, bee\) more"):
        open_split(tmp_path, "val", classes=["cat"])
    with pytest.raises(InputError, match=r"lacks 5 classes \(k0, k1, k2, …\)") as raised:
        open_split(tmp_path, "val", classes=["ant", "bee", *(f"k{k}" for k in range(5))])
    assert "\n" not in str(raised.value)


def test_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        open_split(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match=r"file\.txt: not a folder"):
        open_split(touch(tmp_path / "file.txt"), "train")
    with pytest.raises(InputError, match="has no folder 'train'"):
        open_split(tmp_path, "train")
    with pytest.raises(InputError, match="has no folder 'val' or 'test'"):
        open_split(tmp_path, "val")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="no class folders"):
        open_split(tmp_path, "train")
    touch(tmp_path / "train" / "ant" / "1.png")
    touch(tmp_path / "train" / "bee" / "readme.txt")
    with pytest.raises(InputError, match="no images in the class folder bee"):
        open_split(tmp_path, "train")
    with pytest.raises(ValueError, match="split"):
        open_split(tmp_path, "validation")


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    for wnid in ("n02", "n01"):
        for k in range(2):
            save_photograph(tmp_path / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", 64, 64)
        touch(tmp_path / "train" / wnid / f"{wnid}_boxes.txt")
    lines = []
    for k, wnid in enumerate(("n02", "n01", "n02")):
        save_photograph(tmp_path / "val" / "images" / f"val_{k}.JPEG", 64, 64)
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t9\t9\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_tiny_imagenets_own_layout(tiny_imagenet: Path) -> None:
    train = open_split(tiny_imagenet, "train")
    val = open_split(tiny_imagenet, "val", classes=train.classes)
    assert train.classes == val.classes == ("n01", "n02")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert val.labels.tolist() == [1, 0, 1]
    assert all(images.path(i).is_file() for images in (train, val) for i in range(len(images)))


def test_tiny_imagenet_sorted_into_class_folders(tiny_imagenet: Path) -> None:
    for k, wnid in enumerate(("n02", "n01", "n02")):
        (tiny_imagenet / "val" / wnid).mkdir(exist_ok=True)
        (tiny_imagenet / "val/images" / f"val_{k}.JPEG").rename(
            tiny_imagenet / "val" / wnid / f"val_{k}.JPEG"
        )
    (tiny_imagenet / "val" / "images").rmdir()
    assert open_split(tiny_imagenet, "val").labels.tolist() == [0, 1, 1]


def test_tiny_imagenet_annotations_that_are_broken(tiny_imagenet: Path) -> None:
    table = tiny_imagenet / "val" / "val_annotations.txt"
    with pytest.raises(InputError, match="lacks the class n03"):
        open_split(tiny_imagenet, "val", classes=["n01", "n02", "n03"])
    table.write_text("val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\n")
    with pytest.raises(InputError, match="line 2"):
        open_split(tiny_imagenet, "val")
    table.write_text("")
    with pytest.raises(InputError, match="lists no images"):
        open_split(tiny_imagenet, "val")


def test_paths_are_stored_in_few_objects() -> None:
    names = [f"n{k:08d}/n{k:08d}_{k}.JPEG" for k in range(20_000)] + ["\udce9 strange é.png", ""]
    before = len(gc.get_objects())
    table = PathTable(names)
    assert len(gc.get_objects()) - before < 50
    assert [table[k] for k in range(len(table))] == names
    assert table[-2] == names[-2]
    assert table.nbytes < 1.1 * (sum(len(os.fsencode(name)) for name in names) + 8 * len(names) + 8)
    with pytest.raises(IndexError):
        table[len(names)]
