"""`python -m cgc saliency-masks DATA --weights u2net.pth`: the saliency masks that SGC trains with, made once.

Shapes: N images of a batch, seen by the network as (h, w); a mask has the size of what was seen, or (H, W) its image's.

SGC's masks are a function of image and weights. By default the network sees what the published training showed it, the
224×224 query view, and the map of that view is what is stored: above ½ of its range is the foreground that the released
code finds anew for every sample it loads. Such files are small, and serve training at any size that crops the same part
of the image. A map of the whole image would be another one even inside the crop, since the network looks at all of its
input at once; ``--view image`` makes such masks for other uses, with the image at the scale of its query view.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cgc.commands.options import Parser, non_negative_int, positive_int, run_command
from cgc.data.boxed_views import resized, size_batches
from cgc.data.decode import UnreadableImage, decode_data
from cgc.data.folders import ImageList, open_split
from cgc.data.image_headers import NoSize, header_sizes
from cgc.data.presets import normalise, resize_size
from cgc.data.saliency_files import MadeBy, View
from cgc.data.saliency_writer import MaskWriter
from cgc.data.shards.folders import refuse_shards
from cgc.data.unlabelled import open_unlabelled
from cgc.data.views import query_view
from cgc.data.workers import worker_options
from cgc.engine.runtime import StopRequest, bar_interval, in_parallel, pick_device
from cgc.engine.transfer import to_device
from cgc.errors import InputError, RunError
from cgc.models.u2net import U2Net, load_u2net, weights_digest

_NAMED = 20  # unreadable images that are named


def main(argv: Sequence[str] | None = None) -> int:
    """Make the masks of a split; 0, 2 for input that cannot be used, 1 if that failed, 128 + n if stopped."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc saliency-masks",
        description="Saliency masks of a split's images by U²-Net, as grey PNG files; what is there already is kept.",
    )
    add = parser.add_argument
    add("data", type=Path, help="dataset folder")
    add("--weights", type=Path, required=True, metavar="FILE", help="u2net.pth or u2netp.pth")
    add("--out", type=Path, metavar="DIR", help="folder of masks (DATA/saliency)")
    add("--split", choices=("train", "val"), default="train", help="(default: %(default)s)")
    unlabelled = "DATA is images at any depth, as train's --unlabeled takes them; needs --out"
    add("--unlabeled", "--unlabelled", dest="unlabelled", action="store_true", help=unlabelled)
    add("-b", "--batch-size", type=positive_int, default=32, help="(default: %(default)s)")
    add("-j", "--workers", type=non_negative_int, default=4, help="loader processes (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, … (default: GPUs if there are any)")
    add(
        "--view", choices=get_args(View), default="query", help="mask the query view, or whole images (query)"
    )
    add("--size", type=positive_int, default=224, help="side of the query view that the network sees (224)")
    add("--resize-size", type=positive_int, help="shorter side before the centre crop (SIZE × 256/224)")
    add("--replace", action="store_true", help="make masks of other weights or another view anew")
    return parser


def run(options: argparse.Namespace) -> int:
    """Make the masks that are not there.

    Raises InputError for bad weights, data or folders, and for masks that this would overwrite; RunError if not one
    image can be read; OSError if a mask cannot be written.
    """
    resize = options.resize_size or resize_size(options.size)
    if resize < options.size:
        raise InputError(f"cannot crop {options.size} px from images resized to {resize} px")
    device = pick_device(options.device)
    refuse_shards(options.data)
    if options.unlabelled and options.out is None:
        # Below DATA the masks would be taken for images.
        raise InputError("--unlabeled needs --out, a folder that is not below DATA")
    images = open_unlabelled(options.data) if options.unlabelled else open_split(options.data, options.split)
    network = load_u2net(options.weights)
    made = MadeBy(network.size, weights_digest(network), options.view, options.size, resize)
    folder = (options.out or options.data / "saliency") / images.root.name
    masks = MaskWriter(folder, images, made, replace=options.replace)
    stop, start = StopRequest(), time.perf_counter()
    with stop.listening(), masks:
        make_masks(masks, network, device, batch_size=options.batch_size, workers=options.workers, stop=stop)
    rate = len(masks.written) / (time.perf_counter() - start)
    kept = len(images) - len(masks.to_make)
    print(
        f"{folder}: {len(masks.written)} masks made ({rate:.1f} images/s), {kept} kept, "
        f"{len(masks.unreadable)} images unreadable"
    )
    for line in masks.unreadable[:_NAMED]:
        print(f"  {line}", file=sys.stderr)
    if len(masks.unreadable) > _NAMED:
        print(f"  … and {len(masks.unreadable) - _NAMED} more", file=sys.stderr)
    if stop:
        print("stopped; the same command makes the rest", file=sys.stderr)
        return stop.exit_status
    if not masks.written and not kept:
        raise RunError(f"{images.root}: not one image could be read")
    return 0


