"""From an image file to the uint8 views that CGC trains on, in batches.

A worker decodes an image once and makes the `xe` view (random crop and flip of the original) and the `query`
view (shorter side to R, central S×S crop), each with one fused crop-and-resize of the decoded image: with the
decoder and the kernels of torch where they are faster than Pillow's, see `DECODERS`. All
randomness of an item comes from its own seed, which the sampler derives from (run seed, epoch, index), so
batches do not depend on the number of workers, and no global random state is read or moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, get_args

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cgc.data.decode import UnreadableImage, decode_data, decode_pixels, decode_rgb
from cgc.data.folders import ImageList
from cgc.data.pixels import Picture, resizes_fast, to_tensor
from cgc.data.presets import resize_size
from cgc.data.seeding import SeededSampler, mix_seed
from cgc.data.windows import draw_window
from cgc.data.workers import worker_options
from cgc.errors import InputError

__all__ = [
    "DECODERS",
    "MAX_UNREADABLE_IN_A_ROW",
    "Batch",
    "Decoder",
    "EvalViews",
    "Picture",
    "Sample",
    "SeededSampler",
    "TrainViews",
    "UnreadableImage",
    "ViewLoader",
    "decode_rgb",
    "draw_window",
    "make_loader",
    "mix_seed",
    "query_view",
    "random_view",
    "to_tensor",
]

# "auto": torchvision's decoder and torch's resize where this machine has fast ones, and Pillow for what they do not
# take; "pillow": Pillow alone; "gpu": as "auto", but on the device, see `cgc.data.device_loader`. The views of "auto"
# and "pillow" differ by a grey level here and there, and at the border of `xe`.
Decoder = Literal["auto", "pillow", "gpu"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)

_Image = TypeVar("_Image", bound=Picture)

# So many unreadable images one after the other mean that the folder is broken, not an image.
MAX_UNREADABLE_IN_A_ROW = 32


class Sample(NamedTuple):
    """One item. Views are (S, S, 3) uint8, as Pillow lays them out; `used` is the image really read.

    `label` is a (K,) bool tensor where images have several. What only some methods need: `saliency` (S, S) uint8 of
    the query, `boxes` (B, 4) on the `xe` view, and views of other images, `distractors` (3, S, S, 3), without the
    `category` (where there are several labels: one of the image's own).
    """

    xe: Tensor | None
    query: Tensor
    label: int | Tensor
    used: int
    unreadable: tuple[str, ...] = ()
    saliency: Tensor | None = None
    boxes: Tensor | None = None
    distractors: Tensor | None = None
    category: int | None = None


class Batch(NamedTuple):
    """N items. The views have channels_last strides; `unreadable` has one "path: reason" per failed read."""

    xe: Tensor | None  # (N, 3, S, S) uint8; None from EvalViews
    query: Tensor  # (N, 3, S, S) uint8
    labels: Tensor  # (N,) int64, or (N, K) bool
    indices: Tensor  # (N,) int64
    unreadable: list[str]
    saliency: Tensor | None = None  # (N, S, S) uint8, 1 on the foreground of the query
    boxes: Tensor | None = None  # (N, B, 4) int64 on the xe view, empty ones 0 0 -1 -1
    distractors: Tensor | None = None  # (M, 3, 3, S, S) uint8: views for the composites of these images
    distractor_rows: Tensor | None = None  # (M,) int64
    category: Tensor | None = (
        None  # (N,) int64, what the distractors were chosen for, where there are several labels
    )


def query_view(image: _Image, size: int, resize: int) -> _Image:
    """Resize(resize) then CenterCrop(size), as one resize of the part that the crop keeps.

    Equal to torchvision's two steps, but that Pillow stores the box in single precision: now and then a pixel
    is rounded the other way, by one grey level (by two in rare pixels of pure noise).
    """
    width, height = image.size
    short, long = min(width, height), max(width, height)
    resized_long = int(resize * long / short)  # torchvision cuts off here, and rounds the offset below
    resized_w, resized_h = (resize, resized_long) if width <= height else (resized_long, resize)
    left, top = round((resized_w - size) / 2), round((resized_h - size) / 2)
    scale_w, scale_h = width / resized_w, height / resized_h
    # Rounding must not carry the box past the image, which Pillow refuses.
    right, bottom = min((left + size) * scale_w, width), min((top + size) * scale_h, height)
    box = (left * scale_w, top * scale_h, right, bottom)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def random_view(image: _Image, size: int, generator: torch.Generator) -> _Image:
    """RandomResizedCrop(size) with torchvision's default ranges, then a flip in half of the cases.

    At its border Pillow filters the crop with the pixels just outside of it, where torchvision, which cuts
    first, and :class:`cgc.data.pixels.Pixels` do without them.
    """
    window, hflip = draw_window(image.size, generator)
    view = image.resize((size, size), Image.Resampling.BILINEAR, box=window)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if hflip else view


class EvalViews(Dataset[Sample]):
    """`query` views only. Items are addressed by (index, seed); the seed is not used.

    An unreadable image is replaced by one that can be read, see `ImageList.replacement`, with that one's label.
    `decoder` is one of `DECODERS`, also as an attribute.

    Raises:
        InputError: from an item, after `MAX_UNREADABLE_IN_A_ROW` unreadable images in a row.
        ValueError: `resize`, by default `resize_size(image_size)`, is smaller than `image_size`.
    """

    def __init__(
        self, images: ImageList, image_size: int, resize: int | None = None, *, decoder: Decoder = "auto"
    ) -> None:
        self.images = images
        self.image_size = image_size
        self.resize = resize_size(image_size) if resize is None else resize
        if image_size < 1 or self.resize < image_size:
            raise ValueError(f"cannot crop {image_size} px from images resized to {self.resize} px")
        if decoder not in DECODERS:
            raise ValueError(f"unknown decoder {decoder!r}, one of {', '.join(DECODERS)} is expected")
        self.decoder: Decoder = decoder
        self.decoded_by: Callable[[int], Picture] | None = None  # whoever else decodes images, by index

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        index, seed = item
        unreadable: list[str] = []
        for offset in range(min(len(self), MAX_UNREADABLE_IN_A_ROW)):
            used = self.images.replacement(index, offset)
            try:
                sample = self._sample(self._decode(used), used, seed)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            return sample._replace(unreadable=tuple(unreadable))
        raise InputError(f"{len(unreadable)} unreadable images in a row, the first: {unreadable[0]}")

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Sample] | InputError:
        """A batch for the loader; an InputError is handed on as a value, see `ViewLoader`."""
        try:
            return [self[item] for item in items]
        except InputError as error:
            return error

    def _decode(self, index: int) -> Picture:
        if self.decoded_by is not None:
            return self.decoded_by(index)
        decode = decode_data if self.decoder == "pillow" or not resizes_fast() else decode_pixels
        return decode(self.images.read(index), self.images.path(index))

    def _sample(self, image: Picture, index: int, seed: int) -> Sample:
        """The item of image ``index``; UnreadableImage takes the next one instead."""
        query = to_tensor(query_view(image, self.image_size, self.resize))
        return Sample(None, query, int(self.images.labels[index]), index)


class TrainViews(EvalViews):
    """`xe` and `query` views; an item's crop and flip are those of its seed."""

    def _sample(self, image: Picture, index: int, seed: int) -> Sample:
        generator = torch.Generator().manual_seed(seed)
        xe = to_tensor(random_view(image, self.image_size, generator))
        return super()._sample(image, index, seed)._replace(xe=xe)


@dataclass(frozen=True)
class _Failure:
    message: str


def failure_of(batch: object) -> str:
    """Why `collate` gave no batch; "" if it did."""
    return batch.message if isinstance(batch, _Failure) else ""


def collate(samples: list[Sample] | InputError) -> Batch | _Failure:
    """A batch of samples, or what they failed of."""
    if isinstance(samples, InputError):
        return _Failure(str(samples))
    xe = [sample.xe for sample in samples if sample.xe is not None]
    return Batch(
        torch.stack(xe).permute(0, 3, 1, 2) if xe else None,
        torch.stack([sample.query for sample in samples]).permute(0, 3, 1, 2),
        torch.stack([torch.as_tensor(sample.label) for sample in samples]),
        torch.tensor([sample.used for sample in samples]),
        [line for sample in samples for line in sample.unreadable],
        *_extras(samples),
    )


def _extras(samples: Sequence[Sample]) -> tuple[Tensor | None, ...]:
    """The fields of a batch that only some methods need."""
    saliency = [sample.saliency for sample in samples if sample.saliency is not None]
    boxes = [sample.boxes for sample in samples if sample.boxes is not None]
    categories = [sample.category for sample in samples if sample.category is not None]
    given = [(row, s.distractors) for row, s in enumerate(samples) if s.distractors is not None]
    return (
        torch.stack(saliency) if saliency else None,
        _padded(boxes) if boxes else None,
        torch.stack([views for _, views in given]).permute(0, 1, 4, 2, 3) if given else None,
        torch.tensor([row for row, _ in given]) if given else None,
        torch.tensor(categories) if categories else None,
    )


def _padded(boxes: Sequence[Tensor]) -> Tensor:
    """(N, B, 4) of as many boxes as the image with most has; empty ones are 0 0 -1 -1."""
    most = max(1, *map(len, boxes))
    padded = torch.tensor([0, 0, -1, -1]).repeat(len(boxes), most, 1)
    for row, each in enumerate(boxes):
        padded[row, : len(each)] = each
    return padded


class ViewLoader(DataLoader[Sample]):
    """A DataLoader of `Batch` that raises an InputError of its workers as it is.

    The DataLoader would wrap it in another message with the worker's traceback; here it travels as a batch.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # the base class promises its own iterator
        failure = ""
        for batch in super().__iter__():
            failure = failure_of(batch)
            if failure:
                break
            yield batch
        if failure:
            # Let go of the workers first: an exception that holds on to them would keep them waiting.
            self._iterator = None
            raise InputError(failure)


def make_loader(
    dataset: EvalViews,
    sampler: Sampler[tuple[int, int]],
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool = False,
    persistent_workers: bool | None = None,
) -> ViewLoader:
    """Batches of `dataset` in the sampler's order; the short last one is kept.

    `persistent_workers` (default: whenever there are workers) keeps them between epochs.
    """
    return ViewLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        **worker_options(workers),
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=workers > 0 if persistent_workers is None else persistent_workers and workers > 0,
        generator=torch.Generator(),  # else every epoch would draw from the global one
    )
