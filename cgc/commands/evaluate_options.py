"""The command line of every evaluation, typed."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cgc.commands.config import add_config, apply_config, check_config, config_of
from cgc.commands.evaluate_presets import PRESETS, Preset, Weighting
from cgc.commands.options import (
    Parser,
    non_negative_int,
    positive_float,
    positive_int,
    seed,
)
from cgc.commands.run_folders import find_checkpoint
from cgc.data.boxes import BOXED_DATASETS
from cgc.data.specs import DATASETS
from cgc.engine.runtime import Precision
from cgc.errors import InputError
from cgc.evaluation.options import METRICS, Baseline
from cgc.explainers import EXPLAINERS
from cgc.metrics.pointing_game import EVALUATED_SIDE, SMALL_SIDE, TOLERANCE

_BASELINES = ("blur", "zero", "mean")


@dataclass(frozen=True)
class Options:
    """The command line, typed."""

    data: Path
    checkpoint: Path | None
    arch: str | None
    pretrained: bool
    maxpool: bool
    dataset: str | None
    split: str | None
    year: int | None
    regions: Literal["boxes", "masks"]
    classes: Path | None
    class_map: Path | None
    download: bool
    images: int | None
    metrics: tuple[str, ...] | None
    input_resize: int
    tolerance: float | None
    zero_maps: str
    spg_samples: int | None
    insertion_size: int
    insertion_baseline: Baseline
    deletion_baseline: Baseline
    steps: int
    trivial_images: int
    temperature: float
    image_size: int
    resize_size: int | None
    explainer: str
    weighting: Weighting
    layer: str | None
    rise_masks: int
    maps: Path | None
    stretch_maps: bool
    workers: int
    batch_size: int
    device: str | None
    num_gpus: int | None
    amp: Precision
    seed: int
    bootstrap: int
    out: Path | None
    save_maps: Path | None
    save_overlays: int


def metric_list(text: str) -> tuple[str, ...]:
    """Names separated by commas, in the order of the table."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"unknown metric {unknown[0] if unknown else text!r}; there are: {', '.join(METRICS)}"
        )
    return tuple(name for name in METRICS if name in names)


def parse(argv: Sequence[str] | None, preset: Preset) -> Options:
    """The options of one command; a wrong command line ends the program with status 2."""
    parser = build_parser(preset)
    recorded: dict[str, Any] = {}
    try:
        path, content = config_of(argv)
        if path is not None:
            recorded = _settings(content)
            apply_config(parser, path, {"inputs": [], **recorded}, apart=(*_APART, "checkpoint", "data"))
    except InputError as error:
        parser.error(str(error))
    arguments = parser.parse_args(argv)
    check_config(parser, arguments, path)
    given = vars(arguments)
    inputs: list[Path] = given.pop("inputs")
    resume: Path | None = given.pop("resume")
    named: Path | None = given.pop("named_data", None)
    if named is None and preset.data_option and not inputs and os.environ.get("IMAGENET_DIR"):
        named = Path(os.environ["IMAGENET_DIR"])
    inputs += [named] if named is not None else []
    if not inputs and recorded.get("data"):
        inputs = [Path(str(recorded["data"]))]
    if resume is None and len(inputs) == 1 and recorded.get("checkpoint"):
        resume = Path(str(recorded["checkpoint"]))
    if not inputs:
        parser.error("no data: name the folder, with --data DIR or in $IMAGENET_DIR")
    if len(inputs) > 2:
        parser.error(f"expected [CHECKPOINT] DATA, got {len(inputs)} paths")
    if len(inputs) == 2 and resume is not None:
        parser.error(f"two checkpoints: {inputs[0]} and --resume {resume}")
    checkpoint = inputs[0] if len(inputs) == 2 else resume
    # A folder is a run's. Path.is_dir would fail on a name that is too long.
    if checkpoint is not None and os.path.isdir(checkpoint):
        try:
            checkpoint = find_checkpoint(checkpoint)
        except InputError as error:
            parser.error(str(error))
    return Options(data=inputs[-1], checkpoint=checkpoint, **given)


