"""The images of a run: labelled, held out, and where the method needs them unlabelled ones, masks or boxes."""

from __future__ import annotations

from pathlib import Path

import torch

from cgc.commands.train_options import TrainOptions
from cgc.data.device_loader import DeviceLoader
from cgc.data.folders import ImageList
from cgc.data.method_views import (
    BoxViews,
    GridViews,
    MultiLabelGridViews,
    SaliencyQueries,
    SaliencyViews,
    StretchedViews,
)
from cgc.data.multi_label import open_distractors, open_multi_label
from cgc.data.presets import resize_size
from cgc.data.saliency import MaskFolder, RegionMasks, SaliencyMasks
from cgc.data.shards.cache import CacheOptions, default_cache
from cgc.data.shards.folders import ShardOptions, open_held_out, open_images, open_stream
from cgc.data.shards.images import ShardList
from cgc.data.shares import ShareOfBatches
from cgc.data.training_boxes import Boxes, as_boxed_images, read_training_boxes, share_of_boxes
from cgc.data.unlabelled import PairedLoader, unlabelled_order
from cgc.data.views import EvalViews, SeededSampler, TrainViews, ViewLoader, make_loader
from cgc.engine.processes import Processes
from cgc.errors import InputError


def shard_options(options: TrainOptions) -> ShardOptions:
    cache = CacheOptions(
        options.shard_cache or default_cache(), int(options.shard_cache_gb * 1e9), options.shard_timeout
    )
    return ShardOptions(options.shard_window, options.strict, cache)


