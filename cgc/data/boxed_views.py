"""The views of an evaluation image, decoded once: full field of view, stretched to a square, centre crop."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgc.data.decode import UnreadableImage, decode_rgb
from cgc.data.image_headers import header_size
from cgc.data.views import query_view


@dataclass(frozen=True)
class ViewSizes:
    """Which views of an image are wanted; None: not that one.

    ``shorter_side``: the shorter side brought to so many pixels, no crop (localisation). ``square``: stretched to this
    side, no crop (insertion and deletion). ``crop``: (shorter side, side of the centre crop), as in validation.
    """

    shorter_side: int | None = None
    square: int | None = None
    crop: tuple[int, int] | None = None


class ImageViews(NamedTuple):
    """uint8 (h, w, 3) each, or None where not wanted."""

    full: Tensor | None
    square: Tensor | None
    crop: Tensor | None


def decode_views(path: Path, size: tuple[int, int], wanted: ViewSizes) -> ImageViews:
    """Decode an image once and resize it as PIL does, bilinear with antialiasing.

    ``size`` is the (height, width) that the image is known to have.

    Raises UnreadableImage for a file that cannot be decoded, or that is another image than the size says.
    """
    image = decode_rgb(path)
    _same_size(path, (image.height, image.width), size)
    full = square = crop = None
    if wanted.shorter_side is not None:
        full = _pixels(image, resized(size, wanted.shorter_side))
    if wanted.square is not None:
        square = _pixels(image, (wanted.square, wanted.square))
    if wanted.crop is not None:
        shorter, side = wanted.crop
        crop = torch.from_numpy(np.array(query_view(image, side, shorter)))
    return ImageViews(full, square, crop)


def check_size(path: Path, size: tuple[int, int]) -> None:
    """Raises UnreadableImage where the file's header says another (height, width), or nothing."""
    found = header_size(path)
    if isinstance(found, str):
        raise UnreadableImage(path, found)
    _same_size(path, found, size)


def _same_size(path: Path, found: tuple[int, int], annotated: tuple[int, int]) -> None:
    # Boxes were clipped to, and the batch chosen for, the size in the header or the annotation.
    if found != tuple(annotated):
        raise UnreadableImage(
            path, f"is {found[0]}×{found[1]} px, its annotation says {annotated[0]}×{annotated[1]}"
        )


def _pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


def resized(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side brought to `shorter_side`, the other in proportion, rounded down.

    >>> resized((375, 500), 448), resized((500, 333), 448)
    ((448, 597), (672, 448))
    """
    height, width = size
    if height <= width:
        return shorter_side, shorter_side * width // height
    return shorter_side * height // width, shorter_side


def size_batches(
    sizes: Sequence[tuple[int, int]], batch_size: int, kinds: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Indices in groups of equal size, at most `batch_size` each; largest images first, where memory shows its limit.

    Of equal size, indices of one of the ``kinds`` stand together.

    >>> size_batches([(2, 3), (4, 4), (2, 3), (2, 3)], 2)
    [[1], [0, 2], [3]]
    >>> size_batches([(2, 3), (2, 3), (2, 3)], 2, ["a", "b", "a"])
    [[0, 2], [1]]
    """
    groups: dict[tuple[int, int], dict[Hashable, list[int]]] = {}
    for index, size in enumerate(sizes):
        kind = None if kinds is None else kinds[index]
        groups.setdefault(size, {}).setdefault(kind, []).append(index)
    batches = []
    for _, of_kind in sorted(groups.items(), key=lambda group: (-group[0][0] * group[0][1], group[0])):
        indices = [index for each in of_kind.values() for index in each]
        batches += [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    return batches
