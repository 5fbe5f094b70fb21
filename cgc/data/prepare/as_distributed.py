"""Sets that are read as they are distributed: tiny-imagenet, Imagenette, COCO."""

from __future__ import annotations

import re

from cgc.data.folders import IMAGE_SUFFIXES
from cgc.data.prepare.job import Job, without_top
from cgc.data.prepare.sources import ArchiveFile

TINY_FILES = (ArchiveFile("tiny-imagenet-200.zip", "images and boxes"),)
IMAGENETTE_SIZES = ("full", "320px", "160px")
COCO_YEARS = ("2014", "2017")


def imagenette_files(size: str) -> tuple[ArchiveFile, ...]:
    """The archive of a size of images."""
    part = "" if size == "full" else f"-{size.removesuffix('px')}"
    return (ArchiveFile(f"imagenette2{part}.tgz", "images"),)


def coco_files(year: str) -> tuple[ArchiveFile, ...]:
    """The archives of a year; evaluation needs no training images."""
    return (
        ArchiveFile(f"train{year}.zip", "training images", optional=True),
        ArchiveFile(f"val{year}.zip", "held-out images"),
        ArchiveFile(f"annotations_trainval{year}.zip", "categories, boxes and masks"),
    )


def convert_tiny(job: Job) -> None:
    """tiny-imagenet's own layout, without the folder around it."""

    def place(name: str) -> str | None:
        inner = without_top(name, "tiny-imagenet-200")
        return inner if inner and (inner.endswith(".txt") or inner.lower().endswith(IMAGE_SUFFIXES)) else None

    job.unpack(TINY_FILES[0].name, place)


def convert_imagenette(job: Job) -> None:
    """`train/<wnid>/*` and `val/<wnid>/*`."""
    (file,) = imagenette_files(job.variant)
    wanted = re.compile(r"(train|val)/n\d{8}/[^/]+")

    def place(name: str) -> str | None:
        inner = without_top(name, file.name.removesuffix(".tgz")) or ""
        return inner if wanted.fullmatch(inner) and inner.lower().endswith(IMAGE_SUFFIXES) else None

    job.unpack(file.name, place)


def convert_coco(job: Job) -> None:
    """`train<year>/`, `val<year>/` and `annotations/`."""
    year = job.variant
    for split in ("train", "val"):
        folder = f"{split}{year}/"
        job.unpack(
            f"{split}{year}.zip",
            lambda name, folder=folder: (  # type: ignore[misc]
                name if name.startswith(folder) and name.lower().endswith(IMAGE_SUFFIXES) else None
            ),
        )
    job.unpack(
        f"annotations_trainval{year}.zip",
        lambda name: name if re.fullmatch(rf"annotations/[^/]+{year}\.json", name) else None,
    )
