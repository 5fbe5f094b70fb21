"""What every reader of a layout hands over: images, their objects as annotated, and what was left out.

Boxes: x0 y0 x1 y1, pixels, 0-based and inclusive; here not clipped yet. Sizes: (height, width).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from cgc.data.masks import MaskPart
from cgc.errors import InputError

_FARTHEST = 1e15  # pixels; what a file says to lie farther away is put here, where 64 bits can hold it

Box = tuple[int, int, int, int]


class MalformedAnnotation(ValueError):
    """The file is not a usable annotation; the message says why, without the path."""


class AnnotatedObject(NamedTuple):
    """One object: class name as written, its box, VOC's difficult flag, its pixels where masks are read."""

    name: str
    box: Box | None
    difficult: bool = False
    part: MaskPart | None = None


class AnnotatedImage(NamedTuple):
    """An image file with its objects; ``size`` where the annotations say it, else the file is asked."""

    path: Path
    objects: list[AnnotatedObject]
    size: tuple[int, int] | None = None


@dataclass(eq=False)
class Annotations:
    """All of a layout. ``classes``: the class list that it brings along, if it does. ``skipped``: by reason."""

    layout: str
    images: list[AnnotatedImage] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    multi_label: bool = False
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def skip(self, reason: str, what: str) -> None:
        """Leave something out, and remember why."""
        self.skipped.setdefault(reason, []).append(what)


@dataclass(frozen=True)
class Choice:
    """Which part of a dataset is wanted; None: the layout's default. ``folders``: held-out folders to try."""

    split: str | None = None
    year: int | None = None
    masks: bool = False
    folders: tuple[str, ...] = ("val", "test")

    def need(self, root: Path, layout: str, *, year: bool = False, masks: bool = False) -> None:
        """Raise InputError where a choice is made that the layout does not have."""
        if self.masks and not masks:
            raise InputError(f"{root}: {layout} has boxes only, no masks")
        if self.year is not None and not year:
            raise InputError(f"{root}: {layout} has no years to choose from (asked for {self.year})")


def box_from_corners(x0: float, y0: float, x1: float, y1: float) -> Box:
    """Pixels of a box whose corners are 1-based and inclusive; fractions widen to the pixels they touch.

    >>> box_from_corners(1, 1, 50, 100), box_from_corners(75.5, 1, 100.9, 99.2)
    ((0, 0, 49, 99), (74, 0, 100, 99))
    """
    x0, y0, x1, y1 = map(within_reach, (x0, y0, x1, y1))
    return math.floor(x0) - 1, math.floor(y0) - 1, math.ceil(x1) - 1, math.ceil(y1) - 1


def box_from_extent(x: float, y: float, width: float, height: float) -> Box:
    """Pixels that a box touches: from ⌊x⌋ to ⌈x + width⌉ - 1, where x counts pixels from the left border.

    Sums are rounded to a millionth of a pixel, or the rounding error of one decimal could touch a pixel more.

    >>> box_from_extent(10, 5, 20, 10), box_from_extent(473.07, 0.5, 38.93, 0.5)
    ((10, 5, 29, 14), (473, 0, 511, 0))
    """
    x0, y0, x1, y1 = map(within_reach, (x, y, x + width, y + height))
    return math.floor(x0), math.floor(y0), math.ceil(round(x1, 6)) - 1, math.ceil(round(y1, 6)) - 1


def within_reach(coordinate: float) -> float:
    """A coordinate in pixels that fits into 64 bits; no image reaches so far.

    >>> within_reach(12.5), within_reach(-1e300)
    (12.5, -1000000000000000.0)
    """
    return min(max(coordinate, -_FARTHEST), _FARTHEST)


def inside_folder(name: str) -> bool:
    """Whether a file name from an annotation stays in its folder: relative, and without ``..``; it can be one at all.

    >>> inside_folder("a/b.jpg"), inside_folder("/etc/passwd"), inside_folder("a/../../b.jpg"), inside_folder("")
    (True, False, False, False)
    """
    path = PurePosixPath(name)
    if not name or "\0" in name or os.path.isabs(name) or ".." in path.parts:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a character, which JSON can hold
        return False
    return True


def shown(value: object) -> str:
    """A value from a foreign file for a message: one line, printable, not long.

    >>> shown({"a": [1, 2]}), shown("x" * 100)[-3:]
    ("{'a': [1, 2]}", 'xx…')
    """
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # nested absurdly, or a whole number of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:59]}…"
