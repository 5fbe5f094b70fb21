"""The check of a folder: what is wrong is found, what is right is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tqdm import tqdm

from cgc.data.class_names import imagenet_wnids
from cgc.data.prepare.check import check_folder
from cgc.data.prepare.findings import Findings
from cgc.data.prepare.run import Wish, prepare
from cgc.data.shards.index import INDEX
from cgc.errors import InputError
from tests.data.boxed_fixture import coco_folder, coco_image, coco_json, coco_object, scored_folder
from tests.data.images import image_folder, save_photograph
from tests.data.prepare import fixture
from tests.data.test_region_layouts import voc_year


def check(root: Path, *, name: str | None = None, fast: bool = False, workers: int = 0) -> Findings:
    found = check_folder(root, name=name, fast=fast, workers=workers, progress=tqdm)
    assert json.loads(json.dumps(found.as_json()))["problems"] == found.problems
    return found


def made(tmp_path: Path, name: str, variant: str | None = None) -> Path:
    getattr(fixture, name.partition("-")[0])(tmp_path / "archives")
    wish = Wish(name, tmp_path / "out", (tmp_path / "archives",), variant, False, False)
    prepare(wish, tqdm, print)
    return tmp_path / "out"


def test_class_folders_without_fault(tmp_path: Path) -> None:
    found = check(image_folder(tmp_path))
    assert (found.problems, found.notes, found.regions, found.opened) == ({}, [], None, 12)
    assert [(s.folder, s.images, s.per_class) for s in found.splits] == [
        ("train", 6, {"ant": 3, "bee": 3}),
        ("val", 6, {"ant": 3, "bee": 3}),
    ]
    assert "train/    6 images in 2 classes, 3 each" in found.text()
    assert found.text().endswith("\n0 problems")


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files(tmp_path: Path, workers: int) -> None:
    root = image_folder(tmp_path)
    half = save_photograph(root / "train" / "ant" / "half.jpg", 200, 200)
    half.write_bytes(half.read_bytes()[:2000])
    (root / "val" / "bee" / "text.png").write_text("no image")
    (root / "val" / "bee" / "empty.png").touch()
    (root / "val" / "bee" / "gone.png").symlink_to(tmp_path / "nowhere")
    broken = sorted(line.partition(": ")[0] for line in check(root, workers=workers).problems["broken image"])
    bee = root / "val" / "bee"
    assert broken == [str(half), *(str(bee / name) for name in ("empty.png", "gone.png", "text.png"))]
    fast = check(root, fast=True, workers=workers)
    assert len(fast.problems["broken image"]) == 3  # the header of half a file is whole
    assert "16 images, headers read" in fast.text()


def test_classes_that_differ(tmp_path: Path) -> None:
    root = image_folder(tmp_path)
    save_photograph(root / "train" / "cow" / "1.png")
    save_photograph(root / "val" / "dog" / "1.png")
    (root / "val" / "elk").mkdir()
    save_photograph(root / "train" / "loose.png")
    found = check(root)
    assert found.problems == {
        "class without images": [str(root / "val" / "elk")],
        "class in train only": ["cow"],
        "class in val only": ["dog", "elk"],
    }
    assert found.notes == [f"{root / 'train'}: 1 images lie in no class folder and are not read"]


def test_missing_splits(tmp_path: Path) -> None:
    found = check(image_folder(tmp_path / "a", splits=("train",)))
    assert found.problems == {
        "split missing": [f"{tmp_path / 'a'}: no val/ or test/: nothing to validate or score on"]
    }
    found = check(image_folder(tmp_path / "b", splits=("test",)))
    assert (found.problems, found.notes) == ({}, ["no train/CLASS/*: enough to evaluate, not to train"])
    found = check(image_folder(tmp_path / "c", splits=("train", "val", "test")))
    assert "test/     6 images; not used as held-out images" in found.text()
    (tmp_path / "d" / "train").mkdir(parents=True)
    assert "split without images" in check(tmp_path / "d").problems


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dataset in it"):
        check(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        check(tmp_path / "none")
    with pytest.raises(InputError, match="unknown dataset 'x'"):
        check(tmp_path, name="x")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / INDEX).touch()
    with pytest.raises(InputError, match="make-shards --verify"):
        check(tmp_path)


def test_imagenet_ids(tmp_path: Path) -> None:
    out = made(tmp_path, "imagenet")
    found = check(out)
    assert found.dataset == "imagenet"
    assert found.problems == {
        "number of classes": [f"{out / s}: 3, imagenet has 1000" for s in ("train", "val")]
    }
    assert "the classes are 3 of ImageNet's 1000 ids, the first ones in its order" in found.notes
    assert found.regions is not None
    assert (found.regions["layout"], found.regions["images"]) == ("VOC XML", 4)
    (out / "train" / fixture.WNIDS[0]).rename(out / "train" / "n09999999")
    (out / "val" / fixture.WNIDS[0]).rename(out / "val" / "n09999999")
    assert not [note for note in check(out).notes if "ImageNet" in note]
    for split in ("train", "val"):
        (out / split / "n09999999").rename(out / split / imagenet_wnids()[7])
    number = "numbered otherwise: class 0 here, n01440764 is ImageNet's 0"
    assert number not in check(out).notes


def test_numbers_that_are_not_imagenets(tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    for split in ("train", "val"):
        for name in (wnids[0], wnids[500]):
            save_photograph(tmp_path / split / name / "1.png")
    (note,) = check(tmp_path).notes
    assert note.endswith(f"numbered otherwise: class 1 here, {wnids[500]}, is ImageNet's 500")


def test_annotations_and_images_that_lack_each_other(tmp_path: Path) -> None:
    out = made(tmp_path, "imagenet-val")
    assert check(out).problems == {}
    (out / "val" / "ILSVRC2012_val_00000001.JPEG").rename(out / "val" / "other.JPEG")
    (out / "val" / "ILSVRC2012_val_00000002.JPEG").write_bytes(b"")
    found = check(out)
    assert found.problems["no annotation"] == [str(out / "val" / "other.JPEG")]
    assert found.problems["annotation without image"] == [
        str(out / "annotation" / "ILSVRC2012_val_00000001.xml")
    ]
    assert found.problems["broken image"] == [f"{out / 'val' / 'ILSVRC2012_val_00000002.JPEG'}: empty file"]
    (out / "val" / "other.JPEG").unlink()
    assert "other images than were prepared" in check(out).problems


def test_a_flat_folder_of_a_user(tmp_path: Path) -> None:
    root = scored_folder(tmp_path)
    assert "regions cannot be read" in check(root).problems  # its classes are known to nobody
    listed = check_folder(root, classes=root / "names.txt", workers=0, progress=tqdm)
    assert listed.regions is not None
    assert listed.regions["rows"] == 5
    for name in ("cat", "wild dog"):
        save_photograph(root / "train" / name / "1.png")
    found = check(root)
    assert found.problems == {
        "no annotation": [str(root / "val" / "h.JPEG")],
        "malformed annotation": found.problems["malformed annotation"],
        "broken image": [f"{root / 'val' / 'g.JPEG'}: not an image"],
    }
    assert found.regions is not None
    assert found.regions["rows"] == 5


def test_tiny_imagenet(tmp_path: Path) -> None:
    out = made(tmp_path, "tiny-imagenet")
    problems = check(out).problems
    assert list(problems) == ["number of classes"]
    (out / "val" / "images" / "val_9.JPEG").write_bytes(fixture.jpeg())
    (out / "val" / "images" / "val_1.JPEG").unlink()
    problems = check(out).problems
    assert problems["image without annotation"] == [str(out / "val" / "images" / "val_9.JPEG")]
    assert problems["image not on disk"] == [str(out / "val" / "images" / "val_1.JPEG")]
    (out / "val" / "val_annotations.txt").write_text("val_0.JPEG\n")
    problems = check(out).problems
    assert {"split cannot be read", "regions cannot be read"} <= set(problems)


def test_cub(tmp_path: Path) -> None:
    out = made(tmp_path, "cub")
    (out / ".prepared.json").unlink()  # else three classes would be too few
    found = check(out)
    assert (found.problems, found.opened) == ({}, 6)  # each file once, though it has two names
    (out / "images" / "001.Bird_1" / "more.jpg").write_bytes(fixture.jpeg())
    lost = out / "images" / "002.Bird_2" / "002.Bird_2_2.jpg"
    lost.unlink()
    problems = check(out).problems
    assert problems["image without annotation"] == [str(out / "images" / "001.Bird_1" / "more.jpg")]
    assert problems["image not on disk"] == [str(lost)]


def test_pets_say_how_to_evaluate(tmp_path: Path) -> None:
    out = made(tmp_path, "pets")
    found = check(out)
    problem = f"{out}: 2 classes, but pets has 37"
    assert found.problems == {"regions cannot be read": [problem]}
    (out / ".prepared.json").unlink()
    found = check(out)
    assert found.problems == {}
    assert (
        f"the annotations' class order is not that of the folders: evaluate with --classes {out / 'train'}"
        in found.notes
    )


@pytest.mark.parametrize("name", ["dogs", "cars", "imagenette", "flowers", "aircraft"])
def test_prepared_folders_have_only_too_few_classes(tmp_path: Path, name: str) -> None:
    problems = check(made(tmp_path, name)).problems
    assert set(problems) <= {"number of classes", "regions cannot be read"}
    assert all(" 2, " in line or " 3, " in line for line in problems.get("number of classes", []))


def test_an_unfinished_preparation(tmp_path: Path) -> None:
    out = made(tmp_path, "imagenette")
    assert check(out).problems == {}
    note = json.loads((out / ".prepared.json").read_text())
    (out / ".prepared.json").write_text(json.dumps(note | {"finished": False}))
    assert list(check(out).problems) == ["unfinished"]


def test_coco(tmp_path: Path) -> None:
    content = coco_json(
        [coco_image(1, "1.jpg"), coco_image(2, "2.jpg")],
        [coco_object(1, 1, 3, [2, 3, 10, 8]), coco_object(2, 2, 7, [0, 0, 5, 5])],
    )
    root = coco_folder(tmp_path, content)
    found = check(root)
    assert (found.problems, found.opened) == ({}, 2)
    assert "no annotation file for train" in found.notes
    training = root / "annotations" / "instances_train2014.json"
    training.write_text((root / "annotations" / "instances_val2014.json").read_text().replace(".jpg", ".JPG"))
    found = check(root)
    assert not found.problems
    assert any("annotations of training images without these images" in note for note in found.notes)
    training.unlink()
    (root / "val2014" / "1.jpg").write_bytes(b"x")
    (root / "val2014" / "2.jpg").unlink()
    problems = check(root).problems
    assert [line.partition(": ")[0] for line in problems["broken image"]] == [str(root / "val2014" / "1.jpg")]
    assert "2.jpg" in " ".join(problems["image not on disk"])


def test_voc(tmp_path: Path) -> None:
    voc_year(tmp_path / "VOC2007", "test")
    found = check(tmp_path)
    assert set(found.problems) == {"no annotation", "malformed annotation", "image not on disk"}
    assert found.regions is not None
    assert found.regions["layout"] == "VOC2007 test"
