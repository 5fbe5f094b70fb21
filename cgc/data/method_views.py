"""Training views of the methods that need more of an image than its two views.

Each adds one field to :class:`cgc.data.views.Sample`, drawn from the item's own seed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList
from cgc.data.grids import DISTRACTORS, lacking_distractors, of_other_classes, without_category
from cgc.data.multi_label import Distractors, MultiLabelImages
from cgc.data.seeding import mix_seed
from cgc.data.view_boxes import boxes_in_view
from cgc.data.views import EvalViews, Picture, Sample, TrainViews, draw_window, random_view, to_tensor
from cgc.errors import InputError

Foreground = Callable[[int, tuple[int, int]], Tensor]  # index and decoded size -> (S, S) uint8

_DISTRACTORS, _CATEGORY = 1, 2  # streams of mix_seed, apart from the item's own views
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

    def _sample(self, image: Picture, index: int, seed: int) -> Sample:
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

    def _sample(self, image: Picture, index: int, seed: int) -> Sample:
        # The same generator draws the same window as the view's.
        window, hflip = draw_window(image.size, torch.Generator().manual_seed(seed))
        own = self.boxes.get(self.images.path(index), np.empty((0, 4), dtype=np.int64))
        seen = boxes_in_view(
            torch.as_tensor(own)[None], torch.tensor([window]), torch.tensor([hflip]), self.image_size
        )[0]
        return super()._sample(image, index, seed)._replace(boxes=seen)


class CompositeViews(EvalViews, ABC):
    """Views for composites: an item whose batch has fewer than three distractors for it brings its own three.

    Which items do is known from the labels of the batch alone, so it does not depend on the number of workers.
    """

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Sample] | InputError:
        samples = super().__getitems__(items)
        if isinstance(samples, InputError):
            return samples
        lacking = lacking_distractors(self._admissible(samples)).tolist()
        try:
            return [
                self._with_distractors(sample, seed) if lacks else sample
                for sample, lacks, (_, seed) in zip(samples, lacking, items, strict=True)
            ]
        except InputError as error:
            return error

    @abstractmethod
    def _admissible(self, samples: Sequence[Sample]) -> Tensor:
        """(N, N) bool: see :func:`cgc.data.grids.choose_distractors`."""

    @abstractmethod
    def _with_distractors(self, sample: Sample, seed: int) -> Sample:
        """The sample with three views of other images, and with what could not be read of them."""

    def _three_views(
        self, candidates: Iterable[int], generator: torch.Generator
    ) -> tuple[list[Tensor], list[str]]:
        """Views of the first three that can be read, or fewer if so many cannot be, and what could not be."""
        views: list[Tensor] = []
        unreadable: list[str] = []
        for index in candidates:
            try:
                image = self._decode(index)
            except UnreadableImage as error:
                unreadable.append(str(error))
                continue
            views.append(to_tensor(random_view(image, self.image_size, generator)))
            if len(views) == DISTRACTORS:
                break
        return views, unreadable


class GridViews(CompositeViews, TrainViews):
    """Views for composites of images with one label: distractors are of other classes.

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

    def _admissible(self, samples: Sequence[Sample]) -> Tensor:
        return of_other_classes(torch.tensor([int(sample.label) for sample in samples]))

    def _with_distractors(self, sample: Sample, seed: int) -> Sample:
        generator = torch.Generator().manual_seed(mix_seed(seed, _DISTRACTORS))
        label = int(sample.label)
        candidates = (self._of_another_class(label, generator) for _ in range(_TRIES))
        views, unreadable = self._three_views(candidates, generator)
        if len(views) < DISTRACTORS:
            raise InputError(
                f"{_TRIES} images of other classes give no three readable ones: {unreadable[-1]}"
            )
        return sample._replace(distractors=torch.stack(views), unreadable=(*sample.unreadable, *unreadable))

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

    def _sample(self, image: Picture, index: int, seed: int) -> Sample:
        size = (self.image_size, self.image_size)
        query = to_tensor(image.resize(size, Image.Resampling.BILINEAR))
        return Sample(None, query, torch.from_numpy(self.present_NK[index]), index)


class MultiLabelGridViews(CompositeViews, StretchedViews):
    """Views for composites of images with several labels: each item draws one of its categories, and distractors do
    not contain it.

    The annotations say which images of the batch serve; ``distractors`` draws where they are too few. An item all of
    whose categories are in nearly every image, or for which no three distractors can be read, brings its category
    alone.
    """

    def __init__(self, images: MultiLabelImages, image_size: int, distractors: Distractors) -> None:
        super().__init__(images, image_size)
        self.distractors = distractors

    def _sample(self, image: Picture, index: int, seed: int) -> Sample:
        xe = to_tensor(random_view(image, self.image_size, torch.Generator().manual_seed(seed)))
        category = self._category(index, seed)
        return super()._sample(image, index, seed)._replace(xe=xe, category=category)

    def _category(self, index: int, seed: int) -> int:
        """One of the image's categories that can be explained, evenly drawn; if there is none, its first."""
        present_K = self.present_NK[index]
        explicable = np.flatnonzero(present_K & self.distractors.usable_K)
        if not len(explicable):
            return int(np.argmax(present_K))
        generator = torch.Generator().manual_seed(mix_seed(seed, _CATEGORY))
        return int(explicable[int(torch.randint(len(explicable), (), generator=generator))])

    def _admissible(self, samples: Sequence[Sample]) -> Tensor:
        labels = torch.stack([torch.as_tensor(sample.label) for sample in samples])
        return without_category(labels, torch.tensor([sample.category for sample in samples]))

    def _with_distractors(self, sample: Sample, seed: int) -> Sample:
        assert sample.category is not None
        count = self.distractors.count(sample.category)
        if count < DISTRACTORS:
            return sample
        generator = torch.Generator().manual_seed(mix_seed(seed, _DISTRACTORS))
        candidates = self.distractors.draw(sample.category, min(_TRIES, count), generator)
        views, unreadable = self._three_views(candidates, generator)
        return sample._replace(
            distractors=torch.stack(views) if len(views) == DISTRACTORS else None,
            unreadable=(*sample.unreadable, *unreadable),
        )
