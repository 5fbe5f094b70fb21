"""COCO and COCO-style JSON: every category of every image is a row, with its boxes or its masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cgc.data.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Box,
    Choice,
    box_from_extent,
    shown,
)
from cgc.data.coco_files import ImageFiles, choose_json
from cgc.data.coco_json import CocoAnnotation, CocoFile, CocoImage, read_coco_json
from cgc.data.image_headers import NoSize, header_sizes
from cgc.data.masks import Polygons
from cgc.optional_packages import optional_package

_MOST_PIXELS = 178_956_970  # Pillow refuses to decode more
_MALFORMED = "malformed annotation"
_ImageKey = int | str


def read_coco(root: Path, choice: Choice) -> Annotations:
    """Images of `annotations/instances_{split}{year}.json`, or of any JSON of that form.

    Classes are the categories in ascending order of their ids. Crowds count as objects of their category.
    Sizes are those that the JSON gives, so no image is opened here; a file of another size fails when it is
    decoded for scoring. Where width or height is missing or impossible the file's header is read.

    What is wrong with single annotations or images is skipped and named.

    Raises:
        InputError: no such JSON or several, JSON that is broken as a whole, or pycocotools missing where
            polygons are wanted as masks.
    """
    path, remark = choose_json(root, choice)
    content = read_coco_json(path, masks=choice.masks)
    found = Annotations(
        f"COCO {path.name}", classes=tuple(content.categories.values()), multi_label=True, notes=[]
    )
    if remark:
        found.notes.append(remark)
    images, listed = _images(found, content, ImageFiles(root, path, choice.split))
    damaged = _add_objects(found, content, images, listed, masks=choice.masks)
    for key, image in images.items():
        if image.objects:
            found.images.append(image)
        elif key not in damaged:
            found.skip("no annotation", str(image.path))
        else:
            found.skip("no usable annotation", str(image.path))
    found.images.sort(key=lambda image: str(image.path))
    return found


def _images(
    found: Annotations, content: CocoFile, files: ImageFiles
) -> tuple[dict[_ImageKey, AnnotatedImage], set[_ImageKey]]:
    """Images that are on the disk and have a size, by id, and the ids of all that the JSON lists."""
    paths: dict[_ImageKey, Path] = {}
    sizes: dict[_ImageKey, tuple[int, int] | None] = {}
    listed: set[_ImageKey] = set()
    taken: set[Path] = set()
    for number, entry in enumerate(content.images):
        where = f"{content.path}: images[{number}]"
        if (
            not isinstance(entry, CocoImage)
            or type(entry.key) not in (int, str)
            or type(entry.name) is not str
        ):
            found.skip("malformed image entry", f"{where}: needs an id and a file_name")
            continue
        path = files.find(entry.name)
        if entry.key in listed or path in taken:
            found.skip("image listed twice", f"{where}: id {shown(entry.key)}, {shown(entry.name)}")
            continue
        listed.add(entry.key)
        if path is None:
            found.skip("image not on disk", f"{where}: {shown(entry.name)}")
            continue
        taken.add(path)
        paths[entry.key], sizes[entry.key] = path, _size(entry)
    unknown = [key for key, size in sizes.items() if size is None]
    for key, header in zip(unknown, header_sizes([paths[key] for key in unknown]), strict=True):
        if isinstance(header, NoSize):
            found.skip(*header)
            del paths[key]
        else:
            sizes[key] = header
    return {key: AnnotatedImage(path, [], sizes[key]) for key, path in paths.items()}, listed


def _size(entry: CocoImage) -> tuple[int, int] | None:
    height, width = entry.height, entry.width
    if type(height) is int and type(width) is int and height > 0 < width and height * width <= _MOST_PIXELS:
        return height, width
    return None


def _add_objects(
    found: Annotations,
    content: CocoFile,
    images: dict[_ImageKey, AnnotatedImage],
    listed: set[_ImageKey],
    *,
    masks: bool,
) -> set[_ImageKey]:
    """Objects to their images; the ids of images that have an annotation which cannot be used."""
    damaged: set[_ImageKey] = set()
    polygons = False
    for number, entry in enumerate(content.annotations):
        if not isinstance(entry, CocoAnnotation):
            found.skip(
                _MALFORMED, f"{content.path}: annotations[{number}]: needs an image_id and a category_id"
            )
            continue
        if type(entry.image) not in (int, str) or entry.image not in listed:
            where = _where(content, number, entry)
            found.skip("annotation of an unknown image", f"{where}: image {shown(entry.image)}")
            continue
        image = images.get(entry.image)
        if image is None:  # skipped already
            continue
        name = content.categories.get(entry.category) if type(entry.category) is int else None
        if name is None:
            where = _where(content, number, entry)
            found.skip("annotation of an unknown category", f"{where}: category {shown(entry.category)}")
            damaged.add(entry.image)
            continue
        try:
            item = _object(name, entry, image.size or (0, 0), masks=masks)
        except ValueError as error:
            found.skip(_MALFORMED, f"{_where(content, number, entry)}: {error}")
            damaged.add(entry.image)
            continue
        polygons = polygons or isinstance(item.part, Polygons)
        image.objects.append(item)
    if polygons:
        optional_package("pycocotools.mask", "pycocotools", "masks made of polygons")
    return damaged


def _where(content: CocoFile, number: int, entry: CocoAnnotation) -> str:
    return f"{content.path}: annotations[{number}] (id {shown(entry.key)})"


def _object(name: str, entry: CocoAnnotation, size: tuple[int, int], *, masks: bool) -> AnnotatedObject:
    """ValueError for an annotation whose box, or in case of masks whose segmentation, cannot be used."""
    if not masks:
        return AnnotatedObject(name, _box(entry.box))
    part = entry.segmentation
    if part is None or isinstance(part, str):
        raise ValueError(part or "has no segmentation")
    part.check(size)
    try:
        return AnnotatedObject(name, _box(entry.box), part=part)
    except ValueError:
        return AnnotatedObject(name, None, part=part)


def _box(written: object) -> Box:
    if type(written) is not list or len(written) != 4:
        raise ValueError(f"bbox is {shown(written)}, not x y width height")
    values = _finite(written)
    if values is None:
        raise ValueError(f"bbox is {shown(written)}, not four numbers")
    if values[2] <= 0 or values[3] <= 0:
        raise ValueError(f"bbox {shown(written)} has no extent")
    return box_from_extent(*values)


def _finite(written: Sequence[object]) -> list[float] | None:
    values = []
    for value in written:
        if type(value) is not int and type(value) is not float:
            return None
        try:
            values.append(float(value))
        except OverflowError:
            return None
    return values if all(map(math.isfinite, values)) else None
