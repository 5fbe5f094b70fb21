"""Time of an evaluation over bare forward passes of the same network on the same views.

Localisation (Content Heatmap and both pointing games with their trivial maps, top-1) against one forward pass per
image; insertion AUC against 29 per image. The bound is the network alone: batch norm folded, channels last, views
decoded, normalised and on the device beforehand. Numerator and bound alternate in pairs.

    python3 benchmarks/evaluate.py [--device cuda] [--photos DIR] [--quick]

Without --photos, JPEGs of the sizes of photographs are drawn. With --amp bf16 both sides run in bfloat16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image

from cgc.data.boxed_views import ViewSizes, decode_views, resized, size_batches
from cgc.data.boxes import BoxedImage
from cgc.data.presets import normalise
from cgc.engine.runtime import Precision, autocast
from cgc.evaluation.options import EvaluationOptions, PerturbationOptions
from cgc.evaluation.run import evaluate
from cgc.evaluation.subject import gradcam_subject
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone
from cgc.models.folding import fold_batch_norm

# (height, width) of photographs; the first is the most frequent one of ImageNet.
PHOTO_SIZES = ((375, 500), (375, 500), (500, 375), (333, 500))


@dataclass(frozen=True)
class Setting:
    """One size of both measurements. ``steps``: forward passes of insertion, the first one included."""

    arch: str
    resize: int
    square: int
    images: int
    insertion_images: int
    batch: int
    insertion_batch: int
    localisation_bound: float = 1.1
    insertion_bound: float = 1.05
    steps: int = 28


FULL = Setting("resnet50", 448, 224, 8, 2, 4, 29)
ON_GPU = Setting("resnet50", 448, 224, 4096, 1024, 64, 512)
QUICK = Setting("resnet_tiny", 64, 48, 4, 2, 2, 4, steps=4)


def photographs(folder: Path | None, count: int, scratch: Path) -> list[BoxedImage]:
    """``count`` rows: the JPEGs of a folder over and over, or drawn ones, each with a box in the middle."""
    if folder is not None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    else:
        generator = np.random.default_rng(0)
        paths = []
        for index, (height, width) in enumerate(PHOTO_SIZES):
            coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            path = scratch / f"{index}.jpg"
            Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
            paths.append(path)
    rows = []
    for index in range(count):
        path = paths[index % len(paths)]
        # Hard links make every row an image of its own.
        link = scratch / f"row{index:06d}{path.suffix}"
        link.symlink_to(path.resolve())
        with Image.open(path) as image:
            width, height = image.size
        box = np.array([[width // 4, height // 4, 3 * width // 4, 3 * height // 4]], dtype=np.int64)
        rows.append(BoxedImage(link, index % 1000, box, False, (height, width)))
    return rows


def bare_forwards(
    model: GradCAMModel, batches: Sequence[torch.Tensor], device: str, precision: Precision
) -> Callable[[], object]:
    """The network alone, on views that are ready."""

    def work() -> None:
        with torch.no_grad(), autocast(torch.device(device), precision):
            for batch in batches:
                model.backbone(batch)

    return work


def views(rows: Sequence[BoxedImage], resize: int, batch: int, device: str) -> list[torch.Tensor]:
    """Normalised full views in the batches that the evaluation makes."""
    sizes = [resized(row.size, resize) for row in rows]
    batches = []
    for indices in size_batches(sizes, batch, [row.size for row in rows]):
        images = [
            decode_views(rows[i].path, rows[i].size, ViewSizes(shorter_side=resize)).full for i in indices
        ]
        stacked = torch.stack([image for image in images if image is not None]).permute(0, 3, 1, 2)
        batches.append(normalise(stacked.to(device)))
    return batches


def measure(
    title: str,
    works: dict[str, Callable[[], object]],
    images: int,
    bound: float,
    repeats: int,
    device: str,
) -> None:
    times = common.interleaved(works, repeats, device, warmup=1)
    print(title)
    for name, values in times.items():
        per_image = [value / images for value in values]
        rate = 1 / common.quartiles(per_image)[1]
        print(f"  {name:<16}{common.spread(per_image)} per image, {rate:.1f} images/s")
    ratio, low, high = common.ratio_interval(times["evaluation"], times["bare forwards"])
    print(f"  ratio: {common.verdict(ratio, bound)}, 95 % interval [{low:.3f}, {high:.3f}]")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--only", choices=("localisation", "insertion"))
    own, rest = parser.parse_known_args(argv)
    options = common.parse_arguments(__doc__, rest)
    on_gpu = options.device.startswith("cuda")
    setting = QUICK if options.quick else ON_GPU if on_gpu else FULL
    workers = own.workers if own.workers is not None else 16 if on_gpu else 0
    repeats = options.repeats or (2 if options.quick else 3 if on_gpu else 10)
    torch.manual_seed(0)
    backbone = fold_batch_norm(build_backbone(setting.arch, 1000)).to(options.device)
    model = GradCAMModel(backbone.to(memory_format=torch.channels_last)).eval()
    subject = gradcam_subject(model)
    print(f"{common.machine(options.device)}, {workers} loading processes, precision {own.amp}")
    with tempfile.TemporaryDirectory() as scratch:
        rows = photographs(own.photos, setting.images, Path(scratch))

        def evaluation(metrics: Sequence[str], count: int, batch: int) -> Callable[[], object]:
            asked = EvaluationOptions(
                metrics,
                input_resize=setting.resize,
                batch_size=batch,
                workers=workers,
                perturbation=PerturbationOptions(side=setting.square, steps=setting.steps),
                trivial_images=0,
                precision=own.amp,
            )
            return lambda: evaluate(subject, rows[:count], asked, device=options.device)

        if own.only != "insertion":
            ready = views(rows[: 4 * setting.batch], setting.resize, setting.batch, options.device)
            times = max(1, setting.images // sum(map(len, ready)))
            measure(
                f"{setting.arch}, {setting.resize} px, batch {setting.batch}: CH, PG, SPG and top-1",
                {
                    "evaluation": evaluation(("ch", "pg", "spg", "top1"), setting.images, setting.batch),
                    "bare forwards": bare_forwards(model, ready * times, options.device, own.amp),
                },
                setting.images,
                setting.localisation_bound,
                repeats,
                options.device,
            )
        if own.only != "localisation":
            count, batch = setting.insertion_images, setting.insertion_batch
            forwards = count * (setting.steps + 1)
            square = torch.randn(
                min(batch, forwards), 3, setting.square, setting.square, device=options.device
            )
            square = square.to(memory_format=torch.channels_last)
            ready = [square] * (forwards // len(square))
            ready += [square[: forwards % len(square)]] if forwards % len(square) else []
            measure(
                f"{setting.arch}, {setting.square} px: insertion AUC against {setting.steps + 1} forwards per image",
                {
                    "evaluation": evaluation(("insertion",), count, batch),
                    "bare forwards": bare_forwards(model, ready, options.device, own.amp),
                },
                count,
                setting.insertion_bound,
                repeats,
                options.device,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
