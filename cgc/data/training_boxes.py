"""Boxes of training images, for methods that are told where objects are, of all of them or of a share.

Boxes: (B, 4) int64, x0 y0 x1 y1, 0-based and inclusive, as written (not clipped).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cgc.data.annotations import MalformedAnnotation, within_reach
from cgc.data.boxes import BoxedImage, BoxedImages, clip_box
from cgc.data.folders import ImageList
from cgc.data.image_headers import NoSize, header_sizes
from cgc.data.label_subset import draw_subset, take
from cgc.data.tables import four_numbers, table_rows
from cgc.data.voc import read_voc
from cgc.errors import InputError

Boxes = dict[Path, npt.NDArray[np.int64]]


def read_training_boxes(images: ImageList, folder: Path | None) -> Boxes:
    """Boxes of the images that have any, by the image's path.

    Without ``folder``, tiny-imagenet's tables beside the images (``<class>/<class>_boxes.txt``). With it, VOC XML files
    anywhere below, called like the images, in a folder of their class or not; objects of the image's class count.

    Raises InputError where not one image has a box, or for a malformed file.
    """
    boxes = _tiny_imagenet(images) if folder is None else _voc(images, folder)
    if not boxes:
        where = folder or images.root
        raise InputError(f"{where}: no boxes of training images; --boxes names a folder of VOC XML files")
    return boxes


def share_of_boxes(images: ImageList, boxes: Boxes, percent: Fraction, seed: int = 0) -> Boxes:
    """The boxes of a share of the images that have any, as if the others had not been annotated.

    Drawn as labels are (:func:`cgc.data.label_subset.draw_subset`): of each class's images with boxes, ``percent``,
    and one at least. With one seed the boxes of a smaller share are among those of a larger one.

    Raises ValueError unless 0 < percent <= 100.
    """
    boxed = take(images, [index for index in range(len(images)) if images.path(index) in boxes])
    drawn = draw_subset(boxed, percent, seed).tolist()
    return {path: boxes[path] for path in map(boxed.path, drawn)}


def as_boxed_images(images: ImageList, boxes: Boxes) -> BoxedImages:
    """The images that have boxes as rows, the boxes clipped to the images; unreadable images are left out and named."""
    found = BoxedImages([], images.classes, "boxes of training images")
    rows = [(index, path) for index in range(len(images)) if (path := images.path(index)) in boxes]
    sizes = header_sizes([path for _, path in rows])
    for (index, path), size in zip(rows, sizes, strict=True):
        if isinstance(size, NoSize):
            found.skip(*size)
            continue
        clipped = [box for each in boxes[path].tolist() if (box := clip_box(tuple(each), size)) is not None]
        if clipped:
            label = int(images.labels[index])
            found.images.append(BoxedImage(path, label, np.array(clipped, dtype=np.int64), False, size))
    return found


def _tiny_imagenet(images: ImageList) -> Boxes:
    boxes: Boxes = {}
    for name in images.classes:
        table = images.root / name / f"{name}_boxes.txt"
        if not table.is_file():
            continue
        for number, fields in table_rows(table, 5):
            box = four_numbers(table, number, fields[1:5])
            pixels = [round(within_reach(value)) for value in box]
            boxes[images.root / name / "images" / fields[0]] = np.array([pixels], dtype=np.int64)
    return boxes


def _voc(images: ImageList, folder: Path) -> Boxes:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of annotations")
    files = {}
    for path in _xml_below(folder):
        files[path.parent.name, path.stem] = files["", path.stem] = path
    boxes: Boxes = {}
    for index in range(len(images)):
        path, name = images.path(index), images.classes[int(images.labels[index])]
        xml = files.get((name, path.stem), files.get(("", path.stem)))
        if xml is None:
            continue
        try:
            own = [item.box for item in read_voc(xml) if item.name == name]
        except MalformedAnnotation as error:
            raise InputError(f"{xml}: {error}") from error
        if own:
            boxes[path] = np.array(own, dtype=np.int64)
    return boxes


def _xml_below(folder: Path) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in sorted(names) if name.lower().endswith(".xml"))