# What a summary's settings have beside the options, and what an evaluation leaves behind.
_APART = ("torch", "device", "out", "save_maps", "save_overlays")


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a summary, or any options."""
    settings = content.get("settings", content)
    return dict(settings) if isinstance(settings, dict) else {"settings": settings}


def build_parser(preset: Preset) -> argparse.ArgumentParser:
    """Options of the published evaluators with their defaults, and ours."""
    usage = f"{preset.prog} [CHECKPOINT] DATA [options]"
    parser = Parser(prog=preset.prog, usage=usage, description=preset.description)
    _add_inputs(parser, preset)
    _add_data(parser.add_argument_group("data"), preset)
    _add_metrics(parser.add_argument_group("metrics"), preset)
    _add_explainers(parser.add_argument_group("heatmaps"), preset)
    _add_running(parser.add_argument_group("running"))
    return parser


def _add_inputs(parser: argparse.ArgumentParser, preset: Preset) -> None:
    add = parser.add_argument
    layouts = "folder with images and annotations; the checkpoint may stand before it"
    nargs = "*" if preset.data_option else "+"
    add("inputs", type=Path, nargs=nargs, metavar="DATA", help=layouts)
    if preset.data_option:
        add("--data", dest="named_data", type=Path, metavar="DIR", help="the same ($IMAGENET_DIR)")
    add("--resume", "--ckpt-path", type=Path, metavar="FILE", help="checkpoint to score")
    known = f"; of --pretrained {preset.arch}" if preset.arch else ""
    add("-a", "--arch", help=f"architecture, or timm:NAME; may be left out if the checkpoint tells{known}")
    add("--pretrained", action="store_true", help="ImageNet weights, downloaded")
    add("--maxpool", action="store_true", help="global max pooling before the classifier (GC's GMP models)")


def _add_data(group: argparse._ArgumentGroup, preset: Preset) -> None:
    add = group.add_argument
    names = sorted({*DATASETS, *BOXED_DATASETS})
    add("--dataset", choices=names, default=preset.dataset, metavar="NAME", help=f"one of {', '.join(names)}")
    add("--split", help="which annotated images, where there are several (held-out ones)")
    add("--year", type=positive_int, help="which year, where there are several (COCO, VOC)")
    region = "what an object's region is, where both are annotated (%(default)s)"
    add("--regions", choices=("boxes", "masks"), default=preset.regions, help=region)
    listing = "training folder or text file with the class names in order (DATA/train, else by the names)"
    add("--classes", type=Path, metavar="PATH", help=listing)
    mapping = "file that maps the data's categories to ImageNet classes (UnRel)"
    add("--class-map", type=Path, metavar="FILE", help=mapping)
    add("--download", action="store_true", help="fetch the dataset into DATA first (pets, aircraft, VOC)")
    add("--images", type=positive_int, metavar="N", help="only N images, evenly spread over the list")


def _add_metrics(group: argparse._ArgumentGroup, preset: Preset) -> None:
    add = group.add_argument
    default = ",".join(preset.metrics or ()) or "ch,pg,spg,top1; of several labels per image f1"
    add(
        "--metrics",
        type=metric_list,
        default=preset.metrics,
        metavar="LIST",
        help=f"of {','.join(METRICS)} ({default})",
    )
    resize = "shorter side of the images, no crop (448)"
    add("--input_resize", "--input-resize", type=positive_int, default=448, metavar="PX", help=resize)
    small = f"{TOLERANCE:g} · side / {EVALUATED_SIDE} where the shorter side is below {SMALL_SIDE}"
    tolerance = f"of the pointing games ({TOLERANCE:g}; {small})"
    add("--tolerance", type=positive_float, metavar="PX", help=tolerance)
    zero = "rows whose map is all zero: leave them out, or count them as uniform (skip)"
    add("--zero-maps", choices=("skip", "uniform"), default="skip", help=zero)
    samples = "draw so many points for the stochastic pointing game, 100 as published (its exact expectation)"
    add("--spg-samples", type=positive_int, metavar="N", help=samples)
    size = "side of the square images of insertion and deletion (224)"
    add("--insertion-size", type=positive_int, default=224, metavar="PX", help=size)
    add("--insertion-baseline", choices=_BASELINES, default="blur", help="where insertion starts (blur)")
    add("--deletion-baseline", choices=_BASELINES, default="zero", help="where deletion ends (zero)")
    add(
        "--steps",
        type=positive_int,
        default=28,
        metavar="N",
        help="equal steps of insertion and deletion (28)",
    )
    trivial = "images on which trivial maps are inserted and deleted too, evenly spread (100)"
    add("--trivial-images", type=non_negative_int, default=100, metavar="N", help=trivial)
    add("-t", "--temperature", type=positive_float, default=0.5, help="τ of the consistency (0.5)")
    add(
        "--image-size",
        type=positive_int,
        default=224,
        metavar="PX",
        help="side of consistency's centre crop (224)",
    )
    shorter = "shorter side before that crop (IMAGE_SIZE × 256/224)"
    add("--resize-size", type=positive_int, metavar="PX", help=shorter)
    draws = "resamples of the images for the 95 %% intervals, 0: none (1000)"
    add("--bootstrap", type=non_negative_int, default=1000, metavar="N", help=draws)


def _add_explainers(group: argparse._ArgumentGroup, preset: Preset) -> None:
    add = group.add_argument
    names = ", ".join(EXPLAINERS)
    add("--explainer", choices=tuple(EXPLAINERS), default=preset.explainer, metavar="NAME",
        help=f"one of {names} (%(default)s)")  # fmt: skip
    weighting = "kind of Grad-CAM (%(default)s)"
    add("--weighting", choices=("elementwise", "channel"), default=preset.weighting, help=weighting)
    add("--layer", metavar="NAME", help="layer to explain, e.g. layer3 (the last one before pooling)")
    add("--rise-masks", type=positive_int, default=4000, metavar="N", help="masks per image of RISE (4000)")
    stored = "score the maps in this folder (.npz, .npy, PNG) instead of a model's"
    add("--maps", type=Path, metavar="DIR", help=stored)
    stretch = "accept maps of another aspect ratio than their image's, stretched"
    add("--stretch-maps", action="store_true", help=stretch)


def _add_running(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-j", "--workers", type=non_negative_int, default=4, metavar="N", help="loading processes (4)")
    add("-b", "--batch-size", type=positive_int, default=16, metavar="N", help="images of one size (16)")
    add("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    gpus = "0: CPU; with torchrun every process takes one GPU, else one is used"
    add("-g", "--num-gpus", type=non_negative_int, metavar="N", help=gpus)
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision (off)")
    add("--seed", type=seed, default=0, help="of random maps, drawn points, masks and intervals (0)")
    add_config(group, "the summary of an earlier evaluation")
    add("--out", type=Path, metavar="FILE.json", help="summary; one CSV row per image beside it")
    add("--save-maps", type=Path, metavar="DIR", help="write every map, one .npz per image")
    overlays = "PNGs of N images, evenly spread"
    add("--save-overlays", type=non_negative_int, default=0, metavar="N", help=overlays)


def plain(options: Options) -> dict[str, object]:
    """The options as JSON takes them."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


__all__ = ["PRESETS", "Options", "build_parser", "parse", "plain"]
