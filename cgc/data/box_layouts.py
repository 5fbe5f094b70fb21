"""Recognises the layout of a boxed dataset and has it read: image path and its objects as written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cgc.data.aircraft import aircraft_folder, read_aircraft
from cgc.data.annotations import Annotations, Choice
from cgc.data.coco import read_coco
from cgc.data.coco_files import is_coco
from cgc.data.pets import pets_folder, read_pets
from cgc.data.table_layouts import is_cub, is_tiny_imagenet, read_cub, read_tiny_imagenet
from cgc.data.unrel import mat_file, read_unrel
from cgc.data.voc_devkit import read_voc_devkit, year_folders
from cgc.data.xml_folders import read_xml_folder
from cgc.errors import InputError

_Reader = Callable[[Path, Choice], Annotations]
READERS: dict[str, _Reader] = {
    "coco": read_coco,
    "voc": read_voc_devkit,
    "pets": read_pets,
    "unrel": read_unrel,
}
# Where no name says what the folder is: the first that recognises it.
_RECOGNISED: tuple[tuple[Callable[[Path], object], _Reader], ...] = (
    (is_cub, read_cub),
    (aircraft_folder, read_aircraft),
    (pets_folder, read_pets),
    (year_folders, read_voc_devkit),
    (mat_file, read_unrel),
    (is_coco, read_coco),
)


def read_annotations(root: Path, choice: Choice, reader: str | None = None) -> Annotations:
    """Read the layout below `root`: that of `READERS[reader]`, or else the one that is recognised.

    Raises:
        InputError: no such folder, no held-out images, no annotations, or a broken table.
    """
    try:
        if not root.is_dir():
            raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
        if reader is not None:
            return READERS[reader](root, choice)
        for recognises, read in _RECOGNISED:
            if recognises(root):
                return read(root, choice)
        return _read_held_out(root, choice)
    except OSError as error:  # a folder that may not be listed
        raise InputError(f"{error.filename or root}: {error.strerror or error}") from error


def _read_held_out(root: Path, choice: Choice) -> Annotations:
    """`val/` or `test/` with tiny-imagenet's table, or with VOC XML."""
    folders = choice.folders if choice.split is None else (choice.split,)
    choice.need(root, "a folder with VOC XML")
    folder = next((root / name for name in folders if name and (root / name).is_dir()), None)
    if folder is None:
        raise InputError(f"{root}: has no folder {' or '.join(repr(name) for name in folders)}")
    if is_tiny_imagenet(folder):
        return read_tiny_imagenet(folder)
    return read_xml_folder(root, folder)
