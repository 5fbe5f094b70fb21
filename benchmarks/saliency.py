"""Images per second of `python -m cgc saliency-masks`, over bare forward passes of the same network.

A turn makes the masks of all images into a fresh folder: decoding, the query view, U²-Net, grey PNG files and the
manifest. The bound is the network alone, in the same batches, on views that are normalised and on the device
beforehand. Both alternate in pairs. Weights are random, which changes no time: the official ones have the same shapes.

    python3 benchmarks/saliency.py [--device cuda] [--photos DIR] [--workers N] [--quick]

Without --photos, JPEGs of the sizes of photographs are drawn.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import torch
from evaluate import photographs

from cgc.commands.saliency_masks import make_masks
from cgc.data.decode import decode_rgb
from cgc.data.folders import ImageList, PathTable
from cgc.data.presets import normalise, resize_size
from cgc.data.saliency_files import MadeBy
from cgc.data.saliency_writer import MaskWriter
from cgc.data.views import query_view
from cgc.models.u2net import U2Net, U2NetSize


@dataclass(frozen=True)
class Setting:
    """One size of the measurement."""

    side: int
    images: int
    batch: int


FULL = Setting(224, 16, 8)
ON_GPU = Setting(224, 2048, 32)
QUICK = Setting(32, 4, 2)
SIZES: tuple[U2NetSize, ...] = ("u2netp", "u2net")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, metavar="DIR", help="JPEGs to read (default: drawn ones)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (default: %(default)s)")


def ready_batches(images: ImageList, setting: Setting, device: str) -> list[torch.Tensor]:
    """What the network sees, (N, 3, S, S) float32 each, channels last."""
    resize = resize_size(setting.side)
    views = [query_view(decode_rgb(images.path(i)), setting.side, resize) for i in range(len(images))]
    stacked = torch.from_numpy(np.stack([np.array(view) for view in views])).permute(0, 3, 1, 2)
    return [normalise(batch.to(device)) for batch in stacked.split(setting.batch)]


def works(
    network: U2Net, images: ImageList, setting: Setting, device: str, workers: int, scratch: Path
) -> dict[str, Callable[[], object]]:
    """The two kinds of a turn."""
    batches = ready_batches(images, setting, device)
    made = MadeBy(network.size, "random", "query", setting.side, resize_size(setting.side))
    turns = itertools.count()

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    def masks() -> None:
        with MaskWriter(scratch / f"{network.size}-{next(turns)}", images, made) as writer:
            make_masks(writer, network, torch.device(device), batch_size=setting.batch, workers=workers)
        if len(writer.written) != len(images):
            raise RuntimeError(f"{len(writer.written)} of {len(images)} masks were made")

    return {"masks": masks, "bare forwards": bare}


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv, add_options)
    if options.cpu_time and options.workers:
        raise SystemExit("error: --cpu-time is of this process alone; without --workers")
    setting = QUICK if options.quick else ON_GPU if options.device.startswith("cuda") else FULL
    repeats = options.repeats or (2 if options.quick else 5)
    print(f"{common.machine(options.device)}, {options.workers} loading processes")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "images").mkdir()
        rows = photographs(options.photos, setting.images, scratch / "images")
        paths = PathTable([row.path.name for row in rows])
        images = ImageList(paths, np.zeros(len(rows), dtype=np.int64), ("photograph",), scratch / "images")
        for size in SIZES:
            torch.manual_seed(0)
            network = U2Net(size).requires_grad_(False).eval().to(options.device)
            network = network.to(memory_format=torch.channels_last)
            print(
                f"{size}, random weights, {setting.side} px, {len(images)} images in batches of {setting.batch}, "
                f"float32; {repeats} interleaved turns"
            )
            turn = works(network, images, setting, options.device, options.workers, scratch)
            times = common.interleaved(turn, repeats, options.device, warmup=1)
            for name, values in times.items():
                rate = len(images) / common.quartiles(values)[1]
                print(f"  {name:<14}{common.spread(values)}, {rate:.3g} images/s")
            print(common.ratio_line("masks over bare forwards", times["masks"], times["bare forwards"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
