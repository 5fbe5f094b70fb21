"""PASCAL VOC as distributed: `VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main/SPLIT.txt}`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cgc.data.annotations import AnnotatedImage, Annotations, Choice, MalformedAnnotation, inside_folder
from cgc.data.folders import IMAGE_SUFFIXES
from cgc.data.tables import table_rows
from cgc.data.voc import read_voc
from cgc.errors import InputError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_PARENTS = ("", "VOCdevkit", "TrainVal/VOCdevkit")


def year_folders(root: Path) -> list[Path]:
    """The year's folders of a devkit: `root` itself, or those in it or in its `VOCdevkit`."""
    if _is_year(root):
        return [root]
    for parent in _PARENTS:
        place = root / parent
        folders = sorted(place.glob("VOC[0-9]*")) if place.is_dir() else []
        if found := [folder for folder in folders if _is_year(folder)]:
            return found
    return []


def default_split(year: int | None) -> str:
    """What is scored: `test` of 2007, `val` of the later years, whose test images have no annotations."""
    return "test" if year == 2007 else "val"


def split_list(folder: Path, split: str) -> Path:
    """The list of a split's images."""
    return folder / "ImageSets" / "Main" / f"{split}.txt"


def year_of(folder: Path) -> int | None:
    """2007 of `VOC2007`; None for a folder with another name."""
    match = re.fullmatch(r"VOC(\d{4})", folder.resolve().name)
    return int(match[1]) if match else None


def read_voc_devkit(root: Path, choice: Choice) -> Annotations:
    """Images of a split with their objects; 20 classes in alphabetical order, several in one image.

    Raises:
        InputError: the year or the split is not there, or several years are and none is chosen.
    """
    choice.need(root, "VOC", year=True, masks=False)
    folder = _chosen_year(root, choice.year)
    year = year_of(folder)
    # A folder of another name has 2007's held-out split if it has any `test`.
    unknown = "test" if year is None and split_list(folder, "test").is_file() else None
    split = choice.split or unknown or default_split(year)
    listing = split_list(folder, split)
    if not inside_folder(split) or not listing.is_file():
        there = sorted(path.stem for path in listing.parent.glob("*.txt") if "_" not in path.stem)
        raise InputError(f"{listing}: no such file (splits that are there: {', '.join(there) or 'none'})")
    found = Annotations(f"{folder.resolve().name} {split}", classes=VOC_CLASSES, multi_label=True)
    files = _files(folder / "JPEGImages")
    seen: set[str] = set()
    for number, fields in table_rows(listing, 1):
        key = fields[0].partition(" ")[0]
        if not inside_folder(key):
            raise InputError(f"{listing}: line {number}: {key!r} is no image's name")
        path = folder / "JPEGImages" / files.get(key, f"{key}.jpg")
        xml = folder / "Annotations" / f"{key}.xml"
        if key not in files:
            found.skip("image not on disk", str(path))
        elif not xml.is_file():
            found.skip("no annotation", str(path))
        elif key in seen:
            found.skip("image listed twice", str(path))
        else:
            seen.add(key)
            try:
                found.images.append(AnnotatedImage(path, read_voc(xml)))
            except MalformedAnnotation as error:
                found.skip("malformed annotation", f"{xml}: {error}")
    return found


def _is_year(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in ("JPEGImages", "Annotations", "ImageSets"))


def _chosen_year(root: Path, year: int | None) -> Path:
    folders = year_folders(root)
    if not folders:
        raise InputError(f"{root}: no VOC year folder (JPEGImages, Annotations and ImageSets) in it")
    if year is not None:
        # A single folder of another name is what the user pointed at.
        fitting = [folder for folder in folders if year_of(folder) in (year, None)]
        if not fitting:
            raise InputError(f"{root}: no VOC{year}, only {', '.join(folder.name for folder in folders)}")
        return fitting[0]
    if len(folders) > 1:
        raise InputError(f"{root}: holds {', '.join(folder.name for folder in folders)}; choose the year")
    return folders[0]


def _files(folder: Path) -> dict[str, str]:
    """Image files by their name without suffix."""
    try:
        names = [name for name in sorted(os.listdir(folder)) if name.lower().endswith(IMAGE_SUFFIXES)]
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    return {os.path.splitext(name)[0]: name for name in names if not name.startswith(".")}
