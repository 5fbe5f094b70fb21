"""Annotations held against the images of a folder, by the readers that evaluation uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from cgc.data.aircraft import aircraft_folder, read_aircraft
from cgc.data.annotations import AnnotatedImage, Annotations, Choice
from cgc.data.boxes import open_boxes
from cgc.data.coco_files import is_coco, json_files
from cgc.data.folders import IMAGE_SUFFIXES, images_below
from cgc.data.multi_label import open_multi_label
from cgc.data.pets import pets_folder, read_pets
from cgc.data.prepare.findings import Findings, Split
from cgc.data.table_layouts import is_cub, is_tiny_imagenet, read_cub, read_tiny_imagenet
from cgc.data.unrel import mat_file
from cgc.data.voc_devkit import year_folders
from cgc.data.xml_folders import ANNOTATION_FOLDERS
from cgc.errors import InputError

_OF_FILES = ("unreadable image", "image not on disk")


class _Own(NamedTuple):
    """A layout with a table of its images: where it is, its reader, the splits that make up the whole."""

    place: Callable[[Path], Path | None]
    read: Callable[[Path, Choice], Annotations]
    splits: tuple[str, ...]


_OWN = (
    _Own(lambda root: root if is_cub(root) else None, read_cub, ("train", "test")),
    _Own(aircraft_folder, read_aircraft, ("trainval", "test")),
    _Own(pets_folder, read_pets, ("trainval", "test")),
)


def look_at_regions(
    found: Findings, held_out: Path | None, images: Iterable[Path], classes: Path | None = None
) -> list[Path]:
    """Add what an evaluation against regions would see, if there are any; images that only annotations name.

    ``held_out``: the folder that is scored; ``images``: all that lie in splits; ``classes``: as for :func:`open_boxes`.
    """
    root = found.root
    listed: list[Path] = []
    own = next((own for own in _OWN if own.place(root)), None)
    if own is not None:
        listed += _own_layout(found, own)
    elif is_coco(root):
        listed += _coco(found)
    xml = _xml_files(root)
    tiny = held_out is not None and is_tiny_imagenet(held_out)
    beside = held_out is not None and any(_files(held_out, (".xml",)))
    if own is None and not (xml or tiny or beside or is_coco(root) or mat_file(root) or year_folders(root)):
        return listed
    listed += _read_regions(found, classes)
    if found.regions is None:  # said why
        return listed
    if tiny and held_out is not None:
        rows = {image.path.name for image in read_tiny_imagenet(held_out).images}
        files = sorted(_files(held_out / "images", IMAGE_SUFFIXES))
        found.problem("image without annotation", [str(path) for path in files if path.name not in rows])
    elif xml and own is None:
        stems = {path.stem for path in images} | {path.stem for path in listed}
        found.problem("annotation without image", [str(path) for path in xml if path.stem not in stems])
    return listed


def _read_regions(found: Findings, classes: Path | None) -> list[Path]:
    """What an evaluation would read; its image files."""
    listed: list[Path] = []
    counted = "number of classes" in found.problems  # is said already
    try:
        boxes = open_boxes(found.root, classes=classes, dataset=None if counted else found.dataset)
    except InputError as error:
        found.problem("regions cannot be read", str(error))
    else:
        paths = {image.path for image in boxes.images}
        listed += sorted(paths)
        found.regions = {
            "layout": boxes.layout,
            "rows": len(boxes.images),
            "images": len(paths),
            "classes": len(boxes.classes),
            "class_names": list(boxes.classes),
            "boxes_clipped": boxes.clipped,
            "boxes_outside": boxes.dropped,
        }
        found.notes += boxes.notes
        for reason, lines in boxes.skipped.items():
            files = [Path(line.partition(": ")[0]) for line in lines]
            if reason in _OF_FILES and all(file.suffix.lower() in IMAGE_SUFFIXES for file in files):
                listed += files  # looked at, with all others, when every image is opened
            else:
                found.problem(reason, lines)
    return listed


def _own_layout(found: Findings, own: _Own) -> list[Path]:
    place = own.place(found.root)
    assert place is not None
    listed: list[Path] = []
    for split in own.splits:
        try:
            annotations = own.read(found.root, Choice(split=split))
        except InputError as error:
            found.problem("split cannot be read", str(error))
            continue
        listed += [image.path for image in annotations.images]
        found.splits.append(_split(f"{annotations.layout}: {split}", annotations.images))
    folder = place / "images"
    known = set(listed)
    others = (
        [folder / name for name in images_below(os.fspath(folder), ".", set())] if folder.is_dir() else []
    )
    found.problem("image without annotation", [str(path) for path in others if path not in known])
    return listed


def _split(name: str, images: list[AnnotatedImage]) -> Split:
    counts: dict[str, int] = {}
    for image in images:
        counts[image.objects[0].name] = counts.get(image.objects[0].name, 0) + 1
    return Split(name.removesuffix("/"), len(images), counts)


def _coco(found: Findings) -> list[Path]:
    listed: list[Path] = []
    for split in ("train", "val"):
        if not any(split in path.name for path in json_files(found.root)):
            found.notes.append(f"no annotation file for {split}")
            continue
        try:
            several, notes = open_multi_label(found.root, split, dataset=found.dataset)
        except InputError as error:
            if split == "train" and not any(found.root.glob("train*")):  # evaluation needs none
                found.notes.append(f"annotations of training images without these images: {error}")
            else:
                found.problem("split cannot be read", str(error))
            continue
        counts = several.present_NK.sum(axis=0).tolist()
        per_class = dict(zip(several.classes, counts, strict=True))
        found.splits.append(
            Split(several.source.name, len(several), per_class, "several classes in an image")
        )
        found.notes += notes[1:]
        listed += [several.images.path(k) for k in range(len(several))]
    return listed


def _xml_files(root: Path) -> list[Path]:
    return [path for name in ANNOTATION_FOLDERS for path in sorted(_files(root / name, (".xml",)))]


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterable[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(here, name)
