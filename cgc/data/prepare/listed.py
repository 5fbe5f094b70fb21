"""Sets whose splits stand in MATLAB files: Flowers, Stanford Dogs, Stanford Cars."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import Any
from xml.sax.saxutils import escape

from cgc.data.annotations import inside_folder, shown
from cgc.data.prepare.job import Job, class_folder, items, read_mat, small_files, write_voc
from cgc.data.prepare.sources import ArchiveFile
from cgc.errors import InputError

FLOWERS_FILES = (
    ArchiveFile("102flowers.tgz", "images"),
    ArchiveFile("imagelabels.mat", "classes"),
    ArchiveFile("setid.mat", "splits"),
)
DOGS_FILES = (
    ArchiveFile("images.tar", "images"),
    ArchiveFile("lists.tar", "splits"),
    ArchiveFile("annotation.tar", "boxes", optional=True),
)
CARS_FILES = (
    ArchiveFile("cars_train.tgz", "training images"),
    ArchiveFile("cars_test.tgz", "held-out images"),
    ArchiveFile("car_devkit.tgz", "class names, classes and boxes of the training images"),
    ArchiveFile("cars_test_annos_withlabels.mat", "classes and boxes of the held-out images"),
)
_FLOWER = re.compile(r"image_(\d{5})\.jpg")
_NAME = re.compile(rb"<name>[^<]*</name>")


def convert_flowers(job: Job) -> None:
    """`train/<NNN>/*` and `val/<NNN>/*`, classes 001 to 102 by their numbers.

    Variant "test": trained on the published training and validation images, held out is the published test split.
    Variant "val": `train`, `val` and `test` as published.
    """
    if job.unpacked("102flowers.tgz"):
        return
    ids, labels = job.archives["setid.mat"], job.archives["imagelabels.mat"]
    splits = read_mat(ids, ids.read_bytes(), "trnid", "valid", "tstid")
    (numbers,) = read_mat(labels, labels.read_bytes(), "labels")
    folders = ("train", "val", "test") if job.variant == "val" else ("train", "train", "val")
    places: dict[int, str] = {}
    try:
        classes = [int(number) for number in items(numbers)]
        for folder, split in zip(folders, splits, strict=True):
            for key in map(int, items(split)):
                if key < 1:
                    raise ValueError(key)
                places[key] = f"{folder}/{classes[key - 1]:03d}"
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(f"{ids}: does not fit {labels}: {error}") from error

    def place(name: str) -> str | None:
        base = PurePosixPath(name).name
        match = _FLOWER.fullmatch(base)
        return f"{places[int(match[1])]}/{base}" if match and int(match[1]) in places else None

    job.unpack("102flowers.tgz", place)


def convert_dogs(job: Job) -> None:
    """`train/<class>/*`, `val/<class>/*`; with the boxes `annotation/<split>/<class>/*.xml`, named by their class."""
    if job.unpacked("images.tar") and job.unpacked("annotation.tar"):
        return
    if "lists.tar" not in job.archives:
        raise InputError("dogs: lists.tar is needed again: it says in which split each image is")
    lists = job.archives["lists.tar"]
    files = small_files(lists, ("train_list.mat", "test_list.mat"))
    split_of: dict[str, str] = {}
    for split, file in (("train", "train_list.mat"), ("val", "test_list.mat")):
        (listed,) = read_mat(f"{lists}: {file}", files[file], "file_list")
        for name in items(listed):
            if not isinstance(name, str) or not inside_folder(name) or name.count("/") != 1:
                raise InputError(f"{lists}: {file}: {shown(name)} is not an image's name")
            split_of[name.rpartition(".")[0]] = split

    def place(name: str) -> str | None:
        key = "/".join(PurePosixPath(name).parts[-2:])
        stem = key.removesuffix(".jpg")
        return f"{split_of[stem]}/{key}" if key != stem and stem in split_of else None

    def annotation(name: str) -> str | None:
        key = "/".join(PurePosixPath(name).parts[-2:])  # these files have no suffix
        return f"annotation/{split_of[key]}/{key}.xml" if key in split_of else None

    def rename(path: str, data: bytes) -> bytes:
        """Objects are called by the breed alone; classes are the folders."""
        name = escape(PurePosixPath(path).parent.name).encode()
        return _NAME.sub(b"<name>" + name.replace(b"\\", b"\\\\") + b"</name>", data)

    job.unpack("images.tar", place)
    job.unpack("annotation.tar", annotation, change=rename)
    job.state.note(lists)


def convert_cars(job: Job) -> None:
    """`train/<class>/*`, `val/<class>/*`, and the boxes as `annotation/<split>/<class>/*.xml`."""
    if all(job.unpacked(file.name) for file in CARS_FILES):
        return
    kit, test = job.archives.get("car_devkit.tgz"), job.archives.get("cars_test_annos_withlabels.mat")
    if kit is None or test is None:
        raise InputError(
            "cars: car_devkit.tgz and cars_test_annos_withlabels.mat are needed again: they hold the classes"
        )
    files = small_files(kit, ("cars_meta.mat", "cars_train_annos.mat"))
    (names,) = read_mat(f"{kit}: cars_meta.mat", files["cars_meta.mat"], "class_names")
    classes = [class_folder(str(name)) for name in items(names)]
    for split, archive, where, data in (
        ("train", "cars_train.tgz", f"{kit}: cars_train_annos.mat", files["cars_train_annos.mat"]),
        ("val", "cars_test.tgz", str(test), test.read_bytes()),
    ):
        (entries,) = read_mat(where, data, "annotations")
        cars = dict(_car(where, entry, classes) for entry in items(entries))

        def place(name: str, split: str = split, cars: dict[str, _Car] = cars) -> str | None:
            base = PurePosixPath(name).name
            return f"{split}/{cars[base][0]}/{base}" if base in cars else None

        job.unpack(archive, place)
        with job.progress(total=len(cars), unit="file", desc=f"annotation/{split}") as bar:
            for file, (folder, box) in cars.items():
                write_voc(
                    job.out / "annotation" / split / folder / f"{PurePosixPath(file).stem}.xml", folder, [box]
                )
                bar.update()
    for tables in (kit, test):
        job.state.note(tables)
    job.say_order(classes)


_Car = tuple[str, tuple[int, int, int, int]]  # class folder, box: 1-based, inclusive


def _car(where: str, entry: Any, classes: list[str]) -> tuple[str, _Car]:
    try:
        file, number = str(entry["fname"]), int(entry["class"])
        x0, y0, x1, y1 = (float(entry[f"bbox_{corner}"]) for corner in ("x1", "y1", "x2", "y2"))
        if number < 1 or "/" in file or not inside_folder(file):
            raise ValueError(file)
        box = (math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1))
        return file, (classes[number - 1], box)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{where}: {shown(entry)} is not an image with class and box") from error
