"""Filling a folder of saliency masks, so that a run that was broken off is taken up where it was."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cgc.data.folders import ImageList
from cgc.data.saliency import refuse_image_folder
from cgc.data.saliency_files import MadeBy, Manifest, find_masks, mask_kinds, mask_path, write_grey
from cgc.errors import InputError

_SAVE_SECONDS = (
    30.0  # between two writings of the manifest, or twenty times as long as one takes: ImageNet's has 60 MB
)


class MaskWriter:
    """Writes the masks of a split as :class:`cgc.data.saliency.MaskFolder` reads them.

    Threads write them while the network goes on with the next ones. The manifest is written now and then and when a
    ``with`` block ends: masks of the last seconds before a crash are made again, and none is listed that is not there.

    Attributes: ``to_make``, indices of the images without a mask of this making; ``written``, indices so far;
    ``unreadable``, a line for each image that could not be read.

    Raises InputError for a folder that cannot be written to, lies among the images, or holds masks that are not of this
    making: those of another one are made anew if ``replace``, those that no manifest lists never.
    """

    def __init__(self, folder: Path, images: ImageList, made: MadeBy, *, replace: bool = False) -> None:
        self.folder, self.images, self.made = folder, images, made
        self.written: list[int] = []
        self.unreadable: list[str] = []
        refuse_image_folder(folder, images)
        there = find_masks(images, folder)
        manifest = Manifest.read(folder)
        if manifest is None and there.any():
            index = int(there.argmax())
            first = mask_path(folder, images.paths[index], int(there[index]))
            raise InputError(f"{first} is there, and no manifest says how it was made; choose another --out")
        self.manifest = manifest or Manifest()
        makers = [self.manifest.masks.get(images.paths[i]) for i in range(len(images))]
        others = {m for m, name in zip(makers, there, strict=True) if name and m not in (None, made)}
        if others and not replace:
            raise InputError(
                f"{folder} holds masks by {'; '.join(sorted(map(str, others)))}, these would be by {made}: "
                "--replace makes them anew, --out puts these elsewhere"
            )
        self.to_make = [i for i, maker in enumerate(makers) if maker != made or not there[i]]
        # What is there is replaced under its own name, lest two masks of one image remain.
        self._kinds = np.where(there > 0, there, mask_kinds(images))
        self._pending: list[tuple[int, Future[None]]] = []
        self._pool = ThreadPoolExecutor(4)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._save()
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from error

    def write(self, index: int, grey_HW: npt.NDArray[np.uint8]) -> None:
        """Queue a mask."""
        path = mask_path(self.folder, self.images.paths[index], int(self._kinds[index]))
        self._pending.append((index, self._pool.submit(write_grey, path, grey_HW)))

    def fail(self, index: int, reason: str) -> None:
        """List an image that cannot be read."""
        self.manifest.masks[self.images.paths[index]] = None
        self.unreadable.append(reason)

    def settle(self) -> None:
        """Wait for the queued masks and list them; raises OSError where one could not be written."""
        while self._pending:
            index, writing = self._pending.pop(0)
            writing.result()
            self.manifest.masks[self.images.paths[index]] = self.made
            self.written.append(index)
        if time.perf_counter() > self._save_at:
            self._save()

    def _save(self) -> None:
        start = time.perf_counter()
        self.manifest.write(self.folder)
        end = time.perf_counter()
        self._save_at = end + max(_SAVE_SECONDS, 20 * (end - start))

    def __enter__(self) -> MaskWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._save()
