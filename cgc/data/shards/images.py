"""Images in tar shards, in a folder or behind a URL: another list of images, addressed by index like all others.

A sample is a member of a shard: its name, where its bytes lie, its label. So nothing about training is another matter
than with image files, neither the position in an epoch nor the number of workers and processes. The samples of a
shard stand next to each other in the list. Reading needs the standard library alone.
"""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList
from cgc.data.shards.ahead import AHEAD, Ahead
from cgc.data.shards.cache import CachedFiles, Unavailable
from cgc.data.shards.index import Shard
from cgc.data.shards.order import ShardSampler

WINDOW = 16  # shards open at a time
_OPEN_FILES = 2 * WINDOW


class ShardFiles:
    """The shards of one folder, or of one URL, opened as they are needed; a bounded number stays open in each process.

    Positions in a file are given with each read, so that files inherited by forked workers are theirs as well.
    ``ahead``: how many shards the cache has room for beside those that are open.
    """

    def __init__(
        self, shards: Sequence[Shard], folder: Path, cache: CachedFiles | None = None, ahead: int = AHEAD
    ) -> None:
        self.shards, self.folder, self.cache, self.ahead = tuple(shards), folder, cache, ahead
        self._open: OrderedDict[int, BinaryIO] = OrderedDict()
        self._fetcher: Ahead | None = None

    def fetch_ahead(self, shards: Sequence[int]) -> None:
        """Have these come into the cache in the background, in this order, and no others any more."""
        if self._fetcher is None:
            # Nobody needs it yet: one try, whose failure is not worth a note that would keep the readers from theirs.
            self._fetcher = Ahead(partial(self._fetched, note=False))
        self._fetcher.want(shards[: self.ahead])

    def _fetched(self, number: int, *, note: bool = True) -> Path:
        assert self.cache is not None
        shard = self.shards[number]
        return self.cache.path(shard.name, shard.bytes, shard.sha256, note=note)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a shard, fewer where it ends before. Raises Unavailable: the whole shard cannot be had."""
        file = self._open.get(shard)
        if file is None:
            file = self._open[shard] = self._opened(shard)
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        else:
            self._open.move_to_end(shard)
        try:
            return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise Unavailable(f"{self.folder / self.shards[shard].name}: {error.strerror}") from error

    def _opened(self, shard: int) -> BinaryIO:
        for _ in range(3):  # another process may remove it from the cache before it is open
            path = self.folder / self.shards[shard].name if self.cache is None else self._fetched(shard)
            try:
                return path.open("rb", buffering=0)
            except OSError as error:
                reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise Unavailable(f"{path}: {reason}")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict(), "_fetcher": None}


@dataclass(frozen=True, eq=False)
class ShardList(ImageList):
    """Images in shards. `root` is the shards' folder, or where they are cached; `paths` are the members' names."""

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    crcs: NDArray[np.uint32] | None  # CRC-32 of each image's bytes
    shard_of: NDArray[np.int32]  # ascending
    files: ShardFiles
    window: int = WINDOW
    notes: tuple[str, ...] = ()  # what the user should know: shards that are missing, samples left out

    @property
    def remote(self) -> bool:
        """Whether reading any image may mean fetching a shard."""
        return self.files.cache is not None

    def path(self, index: int) -> Path:
        """What the image is called: its shard and its name in it."""
        return self.root / self.files.shards[self.shard_of[index]].name / self.paths[index]

    def read(self, index: int) -> bytes:
        """The bytes of the image's file. Raises UnreadableImage, with one line for all images of a lost shard."""
        shard, size = int(self.shard_of[index]), int(self.sizes[index])
        try:
            data = self.files.read(shard, int(self.offsets[index]), size)
        except Unavailable as error:
            lost = int(np.count_nonzero(self.shard_of == shard))
            name = self.files.shards[shard].name
            raise UnreadableImage(self.root / name, f"{error}; its {lost} images cannot be read") from error
        if len(data) < size:
            raise UnreadableImage(
                self.path(index), f"the shard ends after {len(data)} of its {size} bytes: truncated"
            )
        if self.crcs is not None and zlib.crc32(data) != self.crcs[index]:
            raise UnreadableImage(self.path(index), "other bytes than the index lists (CRC-32)")
        return data

    def replacement(self, index: int, attempt: int) -> int:
        """First the next image of the list, then those of the next shards in turn: all of a shard may be lost."""
        if attempt < 2:
            return (index + attempt) % len(self)
        starts = np.flatnonzero(np.diff(self.shard_of, prepend=-1))
        own = int(np.searchsorted(starts, index, side="right")) - 1
        turn, step = divmod(attempt - 1, len(starts))
        other = (own + step) % len(starts)
        end = starts[other + 1] if other + 1 < len(starts) else len(self)
        # Each turn through the shards goes on by one image, in the own shard after the one that came first.
        place = index - starts[own] + turn + (step == 0)
        return int(starts[other] + place % (end - starts[other]))

    def order(self, *, seed: int = 0, shuffle: bool = True) -> ShardSampler:
        """An order with few shards open at a time."""
        shard_of = torch.from_numpy(self.shard_of.astype(np.int64))
        return ShardSampler(
            shard_of,
            window=self.window,
            seed=seed,
            shuffle=shuffle,
            content=f"{self.checksum:08x}",
            ahead=self.files.fetch_ahead if self.remote else None,
        )

    def subset(self, indices: NDArray[np.int64]) -> ShardList:
        """Some of the images, at ascending indices."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) > 1 and (np.diff(indices) <= 0).any():
            raise ValueError("the images of a subset of shards must be given in ascending order")
        part = super().subset(indices)
        assert isinstance(part, ShardList)
        return replace(
            part,
            offsets=self.offsets[indices],
            sizes=self.sizes[indices],
            crcs=None if self.crcs is None else self.crcs[indices],
            shard_of=self.shard_of[indices],
        )

    def relabelled(self, classes: Sequence[str]) -> ShardList:
        """With the same classes in another order."""
        if tuple(classes) == self.classes:
            return self
        position = {name: label for label, name in enumerate(classes)}
        table = np.array([position[name] for name in self.classes], dtype=np.int64)
        return replace(self, classes=tuple(classes), labels=table[self.labels])


def kept_samples(
    files: ShardFiles, shard_of: NDArray[np.int32], ends: NDArray[np.int64], said: Callable[[str], None]
) -> NDArray[np.bool_]:
    """(n,) which samples of local shards are there: False in a missing shard and beyond the end of a truncated one."""
    kept = np.ones(len(shard_of), dtype=bool)
    for position, shard in enumerate(files.shards):
        path = files.folder / shard.name
        mine = shard_of == position
        try:
            size = path.stat().st_size
        except OSError:
            said(f"{path}: no such shard: its {shard.samples} images are left out")
            kept[mine] = False
            continue
        if size < shard.bytes:
            beyond = mine & (ends > size)
            kept[beyond] = False
            lost = int(beyond.sum())
            said(
                f"{path}: {size} of {shard.bytes} bytes, truncated: {lost} of its {shard.samples} images are left out"
            )
        elif size > shard.bytes:
            said(f"{path}: {size} bytes where the index lists {shard.bytes}: not the shard that was indexed")
            kept[mine] = False
    return kept
