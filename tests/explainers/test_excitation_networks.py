"""Which networks excitation backprop serves, at which layer, and what it says of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers.excitation import ExcitationBackprop
from cgc.explainers.stages import stage_before_last
from tests.explainers.test_excitation import VGGLike, backbone, images


@pytest.mark.parametrize(
    ("arch", "layer"),
    [
        ("resnet18", "layer3"),
        ("resnet_tiny", "layer2"),
        ("squeezenet1_1", "features.8"),
        pytest.param("regnet_x_400mf", "trunk_output.block3", marks=pytest.mark.slow),
        pytest.param("resnet50", "layer3", marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", "layer3", marks=pytest.mark.slow),
        pytest.param("wide_resnet50_2", "layer3", marks=pytest.mark.slow),
        pytest.param("vgg16", "features.23", marks=pytest.mark.slow),
        pytest.param("alexnet", "features.5", marks=pytest.mark.slow),
        pytest.param("googlenet", "maxpool4", marks=pytest.mark.slow),
        pytest.param("densenet121", "features.denseblock3", marks=pytest.mark.slow),
        pytest.param("inception_v3", "Mixed_6e", marks=pytest.mark.slow),
    ],
)
def test_networks_and_their_default_layers(arch: str, layer: str) -> None:
    net = backbone(arch)
    side = 299 if arch == "inception_v3" else 64
    for contrastive in (False, True):
        explain = ExcitationBackprop(net, contrastive=contrastive)
        assert explain.layer == layer
        logits, maps = explain(images(2, side, side + 32))
        assert logits.shape == (2, 5)
        assert maps.ndim == 3
        assert maps.isfinite().all()
        assert (maps >= 0).all()
    assert maps.max() > 0


def test_the_pool_between_the_last_stages() -> None:
    assert stage_before_last(VGGLike()) == "features.5"


def test_a_single_stage_wants_a_named_layer() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(InputError, match="name a layer"):
        stage_before_last(net)


class Wrapped(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.function(F.relu(self.conv(x))), 1).flatten(1))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (F.silu, "'silu'"),
        (F.relu6, "'relu6'"),
        (nn.ReLU6(), "'hardtanh'"),
        (lambda x: x * torch.sigmoid(x), "'sigmoid'"),
        (lambda x: x + x.mean(dim=(2, 3), keepdim=True), "sum of"),
        (lambda x: torch.add(x, x, alpha=2), "alpha"),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1), "mean over 1"),
        (lambda x: x - 1, "'sub'"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "'layer_norm'"),
    ],
)
def test_layers_without_a_rule_are_named(function: Any, said: str) -> None:
    net = Wrapped(function)
    with pytest.raises(InputError, match=said):
        ExcitationBackprop(net, layer="conv")(images(1, 8, 8))
    assert not any(module._forward_hooks for module in net.modules())


def test_what_the_rules_do_not_see_is_refused() -> None:
    def ignored(x: Tensor) -> Tensor:
        y = x + -0.2
        F.relu(y, inplace=True)  # the result is not used: the rule would not mask
        return y

    with pytest.raises(InputError, match="cannot follow how Wrapped"):
        ExcitationBackprop(Wrapped(ignored), layer="conv")(images(1, 8, 8))

    def negated_twice(x: Tensor) -> Tensor:
        weight = -torch.ones(4, 4, 1, 1)
        return F.conv2d(F.conv2d(x, weight), weight)

    with pytest.raises(InputError, match="negative"):
        ExcitationBackprop(Wrapped(negated_twice), layer="conv")(images(1, 8, 8))
    with pytest.raises(InputError, match="no part in the logits"):
        ExcitationBackprop(Wrapped(lambda x: x.detach()), layer="conv")(images(1, 8, 8))


@pytest.mark.parametrize("layer", ["layer9", "fc"])
def test_bad_layers(layer: str) -> None:
    with pytest.raises(InputError, match=layer):
        ExcitationBackprop(backbone(), layer=layer)(images(1, 32, 32))
