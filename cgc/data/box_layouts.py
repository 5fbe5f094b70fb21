"""The folder layouts of boxed datasets, each read into the same list: image path and its objects as
written.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cgc.data.folders import IMAGE_SUFFIXES
from cgc.data.voc import AnnotatedObject, MalformedAnnotation, read_voc
from cgc.errors import InputError

_ANNOTATION_FOLDERS = ("annotation", "annotations", "Annotation", "Annotations")
_TINY_TABLE = "val_annotations.txt"


@dataclass(eq=False)
class Annotations:
    """Images with their objects (boxes not clipped yet), the layout's name, and what was left out, by
    reason.
    """

    layout: str
    images: list[tuple[Path, list[AnnotatedObject]]] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)


def read_annotations(root: Path, eval_folders: Sequence[str] = ("val", "test")) -> Annotations:
    """Recognise the layout below `root` and read it.

    Raises:
        InputError: no such folder, no held-out images, no annotations, or a broken table.
    """
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    if (root / "images.txt").is_file() and (root / "bounding_boxes.txt").is_file():
        return _cub(root)
    folder = next((root / name for name in eval_folders if (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{root}: has no folder {' or '.join(repr(name) for name in eval_folders)}")
    if (folder / _TINY_TABLE).is_file() and (folder / "images").is_dir():
        return _tiny_imagenet(folder)
    return _voc(root, folder)


def _voc(root: Path, folder: Path) -> Annotations:
    """`<folder>/**/<image>`; `<image>.xml` in `<root>/annotation` (flat, or nested as the images) or
    beside it.
    """
    found = Annotations("VOC XML")
    annotation_roots = [root / name for name in _ANNOTATION_FOLDERS if (root / name).is_dir()]
    missing: list[str] = []
    total = 0
    for image in _images_below(folder):
        total += 1
        relative = image.relative_to(folder).with_suffix(".xml")
        candidates = [place / relative for place in annotation_roots]
        candidates += [place / relative.name for place in annotation_roots]
        candidates += [place / folder.name / relative for place in annotation_roots]
        candidates.append(image.with_suffix(".xml"))
        xml = next((path for path in candidates if path.is_file()), None)
        if xml is None:
            missing.append(str(image))
            continue
        try:
            found.images.append((image, read_voc(xml)))
        except MalformedAnnotation as error:
            found.skipped.setdefault("malformed annotation", []).append(f"{xml}: {error}")
    if not total:
        raise InputError(f"{folder}: no images in it")
    if len(missing) == total:
        raise InputError(f"{root}: no annotations: neither {root / 'annotation'}/*.xml nor XML in {folder}")
    if missing:
        found.skipped["no annotation"] = missing
    return found


def _images_below(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield Path(here, name)


def _tiny_imagenet(folder: Path) -> Annotations:
    """One table: file name, class, x0 y0 x1 y1 (0-based, inclusive)."""
    found = Annotations("tiny-imagenet")
    table = folder / _TINY_TABLE
    for number, fields in _rows(table, 6):
        box = _numbers(table, number, fields[2:6])
        x0, y0, x1, y1 = (round(value) for value in box)
        found.images.append((folder / "images" / fields[0], [AnnotatedObject(fields[1], (x0, y0, x1, y1))]))
    found.images.sort(key=lambda entry: entry[0])
    return found


def _cub(root: Path) -> Annotations:
    """CUB-200-2011's tables; the test images. Boxes there are x y width height, fractions of pixels
    allowed.
    """
    found = Annotations("CUB")
    files = {fields[0]: fields[1] for _, fields in _rows(root / "images.txt", 2)}
    in_train = {fields[0]: fields[1] for _, fields in _rows(root / "train_test_split.txt", 2)}
    labels = {fields[0]: fields[1] for _, fields in _rows(root / "image_class_labels.txt", 2)}
    table = root / "bounding_boxes.txt"
    boxes = {fields[0]: _numbers(table, number, fields[1:5]) for number, fields in _rows(table, 5)}
    for key, name in files.items():
        if in_train.get(key) == "1":
            continue
        path = root / "images" / name
        if key not in labels or key not in boxes or key not in in_train:
            found.skipped.setdefault("no annotation", []).append(str(path))
            continue
        x, y, width, height = boxes[key]
        box = (math.floor(x), math.floor(y), math.ceil(x + width) - 1, math.ceil(y + height) - 1)
        found.images.append((path, [AnnotatedObject(_cub_class(name, labels[key]), box)]))
    if not found.images:
        raise InputError(f"{root}: CUB's tables name no test image with a box")
    return found


def _cub_class(name: str, number: str) -> str:
    """`001.Name` from the image's folder; where the folders are called otherwise, from its class number."""
    folder = name.split("/")[0] if "/" in name else "class"
    number = f"{int(number):03d}" if number.isdecimal() else number
    return folder if folder.startswith(f"{number}.") else f"{number}.{folder}"


def _rows(table: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a table separated by tabs or, without any, by spaces; names may hold spaces
    then.
    """
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = (
            [part.strip() for part in line.split("\t")] if "\t" in line else line.split(None, columns - 1)
        )
        if len(fields) < columns:
            raise InputError(f"{table}: line {number}: expected {columns} columns, found {len(fields)}")
        yield number, fields


def _numbers(table: Path, number: int, fields: Sequence[str]) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(value) for value in fields)
        if not all(map(math.isfinite, (a, b, c, d))):
            raise ValueError
    except ValueError:
        raise InputError(f"{table}: line {number}: a box is four numbers, not {' '.join(fields)!r}") from None
    return a, b, c, d
