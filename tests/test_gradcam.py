"""Heatmaps of every kind of classifier against autograd, in closed form where the head allows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from cgc.gradcam import GradCAMModel, class_activation_map, gradcam
from tests.references import gradcam as reference

GOLDEN = Path(__file__).parent / "golden"
WEIGHTINGS = ("elementwise", "channel")


def small_resnet(pool: nn.Module | None = None, num_classes: int = 5) -> nn.Module:
    """A ResNet of four blocks: 3 x 3 features at 96 px."""
    torch.manual_seed(0)
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes)
    model.avgpool = model.avgpool if pool is None else pool
    return model


def autograd_maps(features: Tensor, logits: Tensor, target: Tensor, weighting: str) -> Tensor:
    score = logits.gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features, retain_graph=True)
    if weighting == "channel":
        gradient = gradient.mean((2, 3), keepdim=True)
    return (gradient * features).sum(1).clamp(min=0)


def images(n: int, side: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_to_largest(value: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value."""
    return ((value - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


# --- the function against recorded numbers and against the oracle


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_agrees_with_the_published_implementation(weighting: Any) -> None:
    recorded = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "gradcam.npz").items()}
    features = recorded["feats"].requires_grad_()
    logits = features.mean((2, 3)) @ recorded["fc_weight"].T + recorded["fc_bias"]
    assert torch.equal(logits.argmax(1), recorded["target"])
    maps = gradcam(features, logits, recorded["target"], weighting=weighting)
    assert relative_to_largest(maps, recorded["gradcam"]) < 2e-5  # for this head both weightings agree
    closed = class_activation_map(features, recorded["fc_weight"], recorded["target"])
    assert relative_to_largest(closed, recorded["gradcam"]) < 2e-5

    logits = torch.relu(features.flatten(1) @ recorded["mlp_w1"].T) @ recorded["mlp_w2"].T
    assert torch.equal(logits.argmax(1), recorded["mlp_target"])
    maps = gradcam(features, logits, recorded["mlp_target"], weighting=weighting)
    assert relative_to_largest(maps, recorded[f"mlp_gradcam_{weighting}"]) < 2e-5


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equals_the_loops(weighting: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(3, 6, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 120, generator=generator, dtype=torch.float64)
    logits = torch.tanh(features.flatten(1)) @ weight.T
    target = torch.tensor([6, 0, 3])
    expected = reference.gradcam(features, logits, target, weighting=weighting)
    torch.testing.assert_close(gradcam(features, logits, target, weighting=weighting), expected)


def test_class_activation_map_equals_the_loops() -> None:
    generator = torch.Generator().manual_seed(4)
    features, weight = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 6, 4, 5), (7, 6))
    )
    target = torch.tensor([6, 0, 3])
    expected = reference.class_activation_map(features, weight, target)
    torch.testing.assert_close(class_activation_map(features, weight, target), expected)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(class_activation_map(channels_last, weight, target), expected)


def test_bad_arguments_are_named() -> None:
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    logits = features.mean((2, 3))
    with pytest.raises(ValueError, match="both"):
        gradcam(features, logits, torch.tensor([0, 1]), weighting="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3"):
        gradcam(features, logits, torch.tensor([0, 1, 2]))


# --- closed form and autograd are interchangeable

HEADS = {"average": None, "maximum": nn.AdaptiveMaxPool2d(1)}


@pytest.mark.parametrize("pool", HEADS)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_closed_form_has_the_maps_and_gradients_of_autograd(pool: str, weighting: Any) -> None:
    model = GradCAMModel(small_resnet(HEADS[pool]).double()).train()
    assert model.closed_form
    x, mixture = images(2, 96, dtype=torch.float64), torch.randn(2, 3, 3, dtype=torch.float64)
    results = []
    for closed in (True, False):
        model.zero_grad()
        logits, features = model(x)
        target = logits.argmax(1).detach()
        if closed:
            maps = model.heatmaps(logits, features, target, weighting=weighting)
        else:
            maps = gradcam(features, logits, target, weighting=weighting, create_graph=True)
        (maps * mixture).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((maps.detach(), gradients))
    (maps, gradients), (expected, expected_gradients) = results
    assert maps.max() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-14)
    for name, gradient in expected_gradients.items():
        if gradient.any():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-7, atol=1e-12, msg=name)


class Gated(nn.Module):
    """Looks like pool -> flatten -> linear by its modules, but is not: the logits are squashed."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(3 * self.fc(self.avgpool(self.features(x)).flatten(1)))


def test_a_head_that_only_looks_linear_goes_through_autograd() -> None:
    torch.manual_seed(0)
    model = GradCAMModel(Gated(), "features")
    assert not model.closed_form
    logits, features = model(images(2, 16))
    expected = autograd_maps(features, logits, logits.argmax(1), "elementwise")
    torch.testing.assert_close(model.heatmaps(logits, features), expected)


def test_any_layer_can_be_the_target() -> None:
    model = GradCAMModel(small_resnet(), "layer2").eval()
    logits, features = model(images(2, 64))
    assert features.shape == (2, 128, 8, 8)
    expected = autograd_maps(features, logits, logits.argmax(1), "elementwise")
    torch.testing.assert_close(model.heatmaps(logits, features), expected)
    with pytest.raises(ValueError, match="layer9"):
        GradCAMModel(small_resnet(), "layer9")


# --- explaining leaves everything as it was


@pytest.mark.parametrize("pool", ["average", "autograd"])
@pytest.mark.parametrize("training", [True, False])
def test_explain_needs_no_graph_and_changes_nothing(pool: str, training: bool) -> None:
    backbone = small_resnet()
    if pool == "autograd":
        backbone.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 5))
    model = GradCAMModel(backbone).train(training)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    requires = [parameter.requires_grad for parameter in model.parameters()]
    x, target = images(3, 96), torch.tensor([4, 0, 2])
    with torch.no_grad():
        logits, maps = model.explain(x, target)
        assert not torch.is_grad_enabled()
    assert not logits.requires_grad
    assert not maps.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == requires
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    if not training:
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        expected_logits, features = model(x)
        torch.testing.assert_close(logits, expected_logits)
        torch.testing.assert_close(maps, model.heatmaps(expected_logits, features, target).detach())
    with_graph = model.explain(x, target)[1]
    torch.testing.assert_close(with_graph, maps)


def test_wrapping_changes_no_state() -> None:
    backbone = small_resnet().train()
    state = copy.deepcopy(backbone.state_dict())
    random = torch.get_rng_state()
    model = GradCAMModel(backbone)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert list(backbone.state_dict()) == list(state)
    assert all(torch.equal(state[key], value) for key, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_copies_are_independent() -> None:
    model = GradCAMModel(small_resnet()).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    x = images(2, 64)
    logits, features = model(x)
    other_logits, other_features = other(x)
    assert not torch.allclose(features, other_features)
    torch.testing.assert_close(
        other.heatmaps(other_logits, other_features),
        autograd_maps(other_features, other_logits, other_logits.argmax(1), "elementwise"),
    )
    torch.testing.assert_close(
        model.heatmaps(logits, features), autograd_maps(features, logits, logits.argmax(1), "elementwise")
    )


def test_reduced_precision_keeps_the_maps_in_float32() -> None:
    model = GradCAMModel(small_resnet()).eval()
    x = images(2, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, features = model(x)
        assert features.dtype == torch.bfloat16
        maps = model.heatmaps(logits, features)
    assert maps.dtype == torch.float32
    expected = reference.class_activation_map(features.float(), model.backbone.fc.weight, logits.argmax(1))
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-7)
