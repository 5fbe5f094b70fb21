"""tiny-imagenet's and CUB's own layouts, whose boxes stand in text tables."""

from __future__ import annotations

from pathlib import Path

from cgc.data.annotations import AnnotatedImage, AnnotatedObject, Annotations, Choice, box_from_extent
from cgc.data.tables import four_numbers, image_name, table_rows
from cgc.errors import InputError

_TINY_TABLE = "val_annotations.txt"
_CUB_SPLITS = {None: "0", "test": "0", "train": "1"}


def is_tiny_imagenet(folder: Path) -> bool:
    """Whether the held-out folder is tiny-imagenet's `val/`."""
    return (folder / _TINY_TABLE).is_file() and (folder / "images").is_dir()


def read_tiny_imagenet(folder: Path) -> Annotations:
    """One table: file name, class, x0 y0 x1 y1 (0-based, inclusive); a line for every object."""
    table = folder / _TINY_TABLE
    objects: dict[str, list[AnnotatedObject]] = {}
    for number, fields in table_rows(table, 6):
        x0, y0, x1, y1 = (round(value) for value in four_numbers(table, number, fields[2:6]))
        item = AnnotatedObject(fields[1], (x0, y0, x1, y1))
        objects.setdefault(image_name(table, number, fields[0]), []).append(item)
    images = [AnnotatedImage(folder / "images" / name, objects[name]) for name in sorted(objects)]
    return Annotations("tiny-imagenet", images)


def is_cub(root: Path) -> bool:
    return (root / "images.txt").is_file() and (root / "bounding_boxes.txt").is_file()


def read_cub(root: Path, choice: Choice) -> Annotations:
    """CUB-200-2011's tables; the test images, or the training ones. Boxes there are x y width height,
    fractions of pixels allowed.
    """
    choice.need(root, "CUB")
    if choice.split not in _CUB_SPLITS:
        raise InputError(f"{root}: CUB has the splits train and test, not {choice.split!r}")
    found = Annotations("CUB")
    listing = root / "images.txt"
    files = {fields[0]: image_name(listing, line, fields[1]) for line, fields in table_rows(listing, 2)}
    in_train = {fields[0]: fields[1] for _, fields in table_rows(root / "train_test_split.txt", 2)}
    labels = {fields[0]: fields[1] for _, fields in table_rows(root / "image_class_labels.txt", 2)}
    table = root / "bounding_boxes.txt"
    boxes = {fields[0]: four_numbers(table, number, fields[1:5]) for number, fields in table_rows(table, 5)}
    wanted = _CUB_SPLITS[choice.split]
    for key, name in files.items():
        if in_train.get(key, wanted) != wanted:
            continue
        path = root / "images" / name
        if key not in labels or key not in boxes or key not in in_train:
            found.skip("no annotation", str(path))
            continue
        item = AnnotatedObject(_cub_class(name, labels[key]), box_from_extent(*boxes[key]))
        found.images.append(AnnotatedImage(path, [item]))
    if not found.images:
        raise InputError(f"{root}: CUB's tables name no {choice.split or 'test'} image with a box")
    return found


def _cub_class(name: str, number: str) -> str:
    """`001.Name` from the image's folder; where the folders are called otherwise, from its class number."""
    folder = name.split("/")[0] if "/" in name else "class"
    number = f"{int(number):03d}" if number.isdecimal() and len(number) < 9 else number
    return folder if folder.startswith(f"{number}.") else f"{number}.{folder}"
