"""Whose key is whose: on meta tensors, since only names and shapes matter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from cgc.models.key_names import (
    head_names,
    is_swav_finetuned,
    is_swav_pretrained,
    match_keys,
    plain_name,
    plain_names,
)
from cgc.models.recognise import layout

# sha256 of the lines "name shape", sorted, of the published files (without their prefix "module.").
SWAV_PRETRAINED = "dd796798f8a9ed04a9f6577746aa5757d7efd1e7f4025b430b462a40fd6e05f8"
SWAV_FINETUNED = "07bc06959b0a5fc8c4907857e4641ea3fe131e9598ad3c599d32ef13b57058b4"
PROJECTOR = {
    "projection_head.0.weight": (2048, 2048),
    "projection_head.0.bias": (2048,),
    "projection_head.1.weight": (2048,),
    "projection_head.1.bias": (2048,),
    "projection_head.1.running_mean": (2048,),
    "projection_head.1.running_var": (2048,),
    "projection_head.1.num_batches_tracked": (),
    "projection_head.3.weight": (128, 2048),
    "projection_head.3.bias": (128,),
    "prototypes.weight": (3000, 128),
}


def blank(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def trunk(arch: str = "resnet50", prefix: str = "") -> dict[str, Tensor]:
    """All of a network but its classifier."""
    own = layout(arch)
    return {prefix + name: w for name, w in own.items() if name not in head_names(own)}


def digest(weights: Mapping[str, Tensor]) -> str:
    lines = "\n".join(f"{name} {tuple(w.shape)}" for name, w in sorted(weights.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def swav_pretrained() -> dict[str, Tensor]:
    weights = trunk() | {name: blank(*shape) for name, shape in PROJECTOR.items()}
    assert digest(weights) == SWAV_PRETRAINED
    return weights


def swav_finetuned() -> dict[str, Tensor]:
    weights = trunk() | {
        "projection_head.weight": blank(1000, 2048),
        "projection_head.bias": blank(1000),
    }
    assert digest(weights) == SWAV_FINETUNED
    return weights


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        ("conv1.weight", "conv1.weight"),
        ("module.conv1.weight", "conv1.weight"),
        ("module._orig_mod.module.conv1.weight", "conv1.weight"),
        ("features.module.0.weight", "features.0.weight"),
        ("layer1._orig_mod.0.bn1.bias", "layer1.0.bn1.bias"),
        ("modules.0.weight", "modules.0.weight"),
        ("backbone.conv1.weight", "backbone.conv1.weight"),
        ("features.denseblock3.denselayer10.conv.2.weight", "features.denseblock3.denselayer10.conv2.weight"),
        ("features.norm.1.weight", "features.norm.1.weight"),
    ],
)
def test_plain_names(key: str, plain: str) -> None:
    assert plain_name(key) == plain
    assert plain_name(plain) == plain


def test_two_keys_that_become_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"fc\.bias stands in it twice"):
        plain_names({"fc.bias": blank(2), "module.fc.bias": blank(2)})


@pytest.mark.parametrize("arch", ["alexnet", "vgg11_bn"])
def test_features_wrapped_alone(arch: str) -> None:
    """As the ImageNet example of PyTorch trains AlexNet and VGG on several GPUs."""
    own = layout(arch)
    given = plain_names({name.replace("features.", "features.module."): w for name, w in own.items()})
    assert match_keys(own, given).fits


def test_densenet_files_from_before_torchvision_renamed_its_layers() -> None:
    own = layout("densenet121")
    old = {
        name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1."): w
        for name, w in own.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    assert match_keys(own, plain_names(old)).fits


def test_swav_before_fine_tuning_has_a_trunk_alone() -> None:
    weights = swav_pretrained()
    fit = match_keys(layout("resnet50"), weights)
    assert len(fit.found) == 318
    assert fit.trunk_fits
    assert not fit.head_fits
    assert fit.missing == ("fc.weight", "fc.bias")
    assert set(fit.unexpected) == set(PROJECTOR) == fit.outside
    assert fit.file_classes is None
    assert is_swav_pretrained(weights)
    assert not is_swav_finetuned(weights)


def test_swav_fine_tuned_keeps_its_classifier_under_the_projectors_name() -> None:
    weights = swav_finetuned()
    fit = match_keys(layout("resnet50"), weights)
    assert fit.fits
    assert fit.found["fc.weight"] == "projection_head.weight"
    assert fit.found["fc.bias"] == "projection_head.bias"
    assert fit.file_classes == 1000
    assert fit.notes == ("projection_head is the classifier fc",)
    assert is_swav_finetuned(weights)


def test_a_projector_of_one_layer_is_no_classifier() -> None:
    """SwAV's own networks with a linear projector: the prototypes give them away."""
    weights = trunk() | {"projection_head.weight": blank(128, 2048), "prototypes.weight": blank(3000, 128)}
    fit = match_keys(layout("resnet50"), weights)
    assert fit.trunk_fits
    assert fit.missing == ("fc.weight", "fc.bias")
    assert fit.file_classes is None


