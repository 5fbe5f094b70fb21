"""From the options' name of a method to the module that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from cgc.commands.train_options import TrainOptions
from cgc.data.views import ViewLoader
from cgc.engine.multi_label_validation import BEST_BY, MultiLabelStep, validate_multi_label
from cgc.engine.processes import Processes
from cgc.engine.runtime import StopRequest
from cgc.engine.validation import validate
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.methods import (
    BaselineMethod,
    CGCMethod,
    EnergyMethod,
    GridConsistencyMethod,
    Method,
    SemiSupervisedCGC,
    SemiSupervisedSGC,
    SGCMethod,
)
from cgc.methods.validation import ValidationStep

_Build = Callable[[GradCAMModel, TrainOptions], Method]


def _cgc(model: GradCAMModel, options: TrainOptions) -> Method:
    return CGCMethod(
        model,
        weight=options.weight,
        temperature=options.temperature,
        anchor=options.anchor,
        consistency="l2" if options.method == "l2" else "contrastive",
        floor=options.map_floor,
    )


def _semi_cgc(model: GradCAMModel, options: TrainOptions) -> Method:
    return SemiSupervisedCGC(
        model,
        weight=options.weight,
        temperature=options.temperature,
        anchor=options.anchor,
        floor=options.map_floor,
    )


def _sgc(model: GradCAMModel, options: TrainOptions) -> Method:
    return SGCMethod(model, weight=options.weight, temperature=options.temperature, floor=options.map_floor)


def _semi_sgc(model: GradCAMModel, options: TrainOptions) -> Method:
    return SemiSupervisedSGC(
        model, weight=options.weight, temperature=options.temperature, floor=options.map_floor
    )


METHODS: Mapping[str, _Build] = {
    "baseline": lambda model, options: BaselineMethod(model),
    "cgc": _cgc,
    "l2": _cgc,
    "grid": lambda model, options: GridConsistencyMethod(
        model, weight=options.weight, multi_label=options.multi_label
    ),
    "sgc": _sgc,
    "energy": lambda model, options: EnergyMethod(model, weight=options.weight),
}
SEMI_SUPERVISED: Mapping[str, _Build] = {"cgc": _semi_cgc, "sgc": _semi_sgc}


def build_method(model: GradCAMModel, options: TrainOptions) -> Method:
    """Raises InputError for a method that has no use of unlabelled images, where there are some."""
    known = SEMI_SUPERVISED if options.unlabelled is not None else METHODS
    if options.method not in known:
        raise InputError(f"--unlabeled is for the methods {' and '.join(known)}, not for {options.method}")
    return known[options.method](model, options)


def validation_step(model: GradCAMModel, options: TrainOptions) -> nn.Module:
    """What :func:`run_validation` asks of the model."""
    return MultiLabelStep(model) if options.multi_label else ValidationStep(model)


def best_by(options: TrainOptions) -> str:
    """The figure of validation by which the best checkpoint is chosen, in percent."""
    return BEST_BY if options.multi_label else "val_top1"


def run_validation(
    step: nn.Module,
    loader: ViewLoader,
    device: torch.device,
    options: TrainOptions,
    stop: StopRequest,
    processes: Processes | None = None,
) -> tuple[dict[str, float], list[str]]:
    """Figures of one pass over the held-out images, and those that cannot be read."""
    if options.multi_label:
        return validate_multi_label(
            step, loader, device, strict=options.strict, stop=stop, processes=processes
        )
    return validate(
        step,
        loader,
        device,
        image_size=options.image_size,
        temperature=options.temperature,
        strict=options.strict,
        stop=stop,
        processes=processes,
    )
