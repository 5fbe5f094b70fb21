"""Image folders to lists of (path, label): `<root>/<split>/<class>/**`, and tiny-imagenet's own layout.

As torchvision's ImageFolder reads them: classes are the sorted folder names, images lie at any depth below.
Departures: names that begin with a dot are ignored (`.ipynb_checkpoints` is no class), and links count as
images by their name alone, so that a dangling one is found and reported when it is read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgc.data.annotations import inside_folder, shown
from cgc.data.decode import read_file
from cgc.data.seeding import SeededSampler
from cgc.data.specs import dataset_spec
from cgc.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_EVAL_FOLDERS = ("val", "test")
_ANNOTATIONS = "val_annotations.txt"  # tiny-imagenet's own layout


class PathTable:
    """Many paths in two NumPy arrays: one run of bytes, and where each path ends.

    A list of 1.28 million strings would be copied page by page into every forked worker, because reading a
    Python object writes its reference count; arrays are shared.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._set(b"".join(os.fsencode(path) + b"\0" for path in paths))

    @classmethod
    def from_bytes(cls, terminated: bytes) -> PathTable:
        """Of paths with a zero byte after each, what :meth:`to_bytes` gives."""
        table = cls.__new__(cls)
        table._set(terminated)
        return table

    def _set(self, terminated: bytes) -> None:
        if terminated and terminated[-1]:
            raise ValueError("the last path has no zero byte after it")
        self._bytes = np.frombuffer(terminated, dtype=np.uint8)
        self._ends = np.flatnonzero(self._bytes == 0)

    def to_bytes(self) -> bytes:
        return self._bytes.tobytes()

    @property
    def nbytes(self) -> int:
        return self._bytes.nbytes + self._ends.nbytes

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        index %= len(self)
        first = self._ends[index - 1] + 1 if index else 0
        return os.fsdecode(self._bytes[first : self._ends[index]].tobytes())


@dataclass(frozen=True, eq=False)
class ImageList:
    """Labelled images below `root`. `paths` are relative to it; `labels` (n,) int64 index `classes`."""

    paths: PathTable
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    root: Path

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        """The image's file; what it is called where images lie elsewhere."""
        return self.root / self.paths[index]

    def read(self, index: int) -> bytes:
        """The bytes of the image's file. Raises UnreadableImage."""
        return read_file(self.path(index))

    @property
    def checksum(self) -> int:
        """CRC-32 of names and labels: lists that agree in it are the same images in the same order."""
        return zlib.crc32(np.ascontiguousarray(self.labels).tobytes(), zlib.crc32(self.paths.to_bytes()))

    def replacement(self, index: int, attempt: int) -> int:
        """What is read instead of an unreadable image: its first, second, … replacement (0: itself)."""
        return (index + attempt) % len(self)

    def order(self, *, seed: int = 0, shuffle: bool = True) -> SeededSampler:
        """The order in which epochs go through the images."""
        return SeededSampler(len(self), seed=seed, shuffle=shuffle, content=f"{self.checksum:08x}")

    def subset(self, indices: NDArray[np.int64]) -> ImageList:
        """Some of the images, with all the classes."""
        paths = PathTable([self.paths[int(index)] for index in indices])
        return replace(self, paths=paths, labels=self.labels[indices])


def open_split(
    root: str | Path,
    split: str,
    *,
    dataset: str | None = None,
    classes: Sequence[str] | None = None,
    empty_classes: bool = False,
) -> ImageList:
    """List the images of `<root>/train` or of the held-out split, `<root>/val` or else `<root>/test`.

    Args:
        split: "train" or "val".
        dataset: a name of `DATASETS`: its number of classes is checked and its held-out folder is used.
        empty_classes: classes without images are as good as others.
        classes: classes that the folder must have (those of the training split); labels follow their order.

    Raises:
        InputError: missing or empty folder, class without images, classes other than `classes`, a number of
            classes other than the dataset's, an unknown dataset.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split must be 'train' or 'val', got {split!r}")
    folder = _split_folder(Path(root), split_names(split, dataset))
    images = open_class_folders(folder, classes, empty_classes=empty_classes)
    check_dataset(images, folder, dataset)
    return images


def split_names(split: str, dataset: str | None) -> tuple[str, ...]:
    """Folders in which the images of a split may lie, the first that is there counts."""
    if split == "train":
        return ("train",)
    return _EVAL_FOLDERS if dataset is None else dataset_spec(dataset).eval_folders


def check_dataset(images: ImageList, where: str | Path, dataset: str | None) -> None:
    """Raises InputError where the number of classes is not that of the dataset."""
    if dataset is None:
        return
    spec = dataset_spec(dataset)
    if len(images.classes) != spec.num_classes:
        raise InputError(
            f"{where}: {len(images.classes)} classes, but the dataset {spec.name} has {spec.num_classes}"
        )


def open_class_folders(
    folder: str | Path, classes: Sequence[str] | None = None, *, empty_classes: bool = False
) -> ImageList:
    """List the images of a folder of classes, or of tiny-imagenet's held-out folder, wherever it lies.

    ``empty_classes``: classes without images are as good as others.

    Raises InputError as :func:`open_split`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    if _is_tiny_imagenet_val(folder):
        return _tiny_imagenet_val(folder, classes)
    return _scan(folder, classes, empty_classes)


