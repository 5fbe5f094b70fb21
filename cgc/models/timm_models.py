"""timm's networks by name: ``timm:convnext_tiny``, ``timm:resnet50.a1_in1k`` (an extra, imported when asked for).

Shapes: images (N, 3, H, W) with ImageNet's mean and deviation, as everywhere here; features (N, C, h, w).
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from cgc.errors import InputError, RunError
from cgc.models.meta import OnMeta
from cgc.optional_packages import optional_package

PREFIX = "timm:"


def build_timm(arch: str, num_classes: int, *, pretrained: bool = False, maxpool: bool = False) -> nn.Module:
    """A network of timm's with ``num_classes`` outputs, under timm's own key names.

    Where its published weights expect images of another mean and deviation than ImageNet's, the network converts
    them itself, fresh or not, so that a checkpoint computes what its model did.

    Raises InputError if timm is missing, for an unknown name, a network without a grid of features or without the
    weights asked for; RunError if a download fails.
    """
    timm, name = _timm(), arch.removeprefix(PREFIX)
    _check_name(timm, name)
    _check_grid(timm, name)
    if pretrained and not timm.models.get_pretrained_cfg(name).has_weights:
        raise InputError(f"there are no pretrained weights for {arch!r}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes)
    except Exception as error:
        if not pretrained:
            raise
        # Which error it is depends on what the hub's client does its requests with.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"the weights of {arch} could not be downloaded: {reason}") from error
    if maxpool:
        _use_max_pool(arch, model)
    _convert_images(timm, model)
    return model


def timm_classes(arch: str) -> int:
    """Number of classes of the published weights; raises InputError as :func:`build_timm`."""
    timm, name = _timm(), arch.removeprefix(PREFIX)
    _check_name(timm, name)
    return int(timm.models.get_pretrained_cfg(name).num_classes)


def _timm() -> Any:
    return optional_package("timm", "timm", "timm's networks")


def _check_name(timm: Any, name: str) -> None:
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        known = timm.list_models()
        close = difflib.get_close_matches(model, known, n=3)
        hint = (
            f"did you mean {', '.join(PREFIX + c for c in close)}?"
            if close
            else f"it has {len(known)} others"
        )
        raise InputError(f"timm knows no network {model!r}; {hint}")
    tags = [full.partition(".")[2] for full in timm.list_models(f"{model}.*", pretrained=True)]
    if tag and tag not in tags:
        known = f"it has {', '.join(tags)}" if tags else "it has none"
        raise InputError(f"timm knows no weights {tag!r} of {model}; {known}")


def _check_grid(timm: Any, name: str) -> None:
    """Refuse networks whose features are no (N, C, h, w) grid, before anything is downloaded."""
    with OnMeta():
        probe = timm.create_model(name, pretrained=False).eval().to("meta")
    side = probe.pretrained_cfg["input_size"]
    try:
        with torch.no_grad():
            features = probe.forward_features(torch.zeros(1, *side, device="meta"))
    except (RuntimeError, NotImplementedError, AttributeError):
        return  # cannot be told here; GradCAMModel looks at the network itself
    if (
        not isinstance(features, Tensor)
        or features.dim() != 4
        or features.shape[1] != getattr(probe, "num_features", features.shape[1])
    ):
        raise InputError(
            f"{PREFIX}{name} is no convolutional network: Grad-CAM needs a convolutional feature grid"
        )


def _use_max_pool(arch: str, model: nn.Module) -> None:
    for module in model.modules():
        for name, pool in module.named_children():
            if type(pool).__name__ == "SelectAdaptivePool2d" and getattr(pool, "pool_type", "") == "avg":
                flatten = not isinstance(pool.flatten, nn.Identity)
                setattr(module, name, type(pool)(pool_type="max", flatten=flatten))
                return
    raise InputError(f"{arch} has no global average pooling that --maxpool could replace")


def _convert_images(timm: Any, model: Any) -> None:
    """From ImageNet's normalisation to the network's own: ``(x·σ + μ - m) / s``, before its first layer."""
    ours = (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    theirs = (model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
    (mean, std), (own_mean, own_std) = (
        torch.tensor(each, dtype=torch.float64).view(2, 1, 3, 1, 1) for each in (ours, theirs)
    )
    if torch.equal(mean, own_mean) and torch.equal(std, own_std):
        return
    # Not persistent: the keys of a checkpoint stay timm's own.
    model.register_buffer("input_scale", (std / own_std).float(), persistent=False)
    model.register_buffer("input_shift", ((mean - own_mean) / own_std).float(), persistent=False)
    model.register_forward_pre_hook(_converted)


def _converted(model: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *others = args
    return (images * model.input_scale + model.input_shift, *others)
