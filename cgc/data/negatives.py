"""For every category the images that do not contain it, from COCO's annotations: where GC's distractors come from.

Shapes: K categories in ascending order of their ids, M images in the order of their names; ``absent_KM`` bool.

A file holds the matrix packed to bits and the names as UTF-8, a few hundred kB for COCO's 82,000 training images.
Nothing in it is pickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cgc.data.annotations import inside_folder, shown
from cgc.data.coco_json import CocoAnnotation, CocoFile, CocoImage, read_coco_json
from cgc.errors import InputError, RunError

UNLISTED = "annotations of a category that the file does not list"

_VERSION = 1
_ENTRIES = ("version", "absent", "categories", "images")
_MOST_BYTES = 1 << 30  # of one entry, unpacked
_Skipped = dict[str, list[str]]


@dataclass(frozen=True, eq=False)
class NegativeImages:
    """``absent_KM[k, m]``: image m shows nothing of category k. Every image shows something.

    ``names``: the file names that the annotations give. Raises ValueError for shapes that do not fit.
    """

    categories: tuple[str, ...]
    names: tuple[str, ...]
    absent_KM: npt.NDArray[np.bool_]
    _gaps: list[npt.NDArray[np.int64]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.absent_KM.shape != (len(self.categories), len(self.names)):
            raise ValueError(
                f"{len(self.categories)} categories and {len(self.names)} images need a matrix of that shape, "
                f"not {self.absent_KM.shape}"
            )
        present = [np.flatnonzero(~row) for row in self.absent_KM]
        # How many images without the category come before each one with it.
        object.__setattr__(self, "_gaps", [images - np.arange(len(images)) for images in present])

    def counts(self) -> list[int]:
        """How many images lack each category."""
        return [len(self.names) - len(gaps) for gaps in self._gaps]

    def draw(self, category: int, n: int, generator: torch.Generator) -> Tensor:
        """(n,) int64: different images without the ``category`` (its row), every choice and order equally likely.

        Raises InputError if there are fewer than ``n``.
        """
        gaps = self._gaps[category]
        count = len(self.names) - len(gaps)
        if n > count:
            raise InputError(
                f"only {count} images do not contain the category {self.categories[category]!r}, {n} are needed"
            )
        rank_n = _distinct(n, count, generator)
        # The r-th image without the category lies behind all those with it that have at most r without before them.
        return torch.from_numpy(rank_n + np.searchsorted(gaps, rank_n, side="right"))


def _distinct(n: int, count: int, generator: torch.Generator) -> npt.NDArray[np.int64]:
    """``n`` different numbers below ``count`` in random order, from n + 1 draws (Floyd's algorithm)."""
    chosen: list[int] = []
    for most in range(count - n, count):
        drawn = int(torch.randint(most + 1, (), generator=generator))
        chosen.append(most if drawn in chosen else drawn)
    order = torch.randperm(n, generator=generator).numpy()
    return np.array(chosen, dtype=np.int64)[order]


def negatives_from_coco(path: Path) -> tuple[NegativeImages, dict[str, list[str]]]:
    """Read an instances JSON; also what was left out, by reason. Files are not looked for.

    Any annotation counts, whatever its box: crowds, and objects that cannot be scored, are still in the image. Images
    without annotations are skipped, as in the published list; annotations of a category that the file does not list
    are named, one line for a category.

    Raises InputError for a file that is not COCO's JSON, or has no image with an annotation of a listed category.
    """
    content, skipped = read_coco_json(path, masks=False), _Skipped()
    names = _image_names(content, skipped)
    order = sorted(names, key=lambda key: names[key])
    columns = {key: column for column, key in enumerate(order)}
    present_KM = np.zeros((len(content.categories), len(order)), dtype=bool)
    damaged = _mark(present_KM, content, columns, skipped)
    annotated_M = present_KM.any(axis=0)
    for column in np.flatnonzero(~annotated_M).tolist():
        reason = "no usable annotation" if column in damaged else "no annotation"
        skipped.setdefault(reason, []).append(names[order[column]])
    kept = tuple(names[order[column]] for column in np.flatnonzero(annotated_M).tolist())
    if not kept:
        reasons = ", ".join(f"{len(lines)} × {reason}" for reason, lines in skipped.items()) or "no images"
        raise InputError(f"{path}: no image with an annotation of a listed category ({reasons})")
    return NegativeImages(tuple(content.categories.values()), kept, ~present_KM[:, annotated_M]), skipped


def _image_names(content: CocoFile, skipped: _Skipped) -> dict[int | str, str]:
    """File names by image id."""
    found: dict[int | str, str] = {}
    taken: set[str] = set()
    for number, entry in enumerate(content.images):
        where = f"{content.path}: images[{number}]"
        if not isinstance(entry, CocoImage) or type(entry.key) not in (int, str) or not _usable(entry.name):
            skipped.setdefault("malformed image entry", []).append(f"{where}: needs an id and a file_name")
        elif entry.key in found or entry.name in taken:
            line = f"{where}: id {shown(entry.key)}, {shown(entry.name)}"
            skipped.setdefault("image listed twice", []).append(line)
        else:
            found[entry.key] = entry.name
            taken.add(entry.name)
    return found


def _usable(name: object) -> bool:
    """A file name below a folder which UTF-8 can say (JSON can hold halves of characters)."""
    if not isinstance(name, str) or not inside_folder(name):
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _mark(
    present_KM: npt.NDArray[np.bool_],
    content: CocoFile,
    columns: dict[int | str, int],
    skipped: _Skipped,
) -> set[int]:
    """Set what the annotations say; the columns of images that have an annotation of an unlisted category."""
    rows = {key: row for row, key in enumerate(content.categories)}
    marked: list[tuple[int, int]] = []
    damaged: set[int] = set()
    unlisted: dict[str, list[str]] = {}
    for number, entry in enumerate(content.annotations):
        if not isinstance(entry, CocoAnnotation):
            line = f"{content.path}: annotations[{number}]: needs an image_id and a category_id"
            skipped.setdefault("malformed annotation", []).append(line)
            continue
        column = columns.get(entry.image) if type(entry.image) in (int, str) else None
        row = rows.get(entry.category) if type(entry.category) is int else None
        where = f"annotations[{number}]"
        if column is None:
            line = f"{content.path}: {where}: image {shown(entry.image)}"
            skipped.setdefault("annotation of an unknown image", []).append(line)
        elif row is None:
            unlisted.setdefault(shown(entry.category), []).append(where)
            damaged.add(column)
        else:
            marked.append((row, column))
    if marked:
        present_KM[tuple(np.array(marked).T)] = True
    for category, places in unlisted.items():
        line = f"{content.path}: category {category}, {len(places)} times, the first: {places[0]}"
        skipped.setdefault(UNLISTED, []).append(line)
    return damaged


def write_negatives(negatives: NegativeImages, path: Path) -> None:
    """Write the file in one rename. Raises RunError if that fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                version=np.array(_VERSION),
                absent=np.packbits(negatives.absent_KM, axis=1),
                categories=_as_bytes(negatives.categories),
                images=_as_bytes(negatives.names),
            )
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}") from error


def read_negatives(path: Path) -> NegativeImages:
    """Read a file of :func:`write_negatives`.

    Raises InputError for anything else, damaged files among it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            version, absent, categories, images = (_entry(archive, name) for name in _ENTRIES)
        if version.shape != () or version.dtype.kind not in "iu" or int(version) != _VERSION:
            raise ValueError("of another version")
        return _checked(absent, _strings(categories), _strings(images))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    # Whatever a damaged file makes its decoder raise (BadZipFile, zlib.error, KeyError, EOFError, MemoryError, …).
    except Exception as error:
        said = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path} is no list of negative images: {said}") from error


