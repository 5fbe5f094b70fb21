"""From the options' name of a method to the module that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from cgc.commands.train_options import TrainOptions
from cgc.data.unlabelled import PairedLoader
from cgc.data.views import ViewLoader
from cgc.engine.multi_label_validation import BEST_BY, MultiLabelStep, validate_multi_label
from cgc.engine.processes import Processes
from cgc.engine.runtime import StopRequest, in_parallel
from cgc.engine.together import distributed
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
from cgc.methods.semi import check_replicas
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


def method_in_parallel(
    method: Method,
    options: TrainOptions,
    device: torch.device,
    loader: ViewLoader | PairedLoader,
    *,
    images: int,
    processes: Processes | None,
    say: Callable[[str], None],
) -> nn.Module:
    """The method on one device, on several GPUs, or in one of several processes; ``say`` tells how many
    negatives an image has.

    Raises InputError where a batch of labelled and unlabelled images cannot be shared out.
    """
    for part in method.modules():
        if isinstance(part, Method):
            part.across = processes
            part.gathered = options.negatives == "gathered"
    sharers = 1 if processes is None else processes.size
    wrapped = in_parallel(method, device, options.amp, gpus=options.num_gpus)
    replicas = len(wrapped.device_ids) if isinstance(wrapped, nn.DataParallel) else 1
    batch = options.batch_size if isinstance(loader, PairedLoader) else min(options.batch_size, images)
    own, parts = batch // sharers, replicas * options.accumulate
    if options.accumulate > own:
        raise InputError(
            f"--accumulate {options.accumulate}: a batch has {own} images"
            + (" for each process" if sharers > 1 else "")
        )
    if parts > 1 and isinstance(loader, PairedLoader):
        if replicas < parts != options.accumulate:
            raise InputError("--accumulate with unlabelled images takes one GPU, or a process per GPU")
        check_replicas(images // sharers, own, own, parts)
    negatives = method.negatives(-(-own // parts))
    if negatives is not None and options.weight:
        say(_contrast(negatives))
    return wrapped if processes is None else distributed(wrapped, device)


def _contrast(negatives: int) -> str:
    if not negatives:
        return "each image is contrasted with no other, so the consistency loss is 0: a larger -b, or fewer parts"
    return f"each image is contrasted with {negatives} other{'s' * (negatives > 1)}"


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
