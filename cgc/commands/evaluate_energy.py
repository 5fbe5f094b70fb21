"""`evaluate_gradcam_energy_inside_bbox.py`: top-1, Content Heatmap and both pointing games of a
checkpoint.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from cgc.commands import energy_report
from cgc.commands.options import Parser, non_negative_int, positive_float, positive_int, run_command
from cgc.data.boxes import BoxedImages, open_boxes
from cgc.data.decode import decode_rgb
from cgc.data.specs import DATASETS
from cgc.engine.localisation import Evaluation, ImageScore, evaluate_localisation, summarise
from cgc.engine.runtime import evaluating, pick_device
from cgc.errors import InputError, RunError
from cgc.metrics.pointing_game import EVALUATED_SIDE, SMALL_SIDE, TOLERANCE
from cgc.models.loading import load_model
from cgc.report.overlays import overlay_panel

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Options:
    """The command line, typed."""

    data: Path
    arch: str | None
    workers: int
    batch_size: int
    pretrained: bool
    resume: Path | None
    dataset: str | None
    input_resize: int
    device: str | None
    num_gpus: int | None
    classes: Path | None
    weighting: Literal["elementwise", "channel"]
    out: Path | None
    tolerance: float | None
    zero_maps: str
    save_overlays: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the evaluator; 0, or 2 for input that cannot be used, 1 for a run that failed (one line on
    stderr).
    """
    options = Options(**vars(build_parser().parse_args(argv)))
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    """Options of the published evaluators with their defaults, and ours."""
    parser = Parser(
        prog="evaluate_gradcam_energy_inside_bbox.py",
        description="Score Grad-CAM heatmaps against boxes, in per cent, beside maps that know nothing.",
    )
    add = parser.add_argument
    add("data", type=Path, help="val/ with annotation/ (VOC XML), or tiny-imagenet or CUB as distributed")
    add("-a", "--arch", help="architecture; may be left out if the checkpoint names it")
    add("-j", "--workers", type=non_negative_int, default=4, metavar="N", help="loading processes (4)")
    add("-b", "--batch-size", type=positive_int, default=16, metavar="N", help="images of one size (16)")
    add("--pretrained", action="store_true", help="torchvision's ImageNet weights")
    add("--resume", type=Path, metavar="FILE", help="checkpoint to score")
    add("--dataset", choices=sorted(DATASETS), help="expect this dataset's folders and number of classes")
    resize = "shorter side of the images, no crop (448)"
    add("--input_resize", "--input-resize", type=positive_int, default=448, metavar="PX", help=resize)
    add("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("-g", "--num-gpus", type=non_negative_int, metavar="N", help="0: CPU; one GPU is used otherwise")
    listing = "training folder or text file with the class names in order (DATA/train, else ImageNet's)"
    add("--classes", type=Path, metavar="PATH", help=listing)
    add("--weighting", choices=("elementwise", "channel"), default="elementwise", help="kind of Grad-CAM")
    add("--out", type=Path, metavar="FILE.json", help="summary; one CSV row per image beside it")
    small = f"{TOLERANCE:g} · side / {EVALUATED_SIDE} where the shorter side is below {SMALL_SIDE}"
    add(
        "--tolerance",
        type=positive_float,
        metavar="PX",
        help=f"of the pointing games ({TOLERANCE:g}; {small})",
    )
    add("--zero-maps", choices=("skip", "uniform"), default="skip", help="images whose map is all zero")
    add(
        "--save-overlays",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="PNGs of N images, evenly spread",
    )
    return parser


def run(options: Options) -> int:
    """Evaluate, print, write.

    Raises:
        InputError: data, classes, checkpoint, device or output path cannot be used.
        RunError: not one image could be scored, or a result could not be written.
    """
    device = pick_device("cpu" if options.num_gpus == 0 else options.device)
    overlays = _overlay_folder(options)
    _check_output(options.out)
    found = open_boxes(options.data, classes=options.classes, dataset=options.dataset)
    if options.pretrained and options.resume is None and len(found.classes) != _IMAGENET_CLASSES:
        raise InputError(f"--pretrained has ImageNet's 1000 classes, {options.data} has {len(found.classes)}")
    model = load_model(
        options.arch,
        options.resume,
        len(found.classes),
        pretrained=options.pretrained,
        image_size=options.input_resize,
    )
    with evaluating(model.to(device)):
        result = evaluate_localisation(
            partial(model.explain, weighting=options.weighting),
            found.images,
            input_resize=options.input_resize,
            batch_size=options.batch_size,
            workers=options.workers,
            device=device,
            tolerance=options.tolerance,
            zero_maps=options.zero_maps,
            on_map=_overlay_writer(found, overlays, options.save_overlays),
            progress=True,
        )
    _report(options, found, result, device)
    return 0


def _report(options: Options, found: BoxedImages, result: Evaluation, device: torch.device) -> None:
    for index, reason in result.failed:
        kind = "logits or map not finite" if reason.startswith("logits") else "unreadable image"
        found.skip(kind, f"{found.images[index].path}: {reason}")
    if not result.scores:
        first = next(iter(found.skipped.values()))[0]
        raise RunError(f"not one of {len(found.images)} images could be scored; the first: {first}")
    summary = summarise(result.scores)
    print(
        f"{options.resume or 'ImageNet weights'} on {options.data} "
        f"({found.layout}, {len(found.classes)} classes), "
        f"shorter side {options.input_resize} px, {options.weighting} Grad-CAM of the label, {device}\n"
    )
    print(energy_report.table(summary) + "\n")
    print("\n".join(energy_report.notes(summary, found, result.scores, options.zero_maps)))
    if options.out is not None:
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items()}
        content = energy_report.summary_json(summary, found, result.scores, plain | {"device": str(device)})
        try:
            rows = energy_report.write(options.out, content, found, result.scores, options.data)
        except OSError as error:
            raise RunError(f"{options.out} cannot be written: {error.strerror}") from error
        print(f"written: {options.out} and {rows}")
    if options.save_overlays:
        print(f"overlays: {_overlay_folder(options)}")


def _check_output(out: Path | None) -> None:
    if out is None:
        return
    if out.suffix.lower() != ".json":
        raise InputError(f"--out {out}: must end in .json (the rows go to the .csv beside it)")
    _make_folder(out.parent)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to")


def _overlay_folder(options: Options) -> Path:
    folder = options.out.with_name(f"{options.out.stem}_overlays") if options.out else Path("overlays")
    if options.save_overlays:
        _make_folder(folder)
    return folder


def _overlay_writer(
    found: BoxedImages, folder: Path, count: int
) -> Callable[[ImageScore, Tensor], None] | None:
    """Draws the rows of `count` images spread evenly over the list, as they come."""
    if not count:
        return None
    spread = np.linspace(0, len(found.images) - 1, min(count, len(found.images)))
    chosen = set(spread.round().astype(int).tolist())

    def draw(row: ImageScore, map_hw: Tensor) -> None:
        if row.index not in chosen:
            return
        image = found.images[row.index]
        ch = "zero map" if row.zero_map else f"CH {100 * cast(float, row.model.ch):.1f} %"
        said = f"{found.classes[row.prediction]} {100 * row.confidence:.0f} %"
        caption = f"{ch}   is: {found.classes[row.label]}   said: {said}"
        panel = overlay_panel(decode_rgb(image.path), map_hw, image.boxes, caption)
        panel.save(folder / f"{row.index:06d}_{image.path.stem}.png")

    return draw
