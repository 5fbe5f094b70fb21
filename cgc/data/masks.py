"""Regions given as masks, decoded only when they are asked for: polygons, run lengths, trimap files.

Shapes: ``mask_HW`` bool, True on the object's pixels; sizes are (height, width).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from cgc.data.decode import refuse_programs
from cgc.optional_packages import optional_package

MaskArray = npt.NDArray[np.bool_]
_FOREGROUND = 1  # of a trimap; 2 is background, 3 the border between them


class Mask(Protocol):
    """A region of pixels. ``decode`` gives bool (H, W); ValueError or OSError where that is impossible."""

    def decode(self) -> MaskArray: ...


class MaskPart(Protocol):
    """Pixels of one object. ``check`` and ``paint`` raise ValueError (``paint`` also OSError) if they are unusable."""

    def check(self, size: tuple[int, int]) -> None: ...

    def paint(self, mask_HW: MaskArray) -> None: ...


@dataclass(frozen=True, eq=False, slots=True)
class UnionMask:
    """The union of several objects' pixels."""

    size: tuple[int, int]
    parts: tuple[MaskPart, ...]

    def decode(self) -> MaskArray:
        """bool (H, W).

        Raises:
            ValueError: a part that cannot be decoded, or not one pixel in any of them.
            OSError: a mask file that cannot be read.
        """
        mask_HW = np.zeros(self.size, dtype=bool)
        for part in self.parts:
            part.check(self.size)
            part.paint(mask_HW)
        if not mask_HW.any():
            raise ValueError("the mask is empty")
        return mask_HW


@dataclass(frozen=True, eq=False, slots=True)
class Polygons:
    """Outlines as in COCO: each x y x y … in pixels; an object may have several. Filled by pycocotools."""

    outlines: tuple[array[float], ...]

    @classmethod
    def parse(cls, written: Sequence[object]) -> Polygons:
        """From JSON. ValueError for anything but lists of at least three points."""
        if not written:
            raise ValueError("has no polygon")
        outlines = []
        for outline in written:
            # Two points would be taken for a box by pycocotools.
            if not isinstance(outline, list) or len(outline) < 6 or len(outline) % 2:
                raise ValueError("a polygon is a list of x y x y … with at least three points")
            try:
                outlines.append(array("d", outline))
            except (TypeError, OverflowError):
                raise ValueError("a polygon's coordinates are not all numbers") from None
            if not math.isfinite(sum(outlines[-1])):
                raise ValueError("a polygon's coordinates are not finite")
        return cls(tuple(outlines))

    def check(self, size: tuple[int, int]) -> None:
        """Points may lie outside by an image's longer side: pycocotools walks along every edge, however long."""
        reach = max(size)
        for outline in self.outlines:
            if min(outline) < -reach or max(outline) > 2 * reach:
                raise ValueError("a polygon lies far outside the image")

    def paint(self, mask_HW: MaskArray) -> None:
        coco = optional_package("pycocotools.mask", "pycocotools", "masks made of polygons")
        height, width = mask_HW.shape
        runs = coco.frPyObjects([list(outline) for outline in self.outlines], height, width)
        # Decoded here too: pycocotools' own decoding warns under NumPy 2.
        RunLengths((height, width), coco.merge(runs)["counts"]).paint(mask_HW)


@dataclass(frozen=True, eq=False, slots=True)
class RunLengths:
    """Lengths of runs of background and foreground in turn, column by column, as numbers or as COCO's string.

    Decoded here and not by pycocotools, older versions of which write wherever the lengths lead them.
    """

    size: tuple[int, int]
    counts: array[int] | bytes

    @classmethod
    def parse(cls, written: dict[str, object]) -> RunLengths:
        """From JSON: ``{"size": [height, width], "counts": […] or "…"}``. ValueError for anything else."""
        size, counts = written.get("size"), written.get("counts")
        if not isinstance(size, list) or len(size) != 2 or any(type(side) is not int for side in size):
            raise ValueError("run lengths need a size of two whole numbers")
        height, width = cast("list[int]", size)
        if isinstance(counts, str) and counts.isascii():
            return cls((height, width), counts.encode("ascii"))
        if not isinstance(counts, list) or any(type(count) is not int for count in counts):
            raise ValueError("run lengths are whole numbers or a string")
        try:
            return cls((height, width), array("q", counts))
        except OverflowError:
            raise ValueError("a run length is absurd") from None

    def check(self, size: tuple[int, int]) -> None:
        if self.size != tuple(size):
            said = "×".join(str(side) if abs(side) < 10**9 else "…" for side in self.size)
            raise ValueError(f"run lengths of {said} px in an image of {size[0]}×{size[1]}")

    def paint(self, mask_HW: MaskArray) -> None:
        runs = decode_counts(self.counts) if isinstance(self.counts, bytes) else list(self.counts)
        height, width = mask_HW.shape
        if any(run < 0 for run in runs) or sum(runs) != height * width:
            raise ValueError(f"run lengths do not add up to {height}×{width} px")
        flags = np.arange(len(runs)) % 2 == 1
        mask_HW |= np.repeat(flags, runs).reshape(width, height).T


def decode_counts(text: bytes) -> list[int]:
    """COCO's string to run lengths.

    A character stands for 6 bits (its code less 48): five bits of a number, lowest first, and bit 5 while
    more of it follow; the last one's bit 4 is the sign. From the fourth on, numbers are differences from the
    one two places before.

    >>> decode_counts(b"52203")
    [5, 2, 2, 2, 5]

    Raises:
        ValueError: no such string, or a number of more than 40 bits.
    """
    runs: list[int] = []
    value = shift = 0
    for code in text:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError("run lengths are not COCO's string")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run lengths break off")
    return runs


@dataclass(frozen=True, eq=False, slots=True)
class Trimap:
    """An image file whose pixels of value 1 are the object; 2 is background, 3 the border, which counts for neither."""

    path: Path

    def check(self, size: tuple[int, int]) -> None:
        """Nothing is known before the file is read."""

    def paint(self, mask_HW: MaskArray) -> None:
        try:
            with Image.open(self.path) as image:
                if (image.height, image.width) != mask_HW.shape:
                    of_image = f"{mask_HW.shape[0]}×{mask_HW.shape[1]}"
                    raise ValueError(f"is {image.height}×{image.width} px, the image {of_image}")
                if image.mode not in ("L", "P"):
                    raise ValueError(f"is no trimap (mode {image.mode})")
                refuse_programs(image)
                mask_HW |= np.asarray(image) == _FOREGROUND
        except OSError as error:
            raise OSError(f"{self.path}: {error.strerror or 'not an image'}") from error
        except Exception as error:  # Pillow raises many kinds for broken files
            raise ValueError(f"{self.path}: {error}") from error


def parse_segmentation(written: object) -> Polygons | RunLengths:
    """An annotation's ``segmentation`` as in COCO's JSON. ValueError (without file or number) if it is none."""
    if isinstance(written, list):
        return Polygons.parse(written)
    if isinstance(written, dict):
        return RunLengths.parse(written)
    raise ValueError("has no segmentation")