class _Item(NamedTuple):
    number: int
    view_hw3: Tensor | None  # uint8
    size: tuple[int, int]  # of the image
    problem: str


class _Views(Dataset[_Item]):
    """What the network sees of each image; `problem` says why it sees nothing."""

    def __init__(self, images: ImageList, made: MadeBy) -> None:
        self.images, self.made = images, made

    def __getitem__(self, index: int) -> _Item:
        try:
            image = decode_data(self.images.read(index), self.images.path(index))
        except UnreadableImage as error:
            return _Item(index, None, (0, 0), str(error))
        size = image.height, image.width
        if self.made.view == "query":
            image = query_view(image, self.made.size, self.made.resize)
        else:
            height, width = resized(size, self.made.resize)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return _Item(index, torch.from_numpy(np.array(image)), size, "")


def _loader(masks: MaskWriter, batch_size: int, workers: int) -> DataLoader[_Item]:
    """Lists of items whose views have one size, of the images whose masks are to be made."""
    images, made, to_make = masks.images, masks.made, masks.to_make
    sizes = [(made.size, made.size)] * len(to_make)
    if made.view == "image":
        headers = header_sizes([images.path(i) for i in to_make])
        # A size of its own for what has none: decoding it, alone, will say what is wrong.
        sizes = [
            (0, i) if isinstance(size, NoSize) else resized(size, made.resize)
            for i, size in enumerate(headers)
        ]
    return DataLoader(
        _Views(images, made),
        batch_sampler=[[to_make[i] for i in batch] for batch in size_batches(sizes, batch_size)],
        **worker_options(workers),
        collate_fn=list,
        generator=torch.Generator(),  # else it would draw from the global one
    )


class _Maps(nn.Module):
    """uint8 views (N, 3, h, w) to saliency (N, h, w) in [0, 1]."""

    def __init__(self, network: U2Net) -> None:
        super().__init__()
        self.network = network

    def forward(self, views_N3hw: Tensor) -> Tensor:
        return self.network.saliency(normalise(views_N3hw))


@torch.inference_mode()
def make_masks(
    masks: MaskWriter,
    network: U2Net,
    device: torch.device,
    *,
    batch_size: int,
    workers: int,
    stop: StopRequest | None = None,
) -> None:
    """Make the masks that ``masks`` lacks, on all GPUs if none is picked; ``stop`` ends it after a batch."""
    loader = _loader(masks, batch_size, workers)
    maps = in_parallel(_Maps(network).to(device).to(memory_format=torch.channels_last), device)
    whole = masks.made.view == "image"
    with tqdm(total=len(masks.to_make), unit="image", mininterval=bar_interval()) as bar:
        for items in loader:
            seen = [item for item in items if item.view_hw3 is not None]
            if seen:
                views_N3hw = torch.stack([item.view_hw3 for item in seen]).permute(0, 3, 1, 2)
                maps_Nhw = maps(to_device(views_N3hw, device))
                masks.settle()  # the masks of the batch before, written while the network was busy
                for item, map_hw in zip(seen, maps_Nhw, strict=True):
                    grey_HW = _grey(_at_size(map_hw, item.size) if whole else map_hw)
                    masks.write(item.number, grey_HW.cpu().numpy())
            for item in items:
                if item.view_hw3 is None:
                    masks.fail(item.number, item.problem)
            bar.update(len(items))
            if stop:
                break
        masks.settle()


def _at_size(map_hw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(map_hw[None, None], size, mode="bilinear", align_corners=False, antialias=True)[0, 0]


def _grey(map_hw: Tensor) -> Tensor:
    """uint8; above 127 is exactly what is above ½."""
    return (map_hw * 255 - 0.5).ceil().clamp(0, 255).to(torch.uint8)
