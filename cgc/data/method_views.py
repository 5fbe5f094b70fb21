"""Training views of the methods that need more of an image than its two views.

Each adds one field to :class:`cgc.data.views.Sample`, drawn from the item's own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList
from cgc.data.multi_label import Distractors, MultiLabelImages
from cgc.data.seeding import mix_seed
from cgc.data.view_boxes import boxes_in_view
from cgc.data.views import EvalViews, Sample, TrainViews, draw_window, random_view, to_tensor
from cgc.errors import InputError

Foreground = Callable[[int, tuple[int, int]], Tensor]  # index and decoded size -> (S, S) uint8

_DISTRACTORS = 1  # stream of mix_seed, apart from the item's own views
_TRIES = 32


class SaliencyQueries(EvalViews):
    """Query views, of unlabelled images for instance, with their foreground; see
    :class:`cgc.data.saliency.SaliencyMasks`.
    """

    def __init__(
        self, images: ImageList, image_size: int, resize: int | None, foreground: Foreground
    ) -> None:
        super().__init__(images, image_size, resize)
        self.foreground = foreground

    def _sample(self, image: Image.Image, index: int, seed: int) -> Sample:
        saliency = self.foreground(index, (image.height, image.width))
        return super()._sample(image, index, seed)._replace(saliency=saliency)


class SaliencyViews(SaliencyQueries, TrainViews):
    """Both views, with the foreground of the query."""


class BoxViews(TrainViews):
    """Views with the boxes of the image's class as the `xe` view shows them; images without boxes have none.

    ``boxes``: (B, 4) by the image's path, 0-based and inclusive.
    """

    def __init__(
        self,
        images: ImageList,
        image_size: int,
        resize: int | None,
        boxes: Mapping[Path, np.ndarray[tuple[int, int], np.dtype[np.int64]]],
    ) -> None:
        super().__init__(images, image_size, resize)
        self.boxes = boxes

    def _sample(self, image: Image.Image, index: int, seed: int) -> Sample:
        # The same generator draws the same window as the view's.
        window, hflip = draw_window(image.size, torch.Generator().manual_seed(seed))
        own = self.boxes.get(self.images.path(index), np.empty((0, 4), dtype=np.int64))
        seen = boxes_in_view(
            torch.as_tensor(own)[None], torch.tensor([window]), torch.tensor([hflip]), self.image_size
        )[0]
        return super()._sample(image, index, seed)._replace(boxes=seen)


class GridViews(TrainViews):
    """Views for composites: an item whose batch has fewer than three images of other classes brings its own three.

    Raises InputError if fewer than two classes have images.
    """

    def __init__(self, images: ImageList, image_size: int, resize: int | None) -> None:
        super().__init__(images, image_size, resize)
        self.counts = np.bincount(images.labels, minlength=len(images.classes))
        if np.count_nonzero(self.counts) < 2:
            raise InputError(f"{images.root}: grid consistency needs images of two classes at least")
        # Images by class, so that those of other classes can be drawn by counting.
        self._by_class = np.argsort(images.labels, kind="stable")
        self._first = np.concatenate([[0], np.cumsum(self.counts)])

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Sample] | InputError:
        samples = super().__getitems__(items)
        if isinstance(samples, InputError):
            return samples
        labels = np.array([int(sample.label) for sample in samples])
        others = [int(np.count_nonzero(labels != label)) for label in labels]
        try:
            return [
                sample if enough >= 3 else self._with_distractors(sample, seed)
                for sample, enough, (_, seed) in zip(samples, others, items, strict=True)
            ]
        except InputError as error:
            return error

    def _with_distractors(self, sample: Sample, seed: int) -> Sample:
        generator = torch.Generator().manual_seed(mix_seed(seed, _DISTRACTORS))
        views, unreadable = [], list(sample.unreadable)
        for _ in range(_TRIES):
            index = self._of_another_class(int(sample.label), generator)
            try:
                image = self._decode(index)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            views.append(to_tensor(random_view(image, self.image_size, generator)))
            if len(views) == 3:
                return sample._replace(distractors=torch.stack(views), unreadable=tuple(unreadable))
        raise InputError(f"{_TRIES} images of other classes give no three readable ones: {unreadable[-1]}")

    def _of_another_class(self, label: int, generator: torch.Generator) -> int:
        others = len(self.images) - int(self.counts[label])
        place = int(torch.randint(others, (), generator=generator))
        if place >= self._first[label]:
            place += int(self.counts[label])
        return int(self._by_class[place])


class StretchedViews(EvalViews):
    """`query` views of images with several labels, resized to S×S whatever their shape, and multi-hot labels."""

    def __init__(self, images: MultiLabelImages, image_size: int) -> None:
        super().__init__(images.images, image_size, image_size)
        self.present_NK = images.present_NK

    def _sample(self, image: Image.Image, index: int, seed: int) -> Sample:
        size = (self.image_size, self.image_size)
        query = to_tensor(image.resize(size, Image.Resampling.BILINEAR))
        return Sample(None, query, torch.from_numpy(self.present_NK[index]), index)


class MultiLabelGridViews(StretchedViews):
    """Views for composites of images with several labels: each item draws one of its categories, and brings three
    images that do not contain it.

    An item all of whose categories are in nearly every image, or for which no three distractors can be read, brings
    its category alone: the batch may have three for it.
    """

    def __init__(self, images: MultiLabelImages, image_size: int, distractors: Distractors) -> None:
        super().__init__(images, image_size)
        self.distractors = distractors

    def _sample(self, image: Image.Image, index: int, seed: int) -> Sample:
        xe = to_tensor(random_view(image, self.image_size, torch.Generator().manual_seed(seed)))
        return super()._sample(image, index, seed)._replace(xe=xe)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        sample = super().__getitem__(item)
        generator = torch.Generator().manual_seed(mix_seed(item[1], _DISTRACTORS))
        present_K = self.present_NK[sample.used]
        explicable = np.flatnonzero(present_K & self.distractors.usable_K)
        if not len(explicable):
            return sample._replace(category=int(np.argmax(present_K)))
        category = int(explicable[int(torch.randint(len(explicable), (), generator=generator))])
        views, unreadable = self._views_without(category, generator)
        return sample._replace(
            category=category,
            distractors=torch.stack(views) if len(views) == 3 else None,
            unreadable=(*sample.unreadable, *unreadable),
        )

    def _views_without(self, category: int, generator: torch.Generator) -> tuple[list[Tensor], list[str]]:
        """Three views, or fewer if that many cannot be read, and what could not be."""
        views: list[Tensor] = []
        unreadable: list[str] = []
        candidates = min(_TRIES, self.distractors.count(category))
        for index in self.distractors.draw(category, candidates, generator):
            try:
                image = self._decode(index)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            views.append(to_tensor(random_view(image, self.image_size, generator)))
            if len(views) == 3:
                break
        return views, unreadable
