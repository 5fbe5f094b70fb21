"""Excitation backprop against recorded numbers, against dense matrices, and its properties."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cgc.explainers.excitation import ExcitationBackprop
from cgc.models.backbones import build_backbone
from tests.references import excitation as reference

GOLDEN = Path(__file__).parents[1] / "golden" / "excitation_backprop.npz"


def images(n: int, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def with_random_statistics(net: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    generator = torch.Generator().manual_seed(2) if generator is None else generator
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                n = module.num_features
                module.running_mean.copy_(0.1 * torch.randn(n, generator=generator))
                module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(n, generator=generator) + 0.5)
                module.bias.copy_(0.1 * torch.randn(n, generator=generator))
    return net


def tiny() -> reference.TinyResidual:
    torch.manual_seed(0)
    return with_random_statistics(reference.TinyResidual()).double().eval()  # type: ignore[return-value]


def backbone(arch: str = "resnet_tiny", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return with_random_statistics(build_backbone(arch, 5, **options)).eval()


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


# --- values


@pytest.mark.parametrize("name", ["excitation", "contrastive"])
def test_agrees_with_the_published_implementation(name: str) -> None:
    recorded = np.load(GOLDEN)
    torch.manual_seed(int(recorded["init_seed"].item()))
    net = torchvision.models.resnet18()
    generator = torch.Generator().manual_seed(int(recorded["input_seed"].item()))
    image = torch.rand(1, 3, 256, 256, generator=generator)
    with_random_statistics(net, generator)
    targets = torch.tensor([int(recorded[f"target_{which}"]) for which in ("top", "other")])
    explain = ExcitationBackprop(net, contrastive=name == "contrastive")
    assert explain.layer == "layer3"
    logits, maps = explain(image, targets, torch.zeros(2, dtype=torch.long))
    assert logits.argmax(1).tolist() == [targets[0]]
    for found, which in zip(maps, ("top", "other"), strict=True):
        assert relative(found, torch.from_numpy(recorded[f"{name}_{which}"])) < 2e-5


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize(
    "size", [(20, 16), (9, 12)]
)  # 3 × 1 window positions; a grid smaller than the window
def test_equals_the_dense_matrices(contrastive: bool, size: tuple[int, int]) -> None:
    net, x = tiny(), images(2, *size, dtype=torch.float64)
    target = torch.tensor([3, 1])
    explain = ExcitationBackprop(net, layer="stem", contrastive=contrastive)
    logits, maps = explain(x, target)
    with torch.no_grad():
        torch.testing.assert_close(logits, net(x))
        expected = [
            reference.explain(net, image, t, contrastive=contrastive)
            for image, t in zip(x, (3, 1), strict=True)
        ]
    assert maps.max() > 0
    torch.testing.assert_close(maps, torch.stack(expected), rtol=1e-9, atol=1e-14)


class Chain(nn.Module):
    """Positive weights, no bias: no unit is dead where the input is positive."""

    def __init__(self, seed: int, pool: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Identity()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.ReLU(),
            pool,
            nn.Conv2d(4, 6, 1, bias=False),
            nn.ReLU(),
        )
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3, bias=False)
        for parameter in self.parameters():
            parameter.data = parameter.data.abs() + 0.01

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gap(self.features(self.first(x))).flatten(1))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(6, 25),
    width=st.integers(6, 25),
    pool=st.sampled_from([nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.Identity()]),
)
def test_relevance_is_conserved(seed: int, height: int, width: int, pool: nn.Module) -> None:
    net = Chain(seed, pool).double()
    x = torch.rand(2, 3, height, width, dtype=torch.float64) + 0.1
    _, maps = ExcitationBackprop(net, layer="first")(x, torch.tensor([0, 2]))
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_relevance_is_a_share_of_what_excites() -> None:
    """One cell of the image carries everything, so it gets everything."""
    net = Chain(0, nn.Identity())
    x = torch.zeros(1, 3, 10, 10)
    x[0, :, 2, 7] = 1.0
    _, maps = ExcitationBackprop(net, layer="first")(x)
    expected = torch.zeros(10, 10)
    expected[2, 7] = 1.0
    torch.testing.assert_close(maps[0], expected)


def test_contrast_of_equal_classes_is_zero() -> None:
    net = Chain(0, nn.Identity())
    with torch.no_grad():
        net.fc.weight.copy_(torch.tensor([[1.0, -1, 1, -1, 1, -1]]).expand(3, -1))
        net.features[3].weight.copy_(net.features[3].weight[:1].expand(6, -1, -1, -1))  # type: ignore[union-attr]
    x = torch.rand(1, 3, 8, 8) + 0.1
    _, maps = ExcitationBackprop(net, layer="first", contrastive=True)(x)
    assert maps.max() < 1e-7  # what is for the class is against it as well
    _, maps = ExcitationBackprop(net, layer="first")(x)
    torch.testing.assert_close(maps.sum(), torch.tensor(1.0))


# --- how it is called


@pytest.mark.parametrize("contrastive", [False, True])
def test_several_maps_of_an_image_and_batches(contrastive: bool) -> None:
    net, x = backbone(), images(3, 72, 64)
    owner, target = torch.tensor([2, 0, 1, 0]), torch.tensor([1, 0, 4, 2])
    explain = ExcitationBackprop(net, contrastive=contrastive)
    expected_logits, expected = explain(x[owner], target)
    for batch_size in (None, 1, 2):
        logits, maps = ExcitationBackprop(net, contrastive=contrastive, batch_size=batch_size)(
            x, target, owner
        )
        torch.testing.assert_close(logits[owner], expected_logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-6)


def test_a_layer_that_others_pass_by() -> None:
    net, x = backbone(), images(2, 32, 32)
    explain = ExcitationBackprop(net, layer="layer3.bn1")
    owner, target = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3])
    logits, maps = explain(x, target, owner)
    _, expected = explain(x[owner], target)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(maps, expected)
    assert 0 < float(maps[0].sum()) != 1.0


@pytest.mark.parametrize("maxpool", [False, True])
def test_logits_are_the_networks_own(maxpool: bool) -> None:
    net, x = backbone("resnet_tiny", maxpool=maxpool), images(2, 80, 64)  # 10 × 8 cells: 4 × 2 positions
    logits, maps = ExcitationBackprop(net)(x)
    with torch.no_grad():
        torch.testing.assert_close(logits, net(x))
    assert maps.shape == (2, 10, 8)
    assert (maps.sum((1, 2)) >= 0.99).all()  # cells of negative relevance are cut


class VGGLike(nn.Module):
    """Leaf layers in a row, a pooling of 2 × 2 and two linear layers; `size` is kept for the mean's sake."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = (3, 4, 6, 8)
        stages = [
            (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)) for a, b in pairwise(widths)
        ]
        self.features = nn.Sequential(*(layer for stage in stages for layer in stage))
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(nn.Linear(32, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def test_linear_layers_slide_as_convolutions() -> None:
    """Relevance of a larger image is that of its windows, weighted by their scores."""
    net, x = (
        VGGLike().double().eval(),
        images(1, 24, 16, dtype=torch.float64),
    )  # a grid of 3 × 2: two positions
    layer = "features.8"  # the last pool
    _, maps = ExcitationBackprop(net, layer=layer)(x, torch.tensor([2]))
    with torch.no_grad():
        grid = net.features(x)
        windows = (grid[:, :, :2], grid[:, :, 1:])
        scores = torch.stack([net.classifier(window.flatten(1))[0, 2] for window in windows])
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for first, (window, weight) in enumerate(zip(windows, scores.softmax(0), strict=True)):
        cut = nn.Sequential(nn.Identity(), net.avgpool, nn.Flatten(), net.classifier)
        _, part = ExcitationBackprop(cut, layer="0")(window, torch.tensor([2]))
        expected[first : first + 2] += weight * part[0]
    assert maps.max() > 0
    torch.testing.assert_close(maps[0], expected)


def test_a_mean_over_the_grid_is_a_pooling() -> None:
    class Mean(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.features(self.first(x)).mean([2, 3]))

    x = torch.rand(2, 3, 9, 10) + 0.1
    _, expected = ExcitationBackprop(Chain(0, nn.MaxPool2d(1)), layer="first")(x)
    _, maps = ExcitationBackprop(Mean(0, nn.MaxPool2d(1)), layer="first")(x)
    torch.testing.assert_close(maps, expected)
