"""Images without labels: an endless stream of `query` views, and a loader that pairs it with a labelled one.

Shapes: N labelled images of a batch, M unlabelled ones, S image side.

Item k of the stream is a function of seed and k alone: pass k // n over the n images has an order of its own. A
run that is stopped goes on at any item, with any number of workers, by setting the position.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cgc.data.folders import ImageList, PathTable, images_below
from cgc.data.seeding import SeededSampler, mix_seed
from cgc.data.shares import plan_of
from cgc.data.views import Batch, ViewLoader
from cgc.errors import InputError

NO_LABEL = -1

_STREAM = -2  # of mix_seed: with the same folder on both sides, the two orders must not be the same


def open_unlabelled(root: str | Path, *, batch_size: int = 1) -> ImageList:
    """Every image at any depth below `root`, in order of names; their label is `NO_LABEL`, and there are no classes.

    Folders may be links, names with a dot in front are left out, as in `open_split`.

    Raises:
        InputError: no such folder, no images, or fewer than a batch.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    seen = {os.path.realpath(root)}
    paths = PathTable([path.removeprefix("./") for path in images_below(os.fspath(root), ".", seen)])
    if not len(paths):
        raise InputError(f"{root}: no images in it or below")
    if len(paths) < batch_size:
        raise InputError(f"{root}: {len(paths)} images, fewer than a batch of {batch_size}")
    return ImageList(paths, np.full(len(paths), NO_LABEL, dtype=np.int64), (), root)


class StreamSampler(SeededSampler):
    """A window of the endless stream: the passes of a `SeededSampler` over `length` images, one after the other.

    `passes` is that order where it is not the plain one of `seed` and `shuffle`.

    `set_window` says where it begins and how many items it has; `set_epoch` makes it one pass, or what is left of it.
    """

    def __init__(
        self, length: int, *, seed: int = 0, shuffle: bool = True, passes: SeededSampler | None = None
    ) -> None:
        self._passes = passes or SeededSampler(length, seed=seed, shuffle=shuffle)
        super().__init__(length, seed=self._passes.seed, shuffle=self._passes.shuffle)

    @property
    def described(self) -> str:
        return self._passes.described

    def set_window(self, position: int, items: int) -> None:
        if position < 0 or items < 0 or not self.length:
            raise ValueError(f"no {items} items from {position} in a stream of {self.length} images")
        self.epoch, self.start = divmod(position, self.length)
        self.items = items

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        super().set_epoch(epoch, start=start)
        self.items = self.length - start

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = copy.copy(self._passes)
        epoch, start, left = self.epoch, self.start, self.items
        while left:
            order.set_epoch(epoch, start=start)
            taken = min(left, len(order))
            yield from islice(order, taken)
            epoch, start, left = epoch + 1, 0, left - taken


def unlabelled_order(images: ImageList, seed: int = 0) -> StreamSampler:
    """The stream of a run with this seed. Where two passes meet, an image may stand in a batch twice."""
    return StreamSampler(len(images), passes=images.order(seed=mix_seed(seed, _STREAM)))


class PairedBatch(NamedTuple):
    """A labelled `Batch`, and M unlabelled images beside it. `unreadable` holds the failed reads of both."""

    xe: Tensor | None  # (N, 3, S, S) uint8
    query: Tensor  # (N, 3, S, S) uint8, of the labelled images
    labels: Tensor  # (N,) int64
    indices: Tensor  # (N,) int64
    unreadable: list[str]
    unlabelled_query: Tensor  # (M, 3, S, S) uint8, channels_last strides
    unlabelled_indices: Tensor  # (M,) int64, positions in the list of unlabelled images
    saliency: Tensor | None = None  # (M, S, S) uint8 of the unlabelled queries, where their views have it


class PairedLoader:
    """One pass over the labelled loader, with a full batch of the unlabelled stream beside each of its batches.

    The labelled loader's order is the only clock: after s steps of the run, whole and unfinished epochs together,
    the stream stands at item s·M, M being the unlabelled batch size (with several processes: of all of them). Hence
    `set_epoch(epoch, start=…)`, here or on `plan.order`, places both.

    Raises ValueError if the unlabelled loader's order is no `StreamSampler`, and, on iteration, if the labelled one
    starts inside a batch; InputError as `ViewLoader`.
    """

    def __init__(self, labelled: ViewLoader, unlabelled: ViewLoader) -> None:
        plan, other = plan_of(labelled), plan_of(unlabelled)
        if not isinstance(other.order, StreamSampler):
            raise ValueError(f"PairedLoader needs a StreamSampler, got {type(other.order).__name__}")
        self.labelled, self.unlabelled = labelled, unlabelled
        beside = f"{plan.described}, and beside each batch {other.batch_size} of {other.described}"
        self.plan, self.stream = plan._replace(described=beside), other.order
        self.sampler, self.batch_size = labelled.sampler, labelled.batch_size
        self.unlabelled_batch_size = other.batch_size

    def __len__(self) -> int:
        return len(self.labelled)

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Begin `epoch` after `start` labelled items: a multiple of the batch size, or all of them."""
        self.plan.order.set_epoch(epoch, start=start)
        self._steps_done()

    def __iter__(self) -> Iterator[PairedBatch]:
        m = self.unlabelled_batch_size
        self.stream.set_window(self._steps_done() * m, len(self) * m)
        try:
            # Closed here and now: a loop that is left early must not keep the workers busy until it is forgotten.
            with closing(_batches(self.labelled)) as some, closing(_batches(self.unlabelled)) as others:
                for one, other in zip(some, others, strict=True):
                    yield PairedBatch(
                        one.xe,
                        one.query,
                        one.labels,
                        one.indices,
                        one.unreadable + other.unreadable,
                        other.query,
                        other.indices,
                        other.saliency,
                    )
        except InputError:
            # One side has let go of its workers; an exception that holds on to the other's would keep them waiting.
            self.labelled._iterator = self.unlabelled._iterator = None
            raise

    def _steps_done(self) -> int:
        order, batch_size, steps, _ = self.plan
        start = order.start
        if start % batch_size and start != order.length:
            raise ValueError(f"{start} labelled items are no whole number of batches of {batch_size}")
        return order.epoch * steps + min(math.ceil(start / batch_size), steps)


def _batches(loader: ViewLoader) -> Generator[Batch, None, None]:
    yield from loader
