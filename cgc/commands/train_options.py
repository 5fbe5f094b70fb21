"""The command line of training and validation, typed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from cgc.commands.config import apply_config, check_config, config_of
from cgc.commands.run_folders import AUTO
from cgc.commands.train_parser import build_parser
from cgc.commands.train_presets import PRESETS, WEIGHTS, MethodName, Preset
from cgc.data.views import Decoder
from cgc.engine.optim import Schedule
from cgc.engine.runtime import Precision
from cgc.errors import InputError
from cgc.losses.cgc import Anchor


@dataclass(frozen=True)
class TrainOptions:
    """The command line, typed: a field that nothing reads is a dead option."""

    data: Path
    arch: str | None
    workers: int
    batch_size: int
    epochs: int
    start_epoch: int
    lr: float
    momentum: float
    weight_decay: float
    print_freq: int
    resume: Path | None
    init: Path | None
    evaluate: bool
    pretrained: bool
    world_size: int
    rank: int
    dist_url: str | None
    dist_backend: str | None
    multiprocessing_distributed: bool
    seed: int
    gpu: int | None
    save_dir: Path | None
    log_dir: Path | None
    dataset: str | None
    temperature: float
    weight: float
    method: MethodName
    device: str | None
    amp: Precision
    schedule: Schedule
    image_size: int
    resize_size: int | None
    decoder: Decoder
    anchor: Anchor
    map_floor: float
    clip_grad_norm: float
    lambda_warmup: int
    new_head: bool
    strict: bool
    keep: int
    save_every: int
    compile: bool
    accumulate: int
    negatives: Literal["gathered", "local"]
    sync_bn: bool
    unlabelled: Path | None
    val: Path | None
    lr_last_layer: float | None
    decay_epochs: list[int]
    gamma: float
    maxpool: bool
    num_gpus: int | None
    saliency: Path | None
    missing_mask: Literal["error", "skip", "full"]
    boxes: Path | None
    boxes_share: Fraction
    negative_images: Path | None
    other_head: Literal["refuse", "initialise"]
    multi_label: bool
    shard_window: int
    shard_cache: Path | None
    shard_cache_gb: float
    shard_timeout: float
    program: str


# What `args.json` has beside the options, and where that run went.
_NO_OPTIONS = {"classes", "command", "masks", "multi_label", "other_head", "program", "versions"}
_APART = _NO_OPTIONS | {"save_dir", "log_dir", "evaluate"}


def parse(argv: Sequence[str] | None, preset: Preset) -> TrainOptions:
    """The options of a command line (default: the process's own), and of the file that its ``--config`` names."""
    parser = build_parser(preset)
    try:
        path, content = config_of(argv)
        if path is not None:
            preset = _preset_of(content, preset, path)
            parser = build_parser(preset)
            apply_config(parser, path, content, apart=_APART | _own_checkpoint(content))
    except InputError as error:
        parser.error(str(error))
    arguments = parser.parse_args(argv)
    check_config(parser, arguments, path)
    if arguments.weight is None:
        arguments.weight = WEIGHTS[arguments.method]
        arguments.weight *= arguments.image_size**2 if arguments.method == "l2" else 1
    if arguments.schedule is None:
        arguments.schedule = "multistep" if arguments.decay_epochs else preset.schedule
    arguments.decay_epochs = arguments.decay_epochs or list(preset.decay_epochs)
    if arguments.unlabelled is None and preset.unlabelled:
        arguments.unlabelled = arguments.data / "unlabeled"
    _tell_start_from_resume(parser, arguments)
    return TrainOptions(
        **vars(arguments), other_head=preset.other_head, multi_label=preset.multi_label, program=preset.prog
    )


def _tell_start_from_resume(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Weights that begin a run are ``init``, also where they were named, as published, by --resume."""
    resume = None if arguments.resume == AUTO else arguments.resume
    if arguments.init is not None and arguments.pretrained:
        parser.error(f"--init {arguments.init} and --pretrained: leave one of them out")
    if arguments.new_head and resume is not None and arguments.init is None:
        arguments.init, arguments.resume, arguments.pretrained = resume, None, False


def _preset_of(content: Mapping[str, Any], preset: Preset, path: Path) -> Preset:
    """That of the run which the file is of: any, if the program at hand is the general one."""
    made = next((p for p in PRESETS.values() if p.prog == content.get("program")), preset)
    if made is not preset and preset is not PRESETS["cgc"]:
        raise InputError(f"{path}: of {made.prog}, not of {preset.prog}")
    return made


def _own_checkpoint(content: Mapping[str, Any]) -> set[str]:
    """A run that was continued started without the checkpoint in its own folder."""
    resume, folder = content.get("resume"), content.get("save_dir")
    own = resume and folder and Path(str(resume)).resolve().parent == Path(str(folder)).resolve()
    return {"resume"} if own else set()
