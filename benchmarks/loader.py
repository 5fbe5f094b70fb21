"""Time of making both views of an image over plain Pillow decoding, on one core.

    python3 benchmarks/loader.py [--photos DIR] [--quick]

DIR holds photographs at any depth; without it, JPEGs of photographs' sizes are drawn. The goal is held against what
the trainer runs: batches of `make_loader` without loading processes, from the bytes of a file to uint8 batches. The
bound is `Image.open(...).convert("RGB")` of the same files. Published training makes each view from the decoded image
by itself, as float32.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import common
import numpy as np
import PIL
import torch
from PIL import Image
from torchvision import transforms

from cgc.data.decode import decode_data, decode_pixels
from cgc.data.folders import ImageList
from cgc.data.pixels import Picture, resizes_fast, to_tensor
from cgc.data.presets import MEAN, STD, resize_size
from cgc.data.unlabelled import StreamSampler, open_unlabelled
from cgc.data.views import (
    Decoder,
    TrainViews,
    ViewLoader,
    draw_window,
    make_loader,
    query_view,
    random_view,
)

GOAL = 1.6
ON_CPU: tuple[Decoder, ...] = ("auto", "pillow")
BOUND = "Pillow decoding"
SIDE, BATCH, WORKERS = 224, 16, (0, 1)
DRAWN = ((500, 375), (375, 500), (500, 333), (640, 480), (333, 500), (1024, 768), (240, 162), (500, 500))


def draw_photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Smooth colour and noise, so that a file has about as many bytes as a photograph of its size."""
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(sizes):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noisy = smooth + rng.normal(0, 12, (height, width, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


def loader(images: ImageList, decoder: Decoder, workers: int, passes: int) -> ViewLoader:
    sampler = StreamSampler(len(images))
    sampler.set_window(0, passes * len(images))
    views = TrainViews(images, SIDE, decoder=decoder)
    return make_loader(views, sampler, batch_size=BATCH, workers=workers)


def published(size: int) -> Callable[[Image.Image], tuple[torch.Tensor, torch.Tensor]]:
    """The published transforms, in torchvision's words."""
    end = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    flip = transforms.RandomHorizontalFlip()
    xe = transforms.Compose([transforms.RandomResizedCrop(size), flip, *end])
    query = transforms.Compose([transforms.Resize(resize_size(size)), transforms.CenterCrop(size), *end])
    return lambda image: (xe(image), query(image))


def works(images: ImageList) -> dict[str, Callable[[], object]]:
    """One pass over the images each."""
    path, as_published = images.path(0), published(SIDE)
    loaders = {decoder: loader(images, decoder, 0, 1) for decoder in ON_CPU}

    def encoded() -> Iterator[bytes]:
        return (images.read(index) for index in range(len(images)))

    def pillow(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    return {
        BOUND: lambda: exhaust(pillow(data) for data in encoded()),
        "torchvision decoding": lambda: exhaust(decode_pixels(data, path) for data in encoded()),
        "both views, auto": lambda: exhaust(loaders["auto"]),
        "both views, pillow": lambda: exhaust(loaders["pillow"]),
        "views as published": lambda: exhaust(as_published(pillow(data)) for data in encoded()),
    }


def parts(images: ImageList, decoder: Decoder) -> dict[str, Callable[[], object]]:
    """What a pass with `decoder` consists of, each part alone, with what came before it at hand."""
    decode = decode_pixels if decoder == "auto" else decode_data
    path, everything = images.path(0), range(len(images))
    decoded: list[Picture] = [decode(images.read(index), path) for index in everything]
    views = TrainViews(images, SIDE, decoder=decoder)
    samples = [views[(index, index)] for index in everything]
    collate = loader(images, decoder, 0, 1).collate_fn
    generator, resize = torch.Generator(), resize_size(SIDE)
    batches = [samples[first : first + BATCH] for first in everything[::BATCH]]
    return {
        "reading": lambda: exhaust(images.read(index) for index in everything),
        "reading and decoding": lambda: exhaust(decode(images.read(index), path) for index in everything),
        "windows": lambda: exhaust(draw_window(image.size, generator) for image in decoded),
        "windows and xe": lambda: exhaust(
            to_tensor(random_view(image, SIDE, generator)) for image in decoded
        ),
        "query": lambda: exhaust(to_tensor(query_view(image, SIDE, resize)) for image in decoded),
        "collate": lambda: exhaust(collate(batch) for batch in batches),
    }


def difference(images: ImageList) -> str:
    """Mean absolute difference between the decoders' views, in grey levels, and the largest mean of an image."""
    one, other = (list(loader(images, decoder, 0, 1)) for decoder in ON_CPU)
    said = []
    for view in ("xe", "query"):
        pairs = [
            (getattr(a, view).float(), getattr(b, view).float()) for a, b in zip(one, other, strict=True)
        ]
        each_N = torch.cat([(a - b).abs().mean((1, 2, 3)) for a, b in pairs])
        said.append(f"{view} {each_N.mean():.3f} (of one image at most {each_N.max():.3f})")
    return f"  difference of the decoders' views in grey levels: {', '.join(said)}"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=Path, help="folder of photographs (default: drawn ones)")


def report(images: ImageList, repeats: int, passes: int) -> None:
    megabytes = sum(len(images.read(index)) for index in range(len(images))) / 1e6
    print(
        f"{len(images)} images, {megabytes / len(images):.3f} MB each on average; views of {SIDE} px, batch "
        f"{BATCH}; {repeats} interleaved turns; milliseconds per image"
    )
    if not resizes_fast():
        print("  torch has no vector instructions here: auto is pillow")

    def per_image(values: Sequence[float]) -> list[float]:
        return [value / len(images) for value in values]

    times = common.interleaved(works(images), repeats)
    for name, values in times.items():
        print(f"  {name:<22}{common.spread(per_image(values))}")
    print(
        common.ratio_line(
            "both views, auto, over Pillow decoding", times["both views, auto"], times[BOUND], GOAL
        )
    )
    for name in ("both views, pillow", "views as published"):
        print(common.ratio_line(f"{name}, over Pillow decoding", times[name], times[BOUND]))
    for decoder in ON_CPU:
        profile = common.interleaved(parts(images, decoder), max(1, repeats // 2))
        shares = (f"{name} {1e3 * common.quartiles(per_image(v))[1]:.3f}" for name, v in profile.items())
        print(f"  {decoder}: {', '.join(shares)} ms")
    print(difference(images))
    if common.Clock.read is time.process_time:
        print("  loader: its processes' CPU time is not this one's; left out with --cpu-time")
        return
    for decoder in ON_CPU:
        loaders = {str(workers): loader(images, decoder, workers, passes) for workers in WORKERS}
        runs = {name: partial(exhaust, each) for name, each in loaders.items()}
        rates = (
            f"{workers} workers {passes * len(images) / common.quartiles(values)[1]:.0f} images/s"
            for workers, values in common.interleaved(runs, max(1, repeats // 4), warmup=1).items()
        )
        print(f"  loader, {decoder}: {', '.join(rates)}")


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv, add_options)
    torch.set_num_threads(1)  # as a loading process does
    print(f"{common.machine('cpu')}, Pillow {PIL.__version__}")
    repeats = options.repeats or (2 if options.quick else 20)
    with tempfile.TemporaryDirectory() as folder:
        if options.photos is None:
            draw_photographs(Path(folder), DRAWN[-2:] if options.quick else 4 * DRAWN)
        images = open_unlabelled(options.photos or folder)
        report(images, repeats, passes=1 if options.quick else 4)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