def test_a_networks_own_classifier_goes_before_swavs() -> None:
    weights = dict(layout("resnet50")) | {"projection_head.weight": blank(1000, 2048)}
    fit = match_keys(layout("resnet50"), weights)
    assert fit.found["fc.weight"] == "fc.weight"
    assert fit.unexpected == ("projection_head.weight",)


@pytest.mark.parametrize("prefix", ["backbone.", "model.", "encoder.", "net.backbone."])
def test_a_prefix_of_everything_is_dropped_and_said(prefix: str) -> None:
    own = layout("resnet_tiny")
    given = {prefix + name: w for name, w in own.items()}
    fit = match_keys(own, given)
    assert fit.fits
    assert fit.found["fc.weight"] == f"{prefix}fc.weight"
    assert fit.notes == (f"prefix {prefix!r} dropped",)


@pytest.mark.parametrize("change", ["one missing", "one of another shape", "one outside"])
def test_a_prefix_of_less_than_the_trunk_is_not_guessed(change: str) -> None:
    own = layout("resnet_tiny")
    given = {f"model.{name}": w for name, w in own.items()}
    if change == "one of another shape":
        given["model.conv1.weight"] = blank(16, 3, 5, 5)
    else:
        weight = given.pop("model.layer1.conv1.weight")
        if change == "one outside":
            given["layer1.conv1.weight"] = weight
    fit = match_keys(own, given)
    assert fit.notes == ()
    assert len(fit.found) == (1 if change == "one outside" else 0)
    assert not fit.trunk_fits


def test_the_classifier_may_stand_outside_the_prefix() -> None:
    own = layout("resnet_tiny")
    given = trunk("resnet_tiny", "encoder.") | {name: own[name] for name in ("fc.weight", "fc.bias")}
    fit = match_keys(own, given)
    assert fit.fits
    assert fit.found["fc.weight"] == "fc.weight"


def test_two_networks_in_one_file_are_not_chosen_from() -> None:
    given = trunk("resnet_tiny", "encoder_q.") | trunk("resnet_tiny", "encoder_k.")
    with pytest.raises(ValueError, match=r"2 times: under encoder_q\., encoder_k\."):
        match_keys(layout("resnet_tiny"), given)


def test_what_lies_in_the_trunks_modules_is_another_trunks() -> None:
    """A squeeze-and-excitation ResNet holds all of ResNet's keys, and is none."""
    own = layout("resnet_tiny")
    other = dict(own) | {"layer1.se.weight": blank(4, 4)}
    assert not match_keys(own, other).trunk_fits
    other_head = trunk("resnet_tiny") | {"fc.0.weight": blank(96, 96), "fc.2.weight": blank(128, 96)}
    fit = match_keys(own, other_head)
    assert fit.trunk_fits
    assert fit.outside == {"fc.0.weight", "fc.2.weight"}


def test_modules_that_are_really_called_so_are_matched() -> None:
    own = {"module.conv.weight": blank(8, 3, 3, 3), "fc.weight": blank(2, 8), "fc.bias": blank(2)}
    fit = match_keys(own, plain_names({f"module.{name}": w for name, w in own.items()}))
    assert fit.fits
    assert fit.found["module.conv.weight"] == "conv.weight"


def test_a_classifier_of_another_size_is_counted() -> None:
    own = layout("resnet_tiny")
    given = dict(own) | {"fc.weight": blank(7, 96), "fc.bias": blank(7)}
    fit = match_keys(own, given)
    assert fit.file_classes == 7
    assert fit.misshapen == ("fc.weight", "fc.bias")
    assert fit.trunk_fits
    narrower = match_keys(own, dict(own) | {"fc.weight": blank(7, 95)})
    assert narrower.file_classes is None
