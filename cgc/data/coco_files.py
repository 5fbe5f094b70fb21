"""Which JSON of a COCO-style folder is meant, and where the images that it names lie."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cgc.data.annotations import Choice, inside_folder
from cgc.errors import InputError

_ANNOTATIONS = "annotations"
_INSTANCES = "instances_"
# Folders that hold another split's images, such as train2014 beside val2014.
_SPLIT_FOLDER = re.compile(r"(train|val|test|unlabeled)\d{4}")


def json_files(root: Path, *, beside: bool = False) -> list[Path]:
    """`<root>/annotations/instances_*.json`; without any, all JSON there; with `beside`, else those in root."""
    for folder in (root / _ANNOTATIONS, *((root,) if beside else ())):
        found = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
        if found:
            return [path for path in found if path.name.startswith(_INSTANCES)] or found
    return []


def is_coco(root: Path) -> bool:
    """Whether there are JSON annotations and no XML beside them."""
    return bool(json_files(root)) and next((root / _ANNOTATIONS).glob("*.xml"), None) is None


def choose_json(root: Path, choice: Choice) -> tuple[Path, str | None]:
    """The annotation file of a split and year (default: val, of the year that is there), and perhaps a remark.

    A single file is taken whatever its name, unless a split or year is asked for.

    Raises:
        InputError: none fits, or several do.
    """
    there = json_files(root, beside=True)
    if not there:
        raise InputError(f"{root}: no JSON in {root / _ANNOTATIONS}")
    fitting = [path for path in there if _fits(path, choice.split or "val", choice.year)]
    if not fitting and choice.split is None and choice.year is None and len(there) == 1:
        return there[0], f"{there[0].name} is the only annotation file: its images are scored"
    if len(fitting) == 1:
        return fitting[0], None
    names = ", ".join(path.name for path in there)
    wanted = f"{choice.split or 'val'}{choice.year or ''}"
    if not fitting:
        raise InputError(f"{root}: no annotation file for {wanted}; there are: {names}")
    raise InputError(f"{root}: several annotation files for {wanted}; choose the split and the year: {names}")


def _fits(path: Path, split: str, year: int | None) -> bool:
    """Whether a file's name speaks of a split (`val`, not `minival`) and a year."""
    stem = path.stem.lower()
    of_split = re.search(rf"(?<![a-z]){re.escape(split.lower())}(?![a-z])", stem)
    return of_split is not None and (year is None or re.search(rf"(?<!\d){year}(?!\d)", stem) is not None)


class ImageFiles:
    """Finds images by the names that a JSON gives them; every folder is listed once, no file is touched."""

    def __init__(self, root: Path, annotations: Path, split: str | None) -> None:
        own = annotations.stem.removeprefix(_INSTANCES)
        likely = [own, f"images/{own}"] + ([split, f"images/{split}"] if split else [])
        likely += ["images", "JPEGImages", "."]
        others = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
        others = [name for name in others if not _SPLIT_FOLDER.fullmatch(name) and name != _ANNOTATIONS]
        places = [root / place for place in dict.fromkeys([*likely, *others])]
        self._places = [place for place in places if place.is_dir()]
        self._listed: dict[tuple[Path, str], frozenset[str]] = {}

    def find(self, name: str) -> Path | None:
        """The file of this name (perhaps with folders in it) in the likeliest folder that has it."""
        if not inside_folder(name):
            return None
        below, _, base = name.rpartition("/")
        for place in self._places:
            if base in self._names(place, below):
                return place / name
        return None

    def _names(self, place: Path, below: str) -> frozenset[str]:
        key = (place, below)
        if key not in self._listed:
            try:
                names = frozenset(os.listdir(place / below if below else place))
            except OSError:  # not there, not a folder, or no name for one
                names = frozenset()
            self._listed[key] = names
        return self._listed[key]
