"""Images with boxes, from the layouts people have: ImageNet with VOC XML, tiny-imagenet's own, CUB's own.

Boxes: (B, 4) int64, x0 y0 x1 y1, 0-based and inclusive, clipped to the image. Sizes: (height, width).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cgc.data.box_layouts import Annotations, read_annotations
from cgc.data.class_names import ClassIndex, default_classes, read_classes
from cgc.data.specs import dataset_spec
from cgc.data.voc import AnnotatedObject, Box
from cgc.errors import InputError


@dataclass(frozen=True, eq=False)
class BoxedImage:
    """One image and one class that it shows; `boxes` are those of that class, `all_difficult` says they
    all are.
    """

    path: Path
    label: int
    boxes: npt.NDArray[np.int64]
    all_difficult: bool
    size: tuple[int, int]


@dataclass(eq=False)
class BoxedImages:
    """What a folder held. An image that shows objects of several known classes stands there once per class.

    `skipped` maps a reason to the files it concerns; `clipped` and `dropped` count boxes that reached over
    the border, and boxes with nothing left.
    """

    images: list[BoxedImage]
    classes: tuple[str, ...]
    layout: str
    skipped: dict[str, list[str]] = field(default_factory=dict)
    clipped: int = 0
    dropped: int = 0

    def skip(self, reason: str, what: str) -> None:
        """Leave something out, and remember why."""
        self.skipped.setdefault(reason, []).append(what)


def open_boxes(
    root: str | Path, *, classes: str | Path | None = None, dataset: str | None = None
) -> BoxedImages:
    """The boxed evaluation images below `root`, in whichever layout it has.

    Args:
        classes: training folder or text file that lists the model's classes; None: see `default_classes`.
        dataset: a name of `DATASETS`, whose held-out folder and number of classes are then expected.

    Raises:
        InputError: nothing at `root`, no images or annotations in a known layout, classes unknown, none of
            the annotated objects of a known class, a number of classes other than the dataset's.
    """
    root = Path(root)
    spec = None if dataset is None else dataset_spec(dataset)
    annotations = read_annotations(root, spec.eval_folders if spec else ("val", "test"))
    names = {item.name for _, objects in annotations.images for item in objects}
    known = read_classes(classes) if classes is not None else default_classes(root, names)
    if spec is not None and len(known) != spec.num_classes:
        raise InputError(f"{classes or root}: {len(known)} classes, but {spec.name} has {spec.num_classes}")
    found = BoxedImages([], known, annotations.layout, annotations.skipped)
    _collect(found, annotations, ClassIndex(known))
    if not found.images:
        reasons = ", ".join(f"{len(files)} × {reason}" for reason, files in found.skipped.items())
        example = (
            f"; an annotated class is {min(names)!r}, the list begins with {known[0]!r}" if names else ""
        )
        raise InputError(f"{root}: no image can be scored ({reasons or 'no images'}){example}")
    return found


def _collect(found: BoxedImages, annotations: Annotations, class_index: ClassIndex) -> None:
    """Sizes come from the image files' headers, several at once because disks make us wait."""
    paths = [path for path, _ in annotations.images]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sizes = pool.map(_header_size, paths, chunksize=64)
        for (path, objects), size in zip(annotations.images, sizes, strict=True):
            if isinstance(size, str):
                found.skip("unreadable image", f"{path}: {size}")
                continue
            known = [(label, item) for item in objects if (label := class_index(item.name)) is not None]
            if not known:
                names = ", ".join(sorted({item.name for item in objects})) or "no object"
                found.skip("no object of a known class", f"{path}: {names}")
                continue
            kept = list(_boxed(found, path, size, known))
            if not kept:
                found.skip("no box inside the image", str(path))
            found.images.extend(kept)


def _boxed(
    found: BoxedImages, path: Path, size: tuple[int, int], known: Sequence[tuple[int, AnnotatedObject]]
) -> Iterator[BoxedImage]:
    for label in sorted({label for label, _ in known}):
        boxes, difficult = [], []
        for item in (item for other, item in known if other == label):
            box = clip_box(item.box, size)
            if box is None:
                found.dropped += 1
                continue
            found.clipped += box != item.box
            boxes.append(box)
            difficult.append(item.difficult)
        if boxes:
            yield BoxedImage(path, label, np.array(boxes, dtype=np.int64), all(difficult), size)


def clip_box(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box inside an image of (height, width), or None where nothing is left.

    >>> clip_box((-3, 2, 10, 4), (8, 8)), clip_box((9, 0, 12, 3), (8, 8)), clip_box((5, 5, 4, 6), (8, 8))
    ((0, 2, 7, 4), None, None)
    """
    height, width = size
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width - 1), min(box[3], height - 1)
    return (x0, y0, x1, y1) if x0 <= x1 and y0 <= y1 else None


def _header_size(path: Path) -> tuple[int, int] | str:
    """(height, width) from the file's header, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # Pillow raises many kinds for broken files
        return "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
