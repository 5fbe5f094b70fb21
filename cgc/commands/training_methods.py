"""From the options' name of a method to the module that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cgc.commands.train_options import TrainOptions
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
    "grid": lambda model, options: GridConsistencyMethod(model, weight=options.weight),
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
