"""From a name or a file to a model that can be explained."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone, check_image_size
from cgc.models.checkpoint_layouts import load_weights, read_checkpoint


def load_model(
    arch: str | None,
    checkpoint: Path | None,
    num_classes: int,
    *,
    pretrained: bool = False,
    image_size: int | None = None,
) -> GradCAMModel:
    """A model in eval mode on the CPU, for evaluation.

    ``checkpoint`` is a file in any layout of :mod:`cgc.models.checkpoint_layouts`; ``arch`` None takes the
    architecture that it names. ``image_size`` is the shortest side that it will be given, in pixels.

    Raises InputError if neither weights nor architecture are known, if they do not fit each other, or if the network
    cannot take images that small.
    """
    backbone = _backbone(arch, checkpoint, num_classes, pretrained)
    if image_size is not None:
        check_image_size(backbone, image_size)
    return GradCAMModel(backbone).eval()


def _backbone(arch: str | None, checkpoint: Path | None, num_classes: int, pretrained: bool) -> nn.Module:
    if checkpoint is None:
        if not pretrained:
            raise InputError("name a checkpoint with --resume, or ask for ImageNet weights with --pretrained")
        if arch is None:
            raise InputError("--pretrained needs an architecture: -a NAME")
        return build_backbone(arch, num_classes, pretrained=True)
    file = read_checkpoint(checkpoint)
    arch = arch or file.arch
    if arch is None:
        raise InputError(f"{checkpoint} does not name its architecture; give it with -a NAME")
    if file.num_classes is not None and file.num_classes != num_classes:
        raise InputError(f"{checkpoint} has {file.num_classes} classes, the data {num_classes}")
    backbone = build_backbone(arch, num_classes)
    load_weights(backbone, file)
    return backbone
