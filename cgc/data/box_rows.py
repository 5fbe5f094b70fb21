"""From annotations to rows: one for every class that an image shows.

Boxes: (B, 4) int64, x0 y0 x1 y1, 0-based and inclusive, clipped to the image. Masks: bool (H, W). Sizes: (height,
width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cgc.data.annotations import AnnotatedImage, AnnotatedObject, Annotations, Box
from cgc.data.image_headers import NoSize, header_sizes
from cgc.data.masks import Mask, UnionMask

# Admissible classes of an annotated name, the label first; None: the model does not know it.
Targets = Callable[[str], tuple[int, ...] | None]


@dataclass(frozen=True, eq=False, slots=True)
class BoxedImage:
    """One image and one class that it shows; `boxes` are those of that class, `all_difficult` says they
    all are.

    `mask`: if set, the region is this mask instead of the boxes. `alternatives`: other classes that would be
    as right; the explained class is the one that the model favours among them and the label. `category`: what
    the annotation calls it, where that is not the name of the class.
    """

    path: Path
    label: int
    boxes: npt.NDArray[np.int64]
    all_difficult: bool
    size: tuple[int, int]
    mask: Mask | None = None
    alternatives: tuple[int, ...] = ()
    category: str | None = None

    @property
    def region(self) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
        """The boxes, or the mask decoded now (ValueError or OSError if that fails, or it is empty)."""
        return self.boxes if self.mask is None else self.mask.decode()


@dataclass(eq=False)
class BoxedImages:
    """What a folder held. An image that shows objects of several known classes stands there once per class,
    its rows next to each other.

    `skipped` maps a reason to the files it concerns; `clipped` and `dropped` count boxes that reached over
    the border, and boxes with nothing left. `multi_label`: an image may show several of the model's classes.
    `notes`: what a reader of the scores should know.
    """

    images: list[BoxedImage]
    classes: tuple[str, ...]
    layout: str
    skipped: dict[str, list[str]] = field(default_factory=dict)
    clipped: int = 0
    dropped: int = 0
    multi_label: bool = False
    notes: list[str] = field(default_factory=list)

    def name(self, image: BoxedImage) -> str:
        """What a row is of: the annotated category, or the class."""
        return image.category or self.classes[image.label]

    def skip(self, reason: str, what: str) -> None:
        """Leave something out, and remember why."""
        self.skipped.setdefault(reason, []).append(what)


def collect_rows(
    found: BoxedImages, annotations: Annotations, targets: Targets, *, by_category: bool = False
) -> None:
    """Rows of every image that has a size and an object of a known class.

    ``by_category``: rows are named by the annotated categories, as several may be the same class; categories that
    admit the very same classes share a row.
    """
    taken: set[Path] = set()
    for image, size in _sized(annotations.images):
        if isinstance(size, NoSize):
            found.skip(*size)
            continue
        if image.path in taken:
            found.skip("image listed twice", str(image.path))
            continue
        taken.add(image.path)
        by_targets: dict[tuple[int, ...], list[AnnotatedObject]] = {}
        for item in image.objects:
            wanted = targets(item.name)
            if wanted is not None:
                by_targets.setdefault(wanted, []).append(item)
        if not by_targets:
            names = ", ".join(sorted({item.name for item in image.objects})) or "no object"
            found.skip("no object of a known class", f"{image.path}: {names}")
            continue
        before = len(found.images)
        found.images.extend(_rows(found, image.path, size, by_targets, by_category))
        if len(found.images) == before:
            found.skip("no box inside the image", str(image.path))


def _sized(images: Sequence[AnnotatedImage]) -> Iterator[tuple[AnnotatedImage, tuple[int, int] | NoSize]]:
    """Images with the size that their annotations say, or else that of the file's header."""
    headers = header_sizes([image.path for image in images if image.size is None])
    for image in images:
        yield image, image.size or next(headers)


def _rows(
    found: BoxedImages,
    path: Path,
    size: tuple[int, int],
    by_targets: dict[tuple[int, ...], list[AnnotatedObject]],
    by_category: bool,
) -> Iterable[BoxedImage]:
    for (label, *alternatives), items in sorted(by_targets.items()):
        boxes, kept = [], []
        for item in items:
            box = None if item.box is None else clip_box(item.box, size)
            if box is not None:
                found.clipped += box != item.box
                boxes.append(box)
            elif item.part is None:
                found.dropped += 1
                continue
            kept.append(item)
        if kept:
            parts = tuple(item.part for item in kept if item.part is not None)
            yield BoxedImage(
                path,
                label,
                np.array(boxes, dtype=np.int64).reshape(-1, 4),
                all(item.difficult for item in kept),
                size,
                UnionMask(size, parts) if parts else None,
                tuple(alternatives),
                "/".join(sorted({item.name for item in kept})) if by_category else None,
            )


def clip_box(box: Box, size: tuple[int, int]) -> Box | None:
    """The part of a box inside an image of (height, width), or None where nothing is left.

    >>> clip_box((-3, 2, 10, 4), (8, 8)), clip_box((9, 0, 12, 3), (8, 8)), clip_box((5, 5, 4, 6), (8, 8))
    ((0, 2, 7, 4), None, None)
    """
    height, width = size
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width - 1), min(box[3], height - 1)
    return (x0, y0, x1, y1) if x0 <= x1 and y0 <= y1 else None