def _entry(archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.generic]:
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > _MOST_BYTES:
        raise ValueError(f"{name} has {info.file_size} bytes")
    with archive.open(info) as file:
        array: npt.NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _checked(
    absent: npt.NDArray[np.generic], categories: tuple[str, ...], names: tuple[str, ...]
) -> NegativeImages:
    if len(set(categories)) < len(categories) or len(set(names)) < len(names):
        raise ValueError("a category or an image stands there twice")
    if not all(categories) or not all(map(inside_folder, names)):
        raise ValueError("a name is empty or leads out of the folder of images")
    shape = (len(categories), (len(names) + 7) // 8)
    if absent.dtype != np.uint8 or absent.shape != shape:
        raise ValueError(f"the matrix is {absent.dtype} {absent.shape}, not uint8 {shape}")
    bits = np.unpackbits(absent.view(np.uint8), axis=1).view(bool)
    absent_KM = bits[:, : len(names)]
    if bits[:, len(names) :].any() or absent_KM.all(axis=0).any():
        raise ValueError("the matrix has images that show nothing, or more than there are names")
    return NegativeImages(categories, names, np.ascontiguousarray(absent_KM))


def _as_bytes(strings: Sequence[str]) -> npt.NDArray[np.uint8]:
    """One array whatever the longest string is; no name has a NUL."""
    return np.frombuffer("\0".join(strings).encode("utf-8"), dtype=np.uint8)


def _strings(array: npt.NDArray[np.generic]) -> tuple[str, ...]:
    if array.dtype != np.uint8 or array.ndim != 1 or not len(array):
        raise ValueError(f"names are {array.dtype} {array.shape}, not bytes")
    return tuple(array.tobytes().decode("utf-8").split("\0"))
