"""From a name or a file to a model that can be explained."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import torch
from torch import nn

from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone, check_image_size, pretrained_classes
from cgc.models.checkpoint_layouts import Checkpoint, OtherHead, load_weights, match, read_checkpoint
from cgc.models.recognise import known, recognise, u2net_size
from cgc.models.timm_models import PREFIX


def load_model(
    arch: str | None,
    checkpoint: Path | None,
    num_classes: int,
    *,
    pretrained: bool = False,
    image_size: int | None = None,
    maxpool: bool = False,
    other_head: OtherHead = "refuse",
    target_layer: str | None = None,
) -> GradCAMModel:
    """A model in eval mode on the CPU, for evaluation; a line on stderr says what it was made of.

    ``checkpoint`` is a file in any layout of :mod:`cgc.models.checkpoint_layouts`; ``arch`` None takes the
    architecture that it names, or the one that its keys belong to. ``image_size`` is the shortest side that it will be
    given, in pixels. ``maxpool`` is GC's global max pooling, which leaves no trace in a file's keys. ``other_head``
    says what happens where the file's classifier is not one of ``num_classes`` classes: an error, or a fresh one,
    always the same. ``target_layer`` is the layer to explain; by default the last one before pooling.

    Raises InputError if neither weights nor architecture are known, if they do not fit each other, or if the network
    cannot take images that small or has no such layer; RunError if a download fails.
    """
    if checkpoint is not None:
        file = read_checkpoint(checkpoint)
        arch = arch or architecture(file)
        backbone = _from_file(arch, file, num_classes, maxpool, other_head)
    elif not pretrained:
        raise InputError("name a checkpoint with --resume, or ask for ImageNet weights with --pretrained")
    elif arch is None:
        raise InputError("--pretrained needs an architecture: -a NAME")
    else:
        backbone = _from_hub(arch, num_classes, maxpool, other_head)
    if image_size is not None:
        check_image_size(backbone, image_size)
    return explainable(backbone, arch, target_layer).eval()


def architecture(file: Checkpoint) -> str:
    """The architecture that a file names, or else the one whose keys it has, which is said on stderr.

    Raises InputError if there is none or more than one.
    """
    if file.arch is not None and known(file.arch):
        return file.arch
    names = (
        f"names an architecture that is not known here ({file.arch})"
        if file.arch
        else "names no architecture"
    )
    size = u2net_size(file.weights)
    if size is not None:
        raise InputError(f"{file.path} holds a saliency network ({size}), not a classifier")
    found = recognise(file.weights)
    if found.arch is not None:
        print(f"{file.path} {names}; its keys are those of {found.arch}", file=sys.stderr)
        return found.arch
    if found.candidates:
        raise InputError(
            f"{file.path} {names}, and its keys are those of {', '.join(found.candidates)}: choose with -a NAME"
        )
    near = f" (nearest: {found.nearest}, {found.share[0]} of {found.share[1]} keys)" if found.nearest else ""
    raise InputError(
        f"{file.path} {names}, and none that is known here has its keys{near}; give it with -a NAME, one of timm's "
        f"as -a {PREFIX}NAME"
    )


def explainable(backbone: nn.Module, arch: str, target_layer: str | None = None) -> GradCAMModel:
    """The model around a backbone; raises InputError for a layer that is not there or cannot be explained."""
    names = [name for name, _ in backbone.named_modules() if name]
    if target_layer is not None and target_layer not in names:
        close = difflib.get_close_matches(target_layer, names, n=5, cutoff=0.4)
        shown = close or [name for name, _ in backbone.named_children()]
        raise InputError(f"{arch} has no layer {target_layer!r}; it has {', '.join(shown)}, …")
    try:
        return GradCAMModel(backbone, target_layer)
    except ValueError as error:
        raise InputError(f"{arch}: {error}") from error


def _from_file(
    arch: str, file: Checkpoint, num_classes: int, maxpool: bool, other_head: OtherHead
) -> nn.Module:
    options = file.extra.get("options")
    if not maxpool and isinstance(options, dict) and options.get("maxpool") is True:  # one of ours
        print(f"{file.path} was trained with --maxpool: global max pooling is used", file=sys.stderr)
        maxpool = True
    backbone = _fresh(arch, num_classes, maxpool=maxpool)
    fit = match(backbone, file)
    if other_head == "refuse" and fit.trunk_fits and not fit.head_fits:
        if fit.file_classes is None:
            raise InputError(f"{file.path} holds the trunk of {arch} and no classifier for it")
        raise InputError(f"{file.path} has {fit.file_classes} classes, the data {num_classes}")
    print(load_weights(backbone, file, other_head=other_head), file=sys.stderr)
    return backbone


def _from_hub(arch: str, num_classes: int, maxpool: bool, other_head: OtherHead) -> nn.Module:
    found = pretrained_classes(arch)
    if found != num_classes and other_head == "refuse":
        raise InputError(f"the published weights of {arch} have {found} classes, the data {num_classes}")
    fresh = "" if found == num_classes else f", fresh classifier: theirs has {found} classes"
    backbone = _fresh(arch, num_classes, pretrained=True, maxpool=maxpool)
    print(f"{arch}: published weights{fresh}", file=sys.stderr)
    return backbone


def _fresh(arch: str, num_classes: int, *, pretrained: bool = False, maxpool: bool = False) -> nn.Module:
    """A classifier that no file fills is the same one in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_backbone(arch, num_classes, pretrained=pretrained, maxpool=maxpool)
