"""Evaluation images at full field of view: shorter side to a given size, no crop, in batches of equal
size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cgc.data.boxes import BoxedImage
from cgc.data.decode import UnreadableImage, decode_rgb

_Item = tuple[int, Tensor | None, str]


class SizedBatch(NamedTuple):
    """N images of one size, (N, 3, h, w) uint8 in channels_last; `indices` into the list; unreadable
    (index, reason).
    """

    images: Tensor
    indices: list[int]
    unreadable: list[tuple[int, str]]


def resized(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side brought to `shorter_side`, the other in proportion, rounded down.

    >>> resized((375, 500), 448), resized((500, 333), 448)
    ((448, 597), (672, 448))
    """
    height, width = size
    if height <= width:
        return shorter_side, shorter_side * width // height
    return shorter_side * height // width, shorter_side


def size_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Indices in groups of equal size, at most `batch_size` each; largest images first, where memory shows
    its limit.

    >>> size_batches([(2, 3), (4, 4), (2, 3), (2, 3)], 2)
    [[1], [0, 2], [3]]
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    ordered = sorted(groups.items(), key=lambda group: (-group[0][0] * group[0][1], group[0]))
    return [
        indices[start : start + batch_size]
        for _, indices in ordered
        for start in range(0, len(indices), batch_size)
    ]


class BoxedViews(Dataset[_Item]):
    """Item i: (i, (h, w, 3) uint8 image resized as PIL does with antialiasing, "") or (i, None, reason)."""

    def __init__(self, images: Sequence[BoxedImage], shorter_side: int) -> None:
        self.images = images
        self.sizes = [resized(image.size, shorter_side) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Item:
        height, width = self.sizes[index]
        try:
            image = decode_rgb(self.images[index].path)
        except UnreadableImage as error:
            return index, None, error.reason
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return index, torch.from_numpy(np.array(image)), ""


def _collate(items: Sequence[_Item]) -> SizedBatch:
    read = [(index, image) for index, image, _ in items if image is not None]
    unreadable = [(index, reason) for index, image, reason in items if image is None]
    images = torch.stack([image for _, image in read]) if read else torch.empty(0, 1, 1, 3, dtype=torch.uint8)
    return SizedBatch(images.permute(0, 3, 1, 2), [index for index, _ in read], unreadable)


def boxed_loader(
    images: Sequence[BoxedImage],
    shorter_side: int,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
) -> DataLoader[_Item]:
    """Loader of `SizedBatch`: every image once, batches of one resized size, so a forward needs no
    padding.
    """
    views = BoxedViews(images, shorter_side)
    return DataLoader(
        views,
        batch_sampler=size_batches(views.sizes, batch_size),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
    )
