"""Class lists: which output of a model is which name. Never taken from a folder elsewhere on the disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from cgc.errors import InputError

_NUMBERED = re.compile(r"(\d{3})\..+")  # CUB: 001.Black_footed_Albatross is class 0
_CUB_CLASSES = 200


def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet, sorted: position k is class k."""
    return tuple((resources.files("cgc.data") / "imagenet_wnids.txt").read_text(encoding="ascii").split())


def first_twice(names: Iterable[str]) -> str | None:
    """The first of the names that stands there more than once."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def read_classes(source: str | Path) -> tuple[str, ...]:
    """Class names from a training folder (its sorted subfolders) or a text file (one a line, in class order).

    Raises:
        InputError: nothing there, not text, no names, or a name twice.
    """
    source = Path(source)
    if source.is_dir():
        names = sorted(e.name for e in source.iterdir() if e.is_dir() and not e.name.startswith("."))
        if not names:
            raise InputError(f"{source}: no class folders in it, so it names no classes")
        return tuple(names)
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"class list {source}: {getattr(error, 'strerror', None) or 'not a text file'}"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InputError(f"class list {source}: names no classes")
    if (name := first_twice(names)) is not None:
        raise InputError(f"class list {source}: {name!r} stands there more than once")
    return tuple(names)


def default_classes(root: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Classes where none are given.

    Those of `root/train`, else of tiny-imagenet's `wnids.txt` (sorted), else ImageNet's or CUB's if the
    annotated names are of that kind.

    Raises:
        InputError: no training folder, and the names are neither WordNet ids of ImageNet nor `NNN.Name`.
    """
    if (root / "train").is_dir():
        return read_classes(root / "train")
    if (root / "wnids.txt").is_file():
        return tuple(sorted(read_classes(root / "wnids.txt")))
    found = sorted(set(names))
    wnids = imagenet_wnids()
    if found and set(found) <= set(wnids):
        return wnids
    if found and all(_NUMBERED.fullmatch(name) for name in found):
        by_number = {int(name[:3]): name for name in found}
        count = max(_CUB_CLASSES, max(by_number))
        return tuple(by_number.get(number, f"{number:03d}.") for number in range(1, count + 1))
    odd = next((name for name in found if name not in set(wnids)), "none")
    raise InputError(
        f"{root}: cannot tell the model's classes: there is no {root / 'train'}, and the annotated class "
        f"{odd!r} is no ImageNet id; give the training folder or a text file with --classes"
    )


class ClassIndex:
    """Looks names up in a class list.

    `NNN.Name` (CUB) stands for class NNN - 1 where the list is not itself written that way.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._index = {name: index for index, name in enumerate(classes)}
        self._numbered = any(_NUMBERED.fullmatch(name) for name in classes)

    def __call__(self, name: str) -> int | None:
        """Class index of a name, or None if the model does not know it."""
        index = self._index.get(name)
        match = _NUMBERED.fullmatch(name)
        if index is None and match and not self._numbered:
            index = int(match[1]) - 1
            return index if 0 <= index < len(self._index) else None
        return index
