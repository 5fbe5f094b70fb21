"""COCO's JSON read in one pass, and nothing kept of it that is not needed."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cgc.data.annotations import shown
from cgc.data.class_names import first_twice
from cgc.data.masks import Polygons, RunLengths, parse_segmentation
from cgc.errors import InputError


class CocoImage(NamedTuple):
    """An entry of `images`; values as written."""

    key: Any
    name: Any
    height: Any
    width: Any


class CocoAnnotation(NamedTuple):
    """An entry of `annotations`; values as written but the segmentation: parsed, or what is wrong with it."""

    key: Any
    image: Any
    category: Any
    box: Any
    segmentation: Polygons | RunLengths | str | None


class CocoFile(NamedTuple):
    """`images` and `annotations` may hold anything beside the two kinds above; `categories` by ascending id."""

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: dict[int, str]


def read_coco_json(path: Path, *, masks: bool) -> CocoFile:
    """Read the file; segmentations only if `masks`.

    Raises:
        InputError: not a readable file, not JSON (with line and column), nested absurdly, or without usable
            lists of images, annotations and categories.
    """
    content = _load(path, _reduce(masks))
    if not isinstance(content, dict):
        raise InputError(f"{path}: not COCO's JSON: holds {type(content).__name__}, not an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path}: not COCO's JSON: has no list {key!r}")
    return CocoFile(path, content["images"], content["annotations"], _categories(path, content["categories"]))


def _load(path: Path, reduce: Callable[[dict[str, Any]], Any]) -> Any:
    # Nothing that the parser makes is a cycle, and looking for one again and again doubles its time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return json.loads(path.read_bytes(), object_hook=reduce)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: no JSON: {error.msg}"
        ) from error
    except RecursionError:
        raise InputError(f"{path}: no COCO annotations: nested absurdly") from None
    except ValueError as error:  # not text, or a number of thousands of digits
        raise InputError(f"{path}: no JSON: {' '.join(str(error).split())[:80]}") from error
    finally:
        if collecting:
            gc.enable()


def _reduce(masks: bool) -> Callable[[dict[str, Any]], Any]:
    """Makes small tuples of annotations and images while the file is parsed, which would not fit otherwise."""

    def reduce(entry: dict[str, Any]) -> Any:
        get = entry.get
        if "image_id" in entry and "category_id" in entry:
            shape: Polygons | RunLengths | str | None = None
            if masks:
                try:
                    shape = parse_segmentation(get("segmentation"))
                except ValueError as error:
                    shape = str(error)
            return CocoAnnotation(get("id"), entry["image_id"], entry["category_id"], get("bbox"), shape)
        if "file_name" in entry:
            return CocoImage(get("id"), entry["file_name"], get("height"), get("width"))
        return entry

    return reduce


def _categories(path: Path, entries: list[Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, entry in enumerate(entries):
        key, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        where = f"{path}: categories[{number}]"
        if (
            type(key) is not int
            or not isinstance(name, str)
            or not name.strip().isprintable()
            or not name.strip()
        ):
            raise InputError(f"{where}: needs a whole number as id and a printable name, not {shown(entry)}")
        if key in found:
            raise InputError(f"{where}: the id {shown(key)} stands there more than once")
        found[key] = name.strip()
    if not found:
        raise InputError(f"{path}: has no categories")
    if (twice := first_twice(found.values())) is not None:
        raise InputError(f"{path}: the category {twice!r} stands there more than once")
    return dict(sorted(found.items()))