def _split_folder(root: Path, names: Sequence[str]) -> Path:
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: has no folder {' or '.join(repr(name) for name in names)}")


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error


def _scan(folder: Path, classes: Sequence[str] | None, empty_classes: bool) -> ImageList:
    found = [entry.name for entry in _entries(folder) if entry.is_dir()]
    if not found:
        raise InputError(f"{folder}: no class folders in it (expected {folder}/<class>/<image>)")
    ordered = checked_classes(folder, found, classes)
    paths: list[str] = []
    counts = []
    for name in ordered:
        before = len(paths)
        paths.extend(images_below(os.fspath(folder), name, set()))
        counts.append(len(paths) - before)
    empty = [name for name, count in zip(ordered, counts, strict=True) if not count]
    if not paths or (empty and not empty_classes):
        raise InputError(f"{folder}: no images in {_first_few(empty, 'class folder')}")
    return ImageList(PathTable(paths), np.repeat(np.arange(len(counts)), counts), ordered, folder)


def images_below(root: str, relative: str, linked: set[str]) -> Iterator[str]:
    """Images of one folder in order of name, then those of its folders; paths relative to `root`.

    The type of an entry comes from the directory itself; only links that might be folders are followed.
    """
    subfolders = []
    for entry in _entries(os.path.join(root, relative)):
        path = f"{relative}/{entry.name}"
        is_link = entry.is_symlink()
        if entry.name.lower().endswith(IMAGE_SUFFIXES) and (is_link or entry.is_file(follow_symlinks=False)):
            yield path
        elif is_link and entry.is_dir():
            target = os.path.realpath(entry.path)
            if target not in linked:  # a link to a folder above would never end
                linked.add(target)
                subfolders.append(path)
        elif not is_link and entry.is_dir(follow_symlinks=False):
            subfolders.append(path)
    for path in subfolders:
        yield from images_below(root, path, linked)


def checked_classes(where: str | Path, found: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """`wanted`, or `found` where nothing is wanted; InputError where the two differ."""
    if wanted is None:
        return tuple(found)
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if not missing and not extra:
        return tuple(wanted)
    differences = []
    if missing:
        differences.append(f"lacks {_first_few(missing, 'class')}")
    if extra:
        differences.append(f"has {_first_few(extra, 'class')} more")
    raise InputError(f"{where}: its classes differ from the training classes: {', '.join(differences)}")


def _first_few(names: Sequence[str], noun: str) -> str:
    if len(names) == 1:
        return f"the {noun} {names[0]}"
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{len(names)} {plural} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


def _is_tiny_imagenet_val(folder: Path) -> bool:
    """True where `images/` is the only folder beside the annotations (some sort the files by class)."""
    if not (folder / _ANNOTATIONS).is_file():
        return False
    return [entry.name for entry in _entries(folder) if entry.is_dir()] == ["images"]


def _tiny_imagenet_val(folder: Path, classes: Sequence[str] | None) -> ImageList:
    """Labels from `val_annotations.txt` (name, class, box; separated by tabs); files lie in `images/`."""
    table = folder / _ANNOTATIONS
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: {error}") from error
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise InputError(f"{table}: lists no images")
    for number, fields in rows:
        if len(fields) < 2:
            raise InputError(f"{table}: line {number}: expected a file name and a class")
        if not inside_folder(fields[0]):
            raise InputError(
                f"{table}: line {number}: {shown(fields[0])} is no name, or lies outside of the images"
            )
    ordered = checked_classes(folder, sorted({fields[1] for _, fields in rows}), classes)
    label_of = {name: label for label, name in enumerate(ordered)}
    rows.sort(key=lambda row: row[1][0])
    labels = np.array([label_of[fields[1]] for _, fields in rows], dtype=np.int64)
    return ImageList(PathTable([f"images/{fields[0]}" for _, fields in rows]), labels, ordered, folder)
