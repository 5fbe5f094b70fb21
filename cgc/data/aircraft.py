"""FGVC-Aircraft as distributed: `fgvc-aircraft-2013b/data/{images, images_box.txt, variants.txt, …}`."""

from __future__ import annotations

from pathlib import Path

from cgc.data.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Choice,
    box_from_corners,
    inside_folder,
)
from cgc.data.class_names import read_classes
from cgc.data.tables import four_numbers, table_rows
from cgc.errors import InputError

_SPLITS = ("test", "train", "val", "trainval")


def aircraft_folder(root: Path) -> Path | None:
    """The folder with `images_box.txt`: `root`, its `data` or its `fgvc-aircraft-2013b/data`."""
    for folder in (root, root / "data", root / "fgvc-aircraft-2013b" / "data"):
        if (folder / "images_box.txt").is_file() and (folder / "images").is_dir():
            return folder
    return None


def read_aircraft(root: Path, choice: Choice) -> Annotations:
    """Test images (or another split), each with its variant and its box (1-based, inclusive).

    Classes are the variants in the order of `variants.txt`.

    Raises:
        InputError: layout or split not there, or a broken table.
    """
    choice.need(root, "FGVC-Aircraft")
    folder = aircraft_folder(root)
    if folder is None:
        raise InputError(f"{root}: no FGVC-Aircraft in it (images, images_box.txt, variants.txt)")
    split = choice.split or "test"
    if split not in _SPLITS:
        raise InputError(f"{root}: FGVC-Aircraft has the splits {', '.join(_SPLITS)}, not {split!r}")
    found = Annotations(f"FGVC-Aircraft {split}", classes=read_classes(folder / "variants.txt"))
    table = folder / "images_box.txt"
    boxes = {fields[0]: four_numbers(table, line, fields[1:5]) for line, fields in table_rows(table, 5)}
    listing = folder / f"images_variant_{split}.txt"
    for line, (key, variant, *_) in table_rows(listing, 2):
        if not inside_folder(key):
            raise InputError(f"{listing}: line {line}: {key!r} is no image's name")
        path = folder / "images" / f"{key}.jpg"
        if key not in boxes:
            found.skip("no annotation", str(path))
            continue
        item = AnnotatedObject(variant, box_from_corners(*boxes[key]))
        found.images.append(AnnotatedImage(path, [item]))
    return found
