"""Some of the labels of a training folder: drawn by seed, or named by a published list; kept as a list or as links.

A list has one image per line: its path below the training folder, or its file name alone (`n01440764_10026.JPEG`, as
in SimCLR's lists of 1 % and 10 % of ImageNet).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cgc.data.folders import ImageList
from cgc.data.views import mix_seed
from cgc.errors import InputError, RunError

_NAMED = 3


def share_of(count: int, percent: Fraction) -> int:
    """How many of `count` images are drawn: `percent` of them rounded to the nearest, halves up, and at least one.

    >>> [share_of(count, Fraction(10)) for count in (3, 14, 15, 1300)]
    [1, 1, 2, 130]
    """
    return max(1, int(count * percent / 100 + Fraction(1, 2)))


def draw_subset(images: ImageList, percent: Fraction, seed: int = 0) -> NDArray[np.int64]:
    """Sorted positions of `share_of` each class's images, drawn by seed.

    A class's draw depends on the seed, its own index and the names of its own images alone. Of one seed, the images of
    a smaller percentage are among those of a larger one.

    Raises ValueError unless 0 < percent <= 100.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must lie above 0 and up to 100, got {percent}")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    by_class = np.split(np.argsort(images.labels, kind="stable"), np.cumsum(counts)[:-1])
    drawn = []
    for label, members in enumerate(by_class):
        generator = torch.Generator().manual_seed(mix_seed(seed, label))
        order = torch.randperm(len(members), generator=generator).numpy()
        drawn.append(members[order[: share_of(len(members), percent)]])
    return np.sort(np.concatenate(drawn))


def read_list(
    path: Path, images: ImageList, *, skip_missing: bool = False
) -> tuple[NDArray[np.int64], list[str]]:
    """Sorted positions of the images that a list names, and the lines that name none of `images`.

    A path is that below the training folder; folders between class and image may be left out. A file name alone is
    looked for in the class that it begins with (before the last underscore), then everywhere.

    Raises:
        InputError: an unreadable or empty list; a line that fits several images; a class of which the list has no
            image; lines that fit none, unless `skip_missing`.
    """
    lines = _lines(path)
    candidates = _named_like(images, {os.path.basename(line) for line in lines})
    found, missing = [], []
    for line in lines:
        fitting = _fitting(line, images, candidates[os.path.basename(line)])
        if len(fitting) > 1:
            both = " and ".join(images.paths[index] for index in fitting[:2])
            raise InputError(f"{path}: {line} fits several images: {both}")
        found += fitting
        if not fitting:
            missing.append(line)
    if missing and not skip_missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(lines)} images are not in {images.root}: {_first(missing)}; "
            "--skip-missing leaves them out"
        )
    indices = np.unique(np.array(found, dtype=np.int64))
    present = set(images.labels[indices].tolist())
    absent = [name for label, name in enumerate(images.classes) if label not in present]
    if absent:
        raise InputError(f"{path}: no image of {len(absent)} classes of {images.root}: {_first(absent)}")
    return indices, missing


def take(images: ImageList, indices: Sequence[int] | NDArray[np.int64]) -> ImageList:
    """The images at these positions, with all of the classes."""
    return images.subset(np.asarray(indices, dtype=np.int64))


def write_list(path: Path, subset: ImageList) -> None:
    """One path below the training folder per line, the name that `read_list` is surest of.

    Raises InputError if there is something at `path` already, RunError if it cannot be written.
    """
    refuse_existing(path)
    text = "".join(f"{subset.paths[index]}\n" for index in range(len(subset)))
    with _written(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_links(folder: Path, subset: ImageList, beside: Mapping[str, Path]) -> None:
    """A tree of relative links: `folder/train/<path below the training folder>`, and `folder/<name>` for `beside`.

    Raises InputError if there is something at `folder` already, RunError if it cannot be written.
    """
    refuse_existing(folder)
    with _written(folder) as partial:
        places: dict[Path, str] = {}  # a training folder has few folders and many images
        for index in range(len(subset)):
            path = subset.path(index)
            link = partial / "train" / subset.paths[index]
            if link.parent not in places:
                link.parent.mkdir(parents=True, exist_ok=True)
                places[link.parent] = _relative(path.parent, link.parent)
            link.symlink_to(os.path.join(places[link.parent], path.name))
        for name in subset.classes:  # tiny-imagenet keeps its boxes beside the images
            table, here = subset.root / name / f"{name}_boxes.txt", partial / "train" / name
            if table.is_file() and here.is_dir():
                (here / table.name).symlink_to(os.path.join(_relative(table.parent, here), table.name))
        for name, original in beside.items():
            (partial / name).symlink_to(
                os.path.join(_relative(original.parent, partial), original.name), target_is_directory=True
            )


def refuse_existing(path: Path) -> None:
    """Raises InputError if `path` is there already, or the folder that it shall lie in is not."""
    if os.path.lexists(path):
        raise InputError(f"{path} is there already; remove it or choose another --out")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: no folder {path.absolute().parent} to write it into")


def _relative(target: Path, start: Path) -> str:
    """From one existing folder to another, links on the way resolved: `..` of a link is not where it was found."""
    return os.path.relpath(os.path.realpath(target), os.path.realpath(start))


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A neighbour of `path` to write, file or folder, which takes its name when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.rename(partial, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    lines = list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
    if not lines:
        raise InputError(f"{path}: names no images")
    return lines


def _named_like(images: ImageList, names: set[str]) -> dict[str, list[int]]:
    """Positions of the images that are called by one of `names`."""
    found: dict[str, list[int]] = defaultdict(list)
    for index in range(len(images)):
        name = os.path.basename(images.paths[index])
        if name in names:
            found[name].append(index)
    return found


def _fitting(line: str, images: ImageList, candidates: list[int]) -> list[int]:
    """Those of the images called like the line's that it can mean."""

    def of_class(name: str) -> list[int]:
        return [index for index in candidates if images.classes[int(images.labels[index])] == name]

    path = os.path.normpath(line)
    if "/" not in path:
        return of_class(path.rpartition("_")[0]) or candidates
    below = path.removeprefix(f"{images.root.name}/")
    for whole in (path, below):
        exact = [index for index in candidates if images.paths[index] == whole]
        if exact:
            return exact
    return of_class(below.split("/")[0])


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
