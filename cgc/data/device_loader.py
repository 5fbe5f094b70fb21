"""Batches whose JPEGs are decoded, cropped and resized on the device: workers read files, and do nothing else.

For machines whose GPUs are faster than their CPU cores can feed. torchvision decodes a batch at once (nvJPEG on CUDA);
views are then made by the same code as on the CPU.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cgc.data.decode import UnreadableImage, decode_jpegs, decode_pixels
from cgc.data.folders import ImageList
from cgc.data.pixels import Picture, Pixels
from cgc.data.views import Batch, EvalViews, ViewLoader, collate, failure_of
from cgc.data.workers import worker_options
from cgc.errors import InputError


class _File(NamedTuple):
    """What a worker hands over; ``jpeg`` is None where the CPU has to decode, or nothing can be read."""

    number: int  # of the image in the list
    seed: int
    jpeg: Tensor | None  # bytes, uint8


class _Files(Dataset[_File]):
    def __init__(self, images: ImageList) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> _File:
        index, seed = item
        try:
            data = self.images.read(index)
        except UnreadableImage:
            return _File(index, seed, None)
        return _File(
            index, seed, torch.frombuffer(bytearray(data), dtype=torch.uint8) if _plain(data) else None
        )


def _plain(data: bytes) -> bool:
    """Whether these are the bytes of an RGB or grey JPEG, whole as far as its end shows."""
    try:
        image = Image.open(io.BytesIO(data))
        # A decoder may fill up what is cut off; Pillow refuses it, and so the CPU is to see it.
        return (
            image.format == "JPEG" and image.mode in ("RGB", "L") and data.rstrip(b"\0")[-2:] == b"\xff\xd9"
        )
    except Exception:  # whatever is wrong is named when the CPU decodes it
        return False


class DeviceLoader(ViewLoader):
    """A :class:`cgc.data.views.ViewLoader` of batches on ``device``.

    What the device does not take, damaged files and other formats than JPEG, is decoded on the CPU and moved: what is
    refused, and what is read instead, is what it is with the other decoders.

    Raises InputError as ViewLoader.
    """

    def __init__(
        self,
        views: EvalViews,
        sampler: Sampler[tuple[int, int]],
        *,
        batch_size: int,
        workers: int,
        device: torch.device,
    ) -> None:
        super().__init__(
            _Files(views.images),  # type: ignore[arg-type]  # of its files this loader makes the samples itself
            batch_size=batch_size,
            sampler=sampler,
            **worker_options(workers),
            collate_fn=list,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # else every epoch would draw from the global one
        )
        self.views, self.device = views, device
        self._ready: dict[int, Pixels] = {}
        views.decoded_by = self._picture

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # as ViewLoader
        files: Sequence[_File]
        for files in DataLoader.__iter__(self):
            batch = self._batch(files)
            if isinstance(batch, str):
                self._iterator = None  # lets go of the workers
                raise InputError(batch)
            yield batch

    def _batch(self, files: Sequence[_File]) -> Batch | str:
        """The batch, or why there is none."""
        jpegs = {file.number: file.jpeg for file in files if file.jpeg is not None}
        decoded = decode_jpegs(list(jpegs.values()), self.device)
        self._ready = {index: each for index, each in zip(jpegs, decoded, strict=True) if each is not None}
        try:
            made = collate(self.views.__getitems__([(file.number, file.seed) for file in files]))
        finally:
            self._ready = {}
        return failure_of(made) or made  # type: ignore[return-value]

    def _picture(self, index: int) -> Picture:
        if index in self._ready:
            return self._ready[index]
        images = self.views.images
        pixels = decode_pixels(images.read(index), images.path(index))
        return Pixels(pixels.rgb_HW3.to(self.device))
