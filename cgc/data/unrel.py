"""UnRel: unusual relations between things; its categories are no ImageNet classes and need a class map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cgc.data.annotations import (
    AnnotatedImage,
    AnnotatedObject,
    Annotations,
    Choice,
    MalformedAnnotation,
    box_from_corners,
    inside_folder,
    shown,
)
from cgc.data.coco import read_coco
from cgc.data.coco_files import json_files
from cgc.data.mat_files import load_mat
from cgc.data.xml_folders import read_xml_folder
from cgc.errors import InputError

_MAT = "annotations.mat"


def mat_file(root: Path) -> Path | None:
    """`annotations.mat` in the root or its `annotations`."""
    return next((p for p in (root / _MAT, root / "annotations" / _MAT) if p.is_file()), None)


def read_unrel(root: Path, choice: Choice) -> Annotations:
    """`images/` with `annotations.mat`, with COCO-style JSON, or with VOC XML.

    Raises:
        InputError: none of the three, or one that is broken as a whole.
    """
    mat = mat_file(root)
    if mat is not None:
        choice.need(root, "UnRel's annotations.mat")
        return _read_mat(root, mat)
    if json_files(root, beside=True):
        found = read_coco(root, choice)
    else:
        choice.need(root, "UnRel with VOC XML")
        folder = next((root / n for n in ("images", *choice.folders) if (root / n).is_dir()), None)
        if folder is None:
            raise InputError(
                f"{root}: no UnRel in it (images with {_MAT}, with annotations/*.json or with XML)"
            )
        found = read_xml_folder(root, folder)
    found.layout = f"UnRel, {found.layout}"
    found.classes, found.multi_label = None, False  # the model's classes are ImageNet's, one for an image
    return found


def _read_mat(root: Path, mat: Path) -> Annotations:
    """A cell array `annotations` of structs: `filename`, and `objects`, each with `category` and `box`
    (xmin ymin xmax ymax, taken to be 1-based and inclusive as MATLAB counts).

    Tried on files written in that form by scipy, not on the published file.
    """
    found = Annotations("UnRel, annotations.mat")
    objects: dict[Path, list[AnnotatedObject]] = {}
    for number, entry in enumerate(_loaded(mat), start=1):
        where = f"{mat}: annotations{{{number}}}"
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not inside_folder(name):
            found.skip("malformed annotation", f"{where}: filename is {shown(name)}")
            continue
        path = root / "images" / name
        try:
            items = [_object(item, index) for index, item in enumerate(_items(entry.get("objects")), start=1)]
        except MalformedAnnotation as error:
            found.skip("malformed annotation", f"{where} ({name}): {error}")
            continue
        objects.setdefault(path, []).extend(items)
    found.images = [AnnotatedImage(path, items) for path, items in sorted(objects.items())]
    return found


def _loaded(mat: Path) -> Iterator[Any]:
    try:
        content = load_mat(mat.read_bytes(), ["annotations"])
    except InputError:  # scipy is missing
        raise
    except NotImplementedError as error:
        raise InputError(f"{mat}: MATLAB 7.3 files are not read; save it with -v7") from error
    except Exception as error:  # a broken file takes the reader to nearly any exception
        raise InputError(
            f"{mat}: not a MATLAB file that can be read: {' '.join(str(error).split())[:80]}"
        ) from error
    if "annotations" not in content:
        raise InputError(f"{mat}: holds no variable 'annotations'")
    return _items(content["annotations"])


def _items(value: Any) -> Iterator[Any]:
    """Elements of a cell or struct array: of several, of one (which scipy does not wrap), or of none."""
    value = _plain(value)
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        yield value


def _plain(value: Any) -> Any:
    """An array of MATLAB's, which has rows and columns always, as a flat list; anything else as it is."""
    return value.ravel().tolist() if hasattr(value, "ravel") else value


def _object(item: Any, number: int) -> AnnotatedObject:
    category = item.get("category") if isinstance(item, dict) else None
    if not isinstance(category, str) or not category.strip().isprintable() or not category.strip():
        raise MalformedAnnotation(f"object {number}: category is {shown(category)}")
    try:
        corners = [float(value) for value in _items(item.get("box"))]
    except (TypeError, ValueError):
        corners = []
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        raise MalformedAnnotation(f"object {number} ({category}): box is {shown(_plain(item.get('box')))}")
    return AnnotatedObject(category.strip(), box_from_corners(*corners))
