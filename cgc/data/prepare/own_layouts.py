"""Sets whose own layout the evaluator reads: it is kept, and class folders for training are made of the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cgc.data.aircraft import read_aircraft
from cgc.data.annotations import Annotations, Choice
from cgc.data.folders import IMAGE_SUFFIXES
from cgc.data.pets import read_pets
from cgc.data.prepare.job import Job, without_top
from cgc.data.prepare.sources import ArchiveFile
from cgc.data.table_layouts import read_cub

CUB_FILES = (ArchiveFile("CUB_200_2011.tgz", "images and tables"),)
AIRCRAFT_FILES = (ArchiveFile("fgvc-aircraft-2013b.tar.gz", "images and lists"),)
PETS_FILES = (
    ArchiveFile("images.tar.gz", "images"),
    ArchiveFile("annotations.tar.gz", "lists and trimaps"),
)
_CUB_TABLES = (
    "images.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "classes.txt",
)
_PETS = "oxford-iiit-pet"


def convert_cub(job: Job) -> None:
    """CUB's tables and `images/`, and of the same files `train/<class>/*` and `test/<class>/*`."""

    def place(name: str) -> str | None:
        inner = without_top(name, "CUB_200_2011")
        wanted = inner in _CUB_TABLES or (inner or "").startswith("images/")
        return inner if wanted else None

    job.unpack(CUB_FILES[0].name, place)
    _link(job, read_cub, {"train": "train", "test": "test"})


def convert_aircraft(job: Job) -> None:
    """`fgvc-aircraft-2013b/data` as it is, and of the same files `train/<variant>/*`, `val/<variant>/*`.

    Variant "test": trained on `trainval`, held out is `test`, the split that has been scored in papers. Variant
    "val": `train`, `val` and `test` apart.
    """

    def place(name: str) -> str | None:
        inner = without_top(name, "fgvc-aircraft-2013b") or ""
        return name if inner.startswith("data/") else None

    job.unpack(AIRCRAFT_FILES[0].name, place)
    apart = {"train": "train", "val": "val", "test": "test"}
    classes = _link(
        job, read_aircraft, apart if job.variant == "val" else {"train": "trainval", "val": "test"}
    )
    job.say_order(classes)


def convert_pets(job: Job) -> None:
    """`oxford-iiit-pet/{images,annotations}`, and of the same files `train/<breed>/*` and `val/<breed>/*`."""

    def image(name: str) -> str | None:
        ours = name.startswith("images/") and name.lower().endswith(IMAGE_SUFFIXES)
        return f"{_PETS}/{name}" if ours else None

    job.unpack("images.tar.gz", image)
    job.unpack(
        "annotations.tar.gz", lambda name: f"{_PETS}/{name}" if name.startswith("annotations/") else None
    )
    job.say_order(_link(job, read_pets, {"train": "trainval", "val": "test"}))


def _link(job: Job, read: Callable[[Path, Choice], Annotations], splits: dict[str, str]) -> tuple[str, ...]:
    """Class folders for each of ``splits`` (folder: what the reader calls it); the reader's classes, if it has any."""
    classes: tuple[str, ...] = ()
    for folder, split in splits.items():
        found = read(job.out, Choice(split=split))
        for reason, files in found.skipped.items():
            job.say(f"{folder}: {len(files)} × {reason}, the first: {files[0]}")
        job.link(found, folder)
        classes = found.classes or ()
    return classes
