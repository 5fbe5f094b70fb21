"""A folder of images with VOC XML: in a folder of annotations, flat or nested, or beside the images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cgc.data.annotations import AnnotatedImage, Annotations, MalformedAnnotation
from cgc.data.folders import IMAGE_SUFFIXES
from cgc.data.voc import read_voc
from cgc.errors import InputError

ANNOTATION_FOLDERS = ("annotation", "annotations", "Annotation", "Annotations")


class _Found(NamedTuple):
    """An image: its path, that path below its folder without the suffix, and XML beside it."""

    path: Path
    stem: str
    beside: Path | None


class _XmlFiles:
    """Where the XML files below some folders are."""

    def __init__(self, places: Iterable[Path]) -> None:
        self._by_path: dict[str, Path] = {}
        self._by_name: dict[str, list[str]] = {}
        for place in places:
            for path, stem in _files_below(place, (".xml",)):
                if stem not in self._by_path:
                    self._by_path[stem] = path
                    self._by_name.setdefault(stem.rpartition("/")[2], []).append(stem)

    def find(self, folder: str, stem: str) -> list[Path]:
        """XML of the image ``<folder>/<stem>.*``: none, one, or those that fit equally well.

        In a folder that is nested otherwise than the images an image that lies in no subfolder is found by its
        name alone; one that does needs its subfolder's name too: `a/1.xml` is not of `b/1.jpg`.
        """
        name = stem.rpartition("/")[2]
        for key in (stem, name, f"{folder}/{stem}", f"{folder}/{name}"):
            if key in self._by_path:
                return [self._by_path[key]]
        others = self._by_name.get(name, [])
        return [self._by_path[key] for key in others if "/" not in stem or key.endswith(f"/{stem}")]


def read_xml_folder(root: Path, folder: Path) -> Annotations:
    """`<folder>/**/<image>`; `<image>.xml` in `<root>/annotation` (flat, nested as the images or otherwise)
    or beside it.

    Raises:
        InputError: no image, or not one XML file.
    """
    found = Annotations("VOC XML")
    xml_files = _XmlFiles(root / name for name in ANNOTATION_FOLDERS if (root / name).is_dir())
    missing: list[str] = []
    total = 0
    for image in _images_below(folder):
        total += 1
        candidates = xml_files.find(folder.name, image.stem) or ([image.beside] if image.beside else [])
        if not candidates:
            missing.append(str(image.path))
            continue
        if len(candidates) > 1:
            found.skip("several annotations", f"{image.path}: {candidates[0]}, {candidates[1]}")
            continue
        try:
            found.images.append(AnnotatedImage(image.path, read_voc(candidates[0])))
        except MalformedAnnotation as error:
            found.skip("malformed annotation", f"{candidates[0]}: {error}")
    if not total:
        raise InputError(f"{folder}: no images in it")
    if len(missing) == total:
        raise InputError(f"{root}: no annotations: neither {root / 'annotation'}/*.xml nor XML in {folder}")
    if missing:
        found.skipped["no annotation"] = missing
    return found


def _images_below(folder: Path) -> Iterator[_Found]:
    """In order of their folders, then of their names."""
    here: Path | None = None
    beside: dict[str, Path] = {}
    for path, stem in _files_below(folder, IMAGE_SUFFIXES):
        if path.parent != here:
            here = path.parent
            names = (entry for entry in sorted(os.listdir(here)) if entry.lower().endswith(".xml"))
            beside = {os.path.splitext(name)[0]: here / name for name in names}
        yield _Found(path, stem, beside.get(stem.rpartition("/")[2]))


def _files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """(path, path below the folder without suffix) of files; hidden ones and hidden folders are left out."""
    top = os.fspath(folder)
    for here, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(here, top).replace(os.sep, "/")
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                stem = os.path.splitext(name)[0]
                yield Path(here, name), stem if below == "." else f"{below}/{stem}"
