"""Folded batch norms compute the same logits and keep what others find by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone
from cgc.models.folding import fold_batch_norm


def with_statistics(net: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                n = module.num_features
                module.running_mean.copy_(torch.randn(n, generator=generator))
                module.running_var.copy_(torch.rand(n, generator=generator) + 0.5)
                if module.affine:
                    module.weight.copy_(torch.rand(n, generator=generator) + 0.5)
                    module.bias.copy_(torch.randn(n, generator=generator))
    return net


def norms(net: nn.Module) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]


def images(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def assert_same(net: nn.Module, folded: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        expected = net.eval()(x)
        assert float((folded(x) - expected).abs().max() / expected.abs().max()) < 1e-10


@pytest.mark.parametrize(
    ("arch", "left"),
    [
        ("resnet_tiny", 0),
        ("mobilenet_v2", 0),
        pytest.param("resnet18", 0, marks=pytest.mark.slow),
        # Each dense layer's second batch norm follows a convolution, and the stem's; the rest come before one.
        pytest.param("densenet121", 121 - 59, marks=pytest.mark.slow),
        pytest.param("resnet50", 0, marks=pytest.mark.slow),
        pytest.param("googlenet", 0, marks=pytest.mark.slow),
    ],
)
def test_networks(arch: str, left: int) -> None:
    net = with_statistics(build_backbone(arch, 5)).double().train()
    before, names = {key: value.clone() for key, value in net.state_dict().items()}, dict(net.named_modules())
    random_state = torch.get_rng_state()
    folded = fold_batch_norm(net)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in (*net.modules(), *folded.modules()))
    assert not any(module.training for module in folded.modules())
    assert dict(folded.named_modules()).keys() == names.keys()
    assert len(norms(folded)) == left
    assert_same(net, folded, images(64, 48))


def test_heatmaps_stay() -> None:
    net = with_statistics(build_backbone("resnet_tiny", 5)).double().eval()
    expected = GradCAMModel(net).explain(images(32, 40))[1]
    found = GradCAMModel(fold_batch_norm(net))
    assert found.target_layer == "layer3"
    torch.testing.assert_close(found.explain(images(32, 40))[1], expected, rtol=1e-9, atol=1e-12)


def test_single_precision_and_channels_last() -> None:
    net = with_statistics(build_backbone("resnet_tiny", 5)).eval().to(memory_format=torch.channels_last)
    net.conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    folded = fold_batch_norm(net)
    weights = [p for p in folded.parameters() if p.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert all(p.dtype == torch.float32 for p in folded.parameters())
    assert not folded.conv1.weight.requires_grad  # type: ignore[union-attr]
    assert folded.layer1.conv1.weight.requires_grad  # type: ignore[union-attr]
    x = images(64, 64, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x), rtol=1e-4, atol=1e-4)


class Pair(nn.Module):
    """A convolution and a batch norm that one option each makes unfit for folding."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=kind != "no bias")
        if kind == "parametrized":
            self.conv = parametrizations.weight_norm(self.conv)
        if kind == "subclass":
            self.conv = _Doubled(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(
            4, affine=kind != "not affine", track_running_stats=kind != "batch statistics"
        )
        if kind == "activated":
            self.bn = _Activated(4)
        self.other = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = out = self.conv(self.stem(x))
        if self.kind == "between":
            x = torch.relu(x)
        if self.kind == "resized":
            x = x.view(x.size(0), 4, *x.shape[2:])
        x = self.bn(x)
        if self.kind == "convolution twice":
            x = self.conv(x)
        if self.kind == "batch norm twice":
            x = self.bn(torch.relu(x))
        if self.kind == "used by a function":
            x = x + out
        if self.kind == "used by a module":
            x = x * self.other(out)
        if self.kind == "assigned":
            x[:, :1] = out[:, :1]
        if self.kind == "asked for its shape":
            x = x * out.shape[1] * out.size(0) * out.dim()
        return x.mean((2, 3))


class _Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.weight, self.bias)


class _Activated(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


@pytest.mark.parametrize("kind", ["plain", "no bias", "not affine", "asked for its shape"])
def test_pairs_that_fold(kind: str) -> None:
    net = with_statistics(Pair(kind).double())
    folded = fold_batch_norm(net)
    assert isinstance(folded.bn, nn.Identity)
    assert isinstance(folded.conv.bias, nn.Parameter)  # type: ignore[union-attr]
    assert_same(net, folded, images(8, 9))


@pytest.mark.parametrize(
    "kind",
    [
        "parametrized",
        "subclass",
        "batch statistics",
        "activated",
        "between",
        "resized",
        "convolution twice",
        "batch norm twice",
        "used by a function",
        "used by a module",
        "assigned",
    ],
)
def test_pairs_that_do_not(kind: str) -> None:
    net = with_statistics(Pair(kind).double())
    folded = fold_batch_norm(net)
    assert folded is not net
    assert norms(folded) == ["bn"]
    assert_same(net, folded, images(8, 9))


def test_a_fold_that_would_change_the_logits_is_dropped() -> None:
    class Peeking(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.conv.weight.sum()

    net = with_statistics(Peeking("plain").double())
    assert norms(fold_batch_norm(net)) == ["bn"]
    with torch.no_grad():
        net.bn.weight.fill_(torch.nan)
    assert norms(fold_batch_norm(net)) == ["bn"]


def test_a_network_of_one_image_size() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 32, stride=32), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(196, 2))
    net = with_statistics(net).double()
    folded = fold_batch_norm(net)
    assert norms(folded) == []
    assert_same(net, folded, images(224, 224))


def test_nothing_to_fold() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    copied = fold_batch_norm(net)
    assert copied is not net
    assert_same(net, copied, images(8, 8))


def test_networks_that_cannot_run_come_back_as_they_are() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(7, 2))
    assert norms(fold_batch_norm(net)) == ["1"]
    assert isinstance(fold_batch_norm(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))[1], nn.Linear)  # type: ignore[index]