class TrainingData:
    """Opens everything that the options name, so that what can be wrong with it is found before the first step.

    Attributes: ``classes``; ``views`` and ``held_out``, the datasets; ``loader`` and ``held_out_loader``; ``notes``,
    what the user should know; ``masks``, what made the saliency masks, where there are some.
    """

    def __init__(
        self, options: TrainOptions, device: torch.device, processes: Processes | None = None
    ) -> None:
        if options.decoder == "gpu" and device.type != "cuda":
            raise InputError(f"--decoder gpu needs a CUDA device, this is {device.type}")
        self.options, self.device, self.processes = options, device, processes
        self.notes: list[str] = []
        self.masks: str | None = None
        self.held_out: EvalViews
        self.views: EvalViews
        try:
            self.classes = self._open_several_labels() if options.multi_label else self._open_classes()
        except ValueError as error:
            raise InputError(str(error)) from error
        self.held_out_loader = self._loader(
            self.held_out, self.held_out.images.order(shuffle=False), uneven=True
        )
        labelled = self._loader(self.views, self.views.images.order(seed=options.seed))
        self.loader: ViewLoader | PairedLoader = self._paired(labelled) if options.unlabelled else labelled

    def _open_classes(self) -> tuple[str, ...]:
        options = self.options
        self.shards = shard_options(options)
        self.train = open_images(options.data, "train", self.shards, dataset=options.dataset)
        classes = self.train.classes
        held_out = (
            open_images(options.data, "val", self.shards, dataset=options.dataset, classes=classes)
            if options.val is None
            else open_held_out(options.val, self.shards, classes)
        )
        self._note(self.train, held_out)
        self.resize = options.resize_size or resize_size(options.image_size)
        self.held_out = EvalViews(held_out, options.image_size, self.resize)
        self.views = self._views()
        return classes

    def _open_several_labels(self) -> tuple[str, ...]:
        """COCO's layout: held-out images are stretched to the square, as published."""
        options, size = self.options, self.options.image_size
        if options.resize_size is not None:
            raise InputError("--resize-size: images of several labels are resized to IMAGE_SIZE, not cropped")
        if options.unlabelled is not None:
            raise InputError("--unlabeled is for images with one label")
        train, said = open_multi_label(options.data, "train", dataset=options.dataset)
        held_out, said_of_held_out = open_multi_label(
            options.val or options.data, "val", dataset=options.dataset, classes=train.classes
        )
        distractors, said_of_distractors = open_distractors(train, options.negative_images)
        self.notes += [*said, *said_of_held_out, *said_of_distractors]
        self.held_out = StretchedViews(held_out, size)
        self.views = MultiLabelGridViews(train, size, distractors)
        return train.classes

    def _note(self, *lists: ImageList) -> None:
        self.notes += [note for images in lists if isinstance(images, ShardList) for note in images.notes]

    def _views(self) -> TrainViews:
        options, size = self.options, self.options.image_size
        if options.method == "grid":
            if isinstance(self.train, ShardList) and self.train.remote:
                raise InputError(
                    f"{options.data}: grid draws images of all shards in every step; copy them here"
                )
            return GridViews(self.train, size, self.resize)
        if options.method == "sgc" and not options.unlabelled:
            masks = self._masks(self.train)
            return SaliencyViews(masks.images, size, self.resize, masks)
        if options.method == "energy":
            return BoxViews(self.train, size, self.resize, self._boxes(self.train))
        return TrainViews(self.train, size, self.resize)

    def _boxes(self, images: ImageList) -> Boxes:
        options = self.options
        boxes = read_training_boxes(images, options.boxes)
        if options.boxes_share < 100:
            boxes = share_of_boxes(images, boxes, options.boxes_share, options.seed)
        boxed = sum(images.path(index) in boxes for index in range(len(images)))
        used = "have boxes" if options.boxes_share == 100 else "are used with their boxes"
        self.notes.append(f"{boxed} of {len(images)} training images {used}")
        return boxes

    def _masks(self, images: ImageList) -> SaliencyMasks:
        options = self.options
        source: MaskFolder | RegionMasks
        if options.saliency == Path("boxes"):
            if isinstance(images, ShardList):
                raise InputError(f"{images.root}: --saliency boxes takes image files, not shards")
            boxes = self._boxes(images)
            source = RegionMasks(as_boxed_images(images, boxes), images, options.image_size, self.resize)
            self.notes.append("masks are the annotated boxes: this run is told where objects are")
        else:
            folder = options.saliency or options.data / "saliency"
            source = MaskFolder(folder, images, options.image_size, self.resize)
        masks = SaliencyMasks(source, images, missing=options.missing_mask)
        self.notes += masks.notes
        self.masks = masks.origin
        return masks

    def _paired(self, labelled: ViewLoader) -> PairedLoader:
        options = self.options
        if options.method not in ("cgc", "sgc"):
            raise InputError(f"--unlabeled is for the methods cgc and sgc, not for {options.method}")
        assert options.unlabelled is not None
        images = open_stream(options.unlabelled, self.shards, batch_size=options.batch_size)
        self._note(images)
        views: EvalViews
        if options.method == "sgc":
            masks = self._masks(images)
            views = SaliencyQueries(masks.images, options.image_size, self.resize, masks)
            images = masks.images
        else:
            views = EvalViews(images, options.image_size, self.resize)
        stream = unlabelled_order(images, options.seed)
        self.notes.append(f"{len(self.train)} labelled and {len(images)} unlabelled images")
        return PairedLoader(labelled, self._loader(views, stream))

    def _loader(self, views: EvalViews, order: SeededSampler, *, uneven: bool = False) -> ViewLoader:
        """Batches of the options' size, or of several processes this one's part of each."""
        options, sharers = self.options, self.processes
        views.decoder = options.decoder
        batch_size = options.batch_size
        sampler: SeededSampler | ShareOfBatches = order
        if sharers is not None:
            sampler = ShareOfBatches(order, batch_size, sharers.rank, sharers.size, uneven=uneven)
            batch_size //= sharers.size
        if options.decoder == "gpu":
            return DeviceLoader(
                views, sampler, batch_size=batch_size, workers=options.workers, device=self.device
            )
        pin_memory = self.device.type == "cuda"
        return make_loader(
            views, sampler, batch_size=batch_size, workers=options.workers, pin_memory=pin_memory
        )
