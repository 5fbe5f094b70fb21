"""Every dataset end to end: archives of the published form, and what the project's readers then see."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tqdm import tqdm

from cgc.data.boxes import open_boxes
from cgc.data.folders import open_split
from cgc.data.multi_label import open_multi_label
from cgc.data.prepare.run import Wish, prepare
from cgc.errors import InputError
from tests.data.boxed_fixture import coco_image, coco_json, coco_object
from tests.data.prepare import fixture
from tests.data.prepare.fixture import WNIDS


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Prepare from all that lies in `archives`, and give the folder."""

    def made(name: str, variant: str | None = None) -> Path:
        wish = Wish(name, tmp_path / "out", (tmp_path / "archives",), variant, fetch=False, checksum=False)
        prepare(wish, tqdm, print)
        return tmp_path / "out"

    (tmp_path / "archives").mkdir()
    return made


def rows(root: Path, **options: object) -> list[tuple[str, int, list[list[int]]]]:
    found = open_boxes(root, **options)  # type: ignore[arg-type]
    assert not found.skipped
    return [(image.path.stem, image.label, image.boxes.tolist()) for image in found.images]


def labels(root: Path, split: str) -> list[int]:
    found: list[int] = open_split(root, split).labels.tolist()
    return found


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Of every file its size and when it was written; the note and folders apart."""
    there = (path for path in root.rglob("*") if path.is_file() and path.name != ".prepared.json")
    return {
        path.relative_to(root).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in there
    }


@pytest.mark.parametrize("classes_from", ["devkit", "boxes"])
def test_imagenet(make: Callable[..., Path], tmp_path: Path, classes_from: str) -> None:
    archives = fixture.imagenet(tmp_path / "archives")
    if classes_from == "devkit":
        fixture.devkit(archives)
    out = make("imagenet")
    train = open_split(out, "train")
    assert (train.classes, train.labels.tolist()) == (WNIDS, [0, 0, 1, 1, 2, 2])
    assert train.read(0) == fixture.jpeg(0)
    assert [p.parent.name for p in sorted(out.glob("val/*/*"), key=lambda p: p.name)] == [
        WNIDS[k] for k in (2, 0, 1, 0)
    ]
    # Held-out images of the class folders are scored against the XML as well.
    assert sorted(rows(out))[0] == ("ILSVRC2012_val_00000001", 2, [[0, 0, 11, 9]])
    assert len(rows(out)) == 4


def test_imagenet_in_two_steps(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archives = fixture.imagenet(tmp_path / "archives")
    fixture.devkit(archives)
    later = [archives / name for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")]
    aside = [path.rename(tmp_path / path.name) for path in later]
    (archives / "ILSVRC2012_bbox_val_v3.tgz").unlink()
    out = make("imagenet")
    before = files(out)
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == ["train"]
    for path in aside:
        path.rename(archives / path.name)
    capsys.readouterr()
    make("imagenet")
    assert before.items() <= files(out).items()  # what was there is not written again
    assert labels(out, "val") == [0, 0, 1, 2]
    assert "img_train" not in capsys.readouterr().out


def test_held_out_images_of_unknown_class(make: Callable[..., Path], tmp_path: Path) -> None:
    archives = fixture.imagenet(tmp_path / "archives")
    fixture.devkit(archives)
    held_out = {f"ILSVRC2012_val_{k:08d}.JPEG": fixture.jpeg() for k in (1, 5)}
    fixture.write_tar(archives / "ILSVRC2012_img_val.tar", held_out)
    with pytest.raises(InputError, match=r"no class is known of ILSVRC2012_val_00000005\.JPEG"):
        make("imagenet")


def test_ids_from_annotations_do_not_name_folders_unseen(make: Callable[..., Path], tmp_path: Path) -> None:
    archives = fixture.imagenet(tmp_path / "archives")
    xml = fixture.voc(fixture.voc_object("../../outside", (1, 1, 2, 2))).encode()
    names = {f"val/ILSVRC2012_val_{k:08d}.xml": xml for k in (1, 2, 3, 4)}
    fixture.write_tar(archives / "ILSVRC2012_bbox_val_v3.tgz", names)
    with pytest.raises(InputError, match="is none of ImageNet's 1000 ids"):
        make("imagenet")
    assert not (tmp_path / "outside").exists()


def test_imagenet_for_localisation(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.imagenet(tmp_path / "archives")
    out = make("imagenet-val")
    assert sorted(os.listdir(out / "val")) == [f"ILSVRC2012_val_{k:08d}.JPEG" for k in (1, 2, 3, 4)]
    found = rows(out, dataset="imagenet")
    assert [label for _, label, _ in found] == [2, 0, 1, 0]


def test_cub(make: Callable[..., Path], tmp_path: Path) -> None:
    """All 200 classes, so that the name `cub` fits."""
    fixture.cub(tmp_path / "archives", classes=200)
    out = make("cub")
    assert labels(out, "train") == list(range(200))
    test = open_split(out, "val", dataset="cub")
    assert (test.root.name, len(test), test.classes[199]) == ("test", 200, "200.Bird_200")
    found = rows(out, dataset="cub")
    assert found[199] == ("200.Bird_200_2", 199, [[2, 3, 11, 10]])
    # Class folders and CUB's own share their files.
    image = out / "images" / "001.Bird_1" / "001.Bird_1_1.jpg"
    assert image.samefile(out / "train" / "001.Bird_1" / image.name)
    assert not (out / "parts").exists()


@pytest.mark.parametrize(("variant", "train", "val"), [(None, 6, 3), ("val", 3, 3)])
def test_aircraft(
    make: Callable[..., Path], tmp_path: Path, variant: str | None, train: int, val: int
) -> None:
    fixture.aircraft(tmp_path / "archives")
    out = make("aircraft", variant)
    images = open_split(out, "train")
    assert images.classes == ("707-320", "F-16A-B", "F-A-18")
    assert (len(images), len(open_split(out, "val", classes=images.classes))) == (train, val)
    assert (out / "test").is_dir() == (variant == "val")
    assert rows(out) == [("30", 0, [[0, 1, 11, 9]]), ("31", 1, [[0, 1, 11, 9]]), ("32", 2, [[0, 1, 11, 9]])]


def test_pets(make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixture.pets(tmp_path / "archives")
    out = make("pets")
    assert open_split(out, "train").classes == ("Bengal", "american_bulldog")
    assert labels(out, "val") == [0, 1]
    assert f"evaluate with --classes {out / 'train'}" in capsys.readouterr().out
    found = open_boxes(out, classes=out / "train")
    assert sorted((image.path.stem, image.label) for image in found.images) == [
        ("Bengal_2", 0),
        ("american_bulldog_2", 1),
    ]


@pytest.mark.parametrize(("variant", "counts"), [(None, (4, 2, 0)), ("val", (2, 2, 2))])
def test_flowers(
    make: Callable[..., Path], tmp_path: Path, variant: str | None, counts: tuple[int, int, int]
) -> None:
    fixture.flowers(tmp_path / "archives")
    out = make("flowers", variant)
    assert open_split(out, "train").classes == ("001", "002")
    assert tuple(len(list(out.glob(f"{split}/*/*.jpg"))) for split in ("train", "val", "test")) == counts
    assert (out / "train" / "001" / "image_00001.jpg").read_bytes() == fixture.jpeg(1)


def test_dogs(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.dogs(tmp_path / "archives")
    out = make("dogs")
    assert (labels(out, "train"), labels(out, "val")) == ([0, 1], [0, 1])
    assert rows(out) == [("n02085620_2", 0, [[1, 2, 11, 9]]), ("n02085782_2", 1, [[1, 2, 11, 9]])]


def test_dogs_without_boxes(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.dogs(tmp_path / "archives")
    (tmp_path / "archives" / "annotation.tar").unlink()
    assert len(open_split(make("dogs"), "val")) == 2


def test_cars(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.cars(tmp_path / "archives")
    out = make("cars")
    train = open_split(out, "train")
    assert train.classes == ("AM General Hummer SUV 2000", "Ram C-V Cargo Van 2012")
    assert (train.read(0), open_split(out, "val").read(0)) == (fixture.jpeg(1), fixture.jpeg(6))
    assert rows(out) == [("00001", 0, [[1, 2, 11, 9]]), ("00002", 1, [[1, 2, 11, 9]])]


def test_tiny_imagenet(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.tiny(tmp_path / "archives")
    out = make("tiny-imagenet")
    train = open_split(out, "train")
    assert (train.classes, len(train)) == (WNIDS, 3)
    assert open_split(out, "val", classes=train.classes).labels.tolist() == [0, 1, 2]
    assert rows(out)[1] == ("val_1", 1, [[1, 2, 11, 12]])


@pytest.mark.parametrize(("variant", "name"), [(None, "imagenette2"), ("160px", "imagenette2-160")])
def test_imagenette(make: Callable[..., Path], tmp_path: Path, variant: str | None, name: str) -> None:
    fixture.imagenette(tmp_path / "archives", name)
    out = make("imagenette", variant)
    assert sorted(path.name for path in out.iterdir()) == [".prepared.json", "train", "val"]
    assert open_split(out, "val").classes == WNIDS


def test_coco(make: Callable[..., Path], tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    names = [f"COCO_val2014_{k:012d}.jpg" for k in (1, 2)]
    content = coco_json(
        [coco_image(k, name, (24, 20)) for k, name in enumerate(names)],
        [coco_object(1, 0, 3, [2, 3, 10, 8]), coco_object(2, 1, 7, [0, 0, 5, 5])],
    )
    fixture.write_zip(
        archives / "val2014.zip", {f"val2014/{name}": fixture.jpeg(k) for k, name in enumerate(names)}
    )
    text = fixture.json_bytes(content)
    fixture.write_zip(
        archives / "annotations_trainval2014.zip",
        {"annotations/instances_val2014.json": text, "annotations/captions_val2014.json": b"{}"},
    )
    out = make("coco")
    assert rows(out) == [(names[0][:-4], 0, [[2, 3, 11, 10]]), (names[1][:-4], 1, [[0, 0, 4, 4]])]
    assert len(open_multi_label(out, "val")[0]) == 2


NAMES = (
    "imagenet",
    "imagenet-val",
    "cub",
    "aircraft",
    "pets",
    "flowers",
    "dogs",
    "cars",
    "tiny",
    "imagenette",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_call_does_nothing_and_an_interrupted_one_goes_on(
    make: Callable[..., Path],
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cgc.data.prepare import extraction

    getattr(fixture, name.removesuffix("-val"))(tmp_path / "archives")
    name = "tiny-imagenet" if name == "tiny" else name
    whole = extraction._write
    written: list[Path] = []

    def interrupted(archive: Path, member: object, target: Path, change: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(target)
        whole(archive, member, target, change)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(name)
    out = tmp_path / "out"
    first = {path: path.stat().st_mtime_ns for path in written}
    make(name)
    assert {path: path.stat().st_mtime_ns for path in written} == first
    complete = files(out)
    assert not [path for path in complete if "partial" in path]
    capsys.readouterr()
    make(name)
    assert "is finished, nothing to do" in capsys.readouterr().out
    assert files(out) == complete
    lost = next(path for path in sorted(out.glob("*/*/*.[jJ]*")) + sorted(out.glob("val/*.JPEG")))
    lost.unlink()
    make(name)
    assert "unpacking again" in capsys.readouterr().out
    assert lost.is_file()


def test_a_folder_of_something_else_is_left_alone(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.tiny(tmp_path / "archives")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that this command did not make"):
        make("tiny-imagenet")
    (tmp_path / "out" / "thesis.txt").unlink()
    make("tiny-imagenet")
    fixture.imagenette(tmp_path / "archives")
    with pytest.raises(InputError, match="holds tiny-imagenet; give another folder for imagenette"):
        make("imagenette")
    (tmp_path / "out" / ".prepared.json").write_text("[]")
    with pytest.raises(InputError, match="not a note that this program wrote"):
        make("tiny-imagenet")


def test_another_variant_into_the_same_folder(make: Callable[..., Path], tmp_path: Path) -> None:
    fixture.flowers(tmp_path / "archives")
    make("flowers")
    with pytest.raises(InputError, match="was begun with --variant test"):
        make("flowers", "val")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("labels", [[1, 2, 1]], "does not fit"),
        ("labels", [["a", "b"]], "does not fit"),
        ("other", [[1]], "holds no variable 'labels'"),
        (None, b"text", "not a MATLAB file"),
    ],
)
def test_broken_tables(
    make: Callable[..., Path], tmp_path: Path, variable: str | None, value: object, said: str
) -> None:
    archives = fixture.flowers(tmp_path / "archives")
    data = value if isinstance(value, bytes) else fixture.mat(**{str(variable): value})
    (archives / "imagelabels.mat").write_bytes(data)
    with pytest.raises(InputError, match=said):
        make("flowers")


@pytest.mark.parametrize("name", ["../../../secret.jpg", "{tmp}/secret.jpg", "x/../../../secret.jpg"])
def test_cub_tables_that_lead_outside(make: Callable[..., Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jpg").write_text("mine")
    name = name.format(tmp=tmp_path)
    tables = {
        "images.txt": f"1 {name}",
        "image_class_labels.txt": "1 1",
        "train_test_split.txt": "1 1",
        "bounding_boxes.txt": "1 1 1 5 5",
    }
    content = {f"CUB_200_2011/{table}": line.encode() for table, line in tables.items()}
    fixture.write_tar(tmp_path / "archives" / "CUB_200_2011.tgz", content)
    with pytest.raises(InputError, match="lies outside of"):
        make("cub")
    assert not list((tmp_path / "out").rglob("secret.jpg"))


def test_disks_without_hard_links(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    fixture.pets(tmp_path / "archives")
    out = make("pets")
    copy = out / "train" / "Bengal" / "Bengal_1.jpg"
    assert copy.read_bytes() == (out / "oxford-iiit-pet" / "images" / copy.name).read_bytes()
    assert copy.stat().st_nlink == 1


def test_dogs_lists_that_lead_outside(make: Callable[..., Path], tmp_path: Path) -> None:
    archives = fixture.dogs(tmp_path / "archives")
    lists = {
        f"{split}_list.mat": fixture.mat(file_list=fixture.cells(["../x.jpg"])) for split in ("train", "test")
    }
    fixture.write_tar(archives / "lists.tar", lists)
    with pytest.raises(InputError, match=r"'\.\./x\.jpg' is not an image's name"):
        make("dogs")
