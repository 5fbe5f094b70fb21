"""Explainers of other libraries: on their raw grid they are what their papers say, and Grad-CAM is ours."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers import build_explainer
from cgc.gradcam import GradCAMModel
from cgc.metrics.content_heatmap import content_heatmap
from cgc.metrics.maps import normalise_map
from cgc.models.backbones import build_backbone
from tests.explainers.test_excitation import images, with_random_statistics

CAPTUM = ("integrated-gradients", "guided-backprop", "captum-gradcam")
PYTORCH_GRAD_CAM = ("gradcam++", "scorecam", "layercam", "pytorch-gradcam")


class MLPHead(nn.Module):
    """Features of 4 × 4 cells whose classifier is not pool → linear; it begins in place if asked to."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=4, padding=2), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, padding=1)
        )
        self.in_place = in_place
        self.hidden, self.out = nn.Linear(128, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x), inplace=self.in_place)
        return self.out(torch.tanh(self.hidden(F.adaptive_avg_pool2d(x, 4).flatten(1))))


def network(head: str) -> nn.Module:
    torch.manual_seed(0)
    if head == "gap":
        return with_random_statistics(build_backbone("resnet_tiny", 5))
    return MLPHead(in_place=head == "in place")


def layer_of(net: nn.Module) -> str:
    return "layer3" if hasattr(net, "layer3") else "features"


def features_and_gradients(net: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    net = copy.deepcopy(net).eval()
    caught: list[Tensor] = []
    hook = net.get_submodule(layer_of(net)).register_forward_hook(
        lambda _m, _i, out: caught.append(out) or out.clone()
    )
    score = net(x).gather(1, target[:, None]).sum()
    hook.remove()
    (gradient,) = torch.autograd.grad(score, caught[0])
    return caught[0].detach(), gradient


@pytest.mark.parametrize("head", ["gap", "mlp"])
@pytest.mark.parametrize(
    ("name", "module"), [("captum-gradcam", "captum"), ("pytorch-gradcam", "pytorch_grad_cam")]
)
def test_grad_cam_is_ours(name: str, module: str, head: str) -> None:
    pytest.importorskip(module)
    net, x = network(head), images(3, 32, 48)
    target = torch.tensor([0, 3, 1])
    logits, maps = build_explainer(name, net, layer=layer_of(net))(x, target)
    net.eval()
    expected_logits, expected = GradCAMModel(net, layer_of(net)).explain(x, target, weighting="channel")
    torch.testing.assert_close(logits, expected_logits)
    assert maps.shape == expected.shape
    assert expected.max() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
    boxes = torch.tensor([[10, 5, 30, 20]])
    for found, wanted in zip(maps, expected, strict=True):
        scores = [float(content_heatmap(normalise_map(each), boxes, (32, 48))) for each in (found, wanted)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "module"), [("captum-gradcam", "captum"), ("pytorch-gradcam", "pytorch_grad_cam")]
)
def test_features_are_those_before_a_change_in_place(name: str, module: str) -> None:
    pytest.importorskip(module)
    net, x, target = network("in place"), images(2, 32, 48), torch.tensor([4, 2])
    _, maps = build_explainer(name, net, layer="features")(x, target)
    features, gradient = features_and_gradients(net, x, target)
    expected = F.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1))
    assert features.min() < 0
    assert expected.max() > 0
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


def test_grad_cam_of_the_default_layer() -> None:
    pytest.importorskip("pytorch_grad_cam")
    net, x = network("gap"), images(2, 40, 40)
    expected = build_explainer("gradcam", net, weighting="channel")(x)[1]
    torch.testing.assert_close(build_explainer("pytorch-gradcam", net)(x)[1], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("head", ["gap", "in place"])
def test_layer_cam(head: str) -> None:
    pytest.importorskip("pytorch_grad_cam")
    net, x, target = network(head), images(2, 32, 48), torch.tensor([4, 2])
    _, maps = build_explainer("layercam", net, layer=layer_of(net))(x, target)
    features, gradient = features_and_gradients(net, x, target)
    torch.testing.assert_close(maps, F.relu((F.relu(gradient) * features).sum(1)), rtol=1e-4, atol=1e-6)


def test_grad_cam_plus_plus() -> None:
    pytest.importorskip("pytorch_grad_cam")
    net, x, target = network("gap"), images(2, 32, 48), torch.tensor([4, 2])
    _, maps = build_explainer("gradcam++", net)(x, target)
    features, gradient = features_and_gradients(net, x, target)
    total = features.sum((2, 3), keepdim=True)
    alpha = gradient**2 / (2 * gradient**2 + total * gradient**3 + 1e-6)  # Chattopadhyay et al. 2018, eq. 19
    weight = (alpha * F.relu(gradient)).sum((2, 3), keepdim=True)
    assert maps.max() > 0
    torch.testing.assert_close(
        maps, F.relu((weight * features).sum(1)), rtol=1e-3, atol=1e-5 * float(maps.max())
    )


def test_score_cam(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pytorch_grad_cam")
    net, x, target = network("mlp"), images(2, 16, 24), torch.tensor([4, 2])
    _, maps = build_explainer("scorecam", net, layer="features", batch_size=3)(x, target)
    features, _ = features_and_gradients(net, x, target)
    large = F.interpolate(features, (16, 24), mode="bilinear", align_corners=True)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    masks = (large - low) / (high - low + 1e-8)
    for i in range(2):
        scores = torch.stack([net(x[i : i + 1] * mask)[0, target[i]] for mask in masks[i]])
        expected = F.relu((scores.softmax(0)[:, None, None] * features[i]).sum(0))
        torch.testing.assert_close(maps[i], expected, rtol=1e-4, atol=1e-6)
    assert capfd.readouterr().err == ""  # no progress bars


def test_integrated_gradients_of_a_linear_network() -> None:
    pytest.importorskip("captum")
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2 * 4 * 6, 5))
    x = images(2, 8, 12)
    logits, maps = build_explainer("integrated-gradients", net, steps=3)(x, torch.tensor([1, 2]))
    torch.testing.assert_close(logits, net(x).detach())
    for i, t in enumerate((1, 2)):
        leaf = x[i : i + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(leaf)[0, t], leaf)
        torch.testing.assert_close(maps[i], (gradient * x[i : i + 1]).abs().sum(1)[0], rtol=1e-4, atol=1e-6)


def test_integrated_gradients_by_steps() -> None:
    pytest.importorskip("captum")
    net, x = network("gap").eval(), images(1, 24, 24)
    steps, target = 40, torch.tensor([2])
    maps = build_explainer("integrated-gradients", net, steps=steps, batch_size=7)(x, target)[1]
    leaf = (
        x * ((torch.arange(200) + 0.5) / 200)[:, None, None, None]
    ).requires_grad_()  # a finer midpoint sum
    (gradient,) = torch.autograd.grad(net(leaf)[:, 2].sum(), leaf)
    expected = (gradient.mean(0, keepdim=True) * x).abs().sum(1)
    # The gradient jumps where a ReLU switches, so the two sums agree in the large only.
    assert float((maps - expected).abs().sum() / expected.sum()) < 0.1
    with pytest.raises(InputError, match="steps"):
        build_explainer("integrated-gradients", net, steps=0)


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradient[0] * (x > 0) * (gradient[0] > 0)


def test_guided_backprop_through_in_place_relus_used_twice() -> None:
    pytest.importorskip("captum")
    net, x, target = network("gap"), images(2, 32, 40), torch.tensor([3, 0])
    _, maps = build_explainer("guided-backprop", net)(x, target)

    class Guided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return _GuidedReLU.apply(x)

    guided = copy.deepcopy(net).eval()
    for module in list(guided.modules()):
        if hasattr(module, "relu"):
            module.relu = Guided()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(guided(leaf).gather(1, target[:, None]).sum(), leaf)
    assert maps.max() > 0
    torch.testing.assert_close(maps, gradient.abs().sum(1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", [*CAPTUM, *PYTORCH_GRAD_CAM])
def test_a_missing_library_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, package = ("captum", "captum") if name in CAPTUM else ("pytorch_grad_cam", "grad-cam")
    for loaded in [each for each in sys.modules if each.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        build_explainer(name, network("gap"))


@pytest.mark.parametrize("name", ["captum-gradcam", "pytorch-gradcam", "layercam"])
def test_a_layer_without_a_grid_is_refused_in_one_line(name: str) -> None:
    pytest.importorskip("captum" if name.startswith("captum") else "pytorch_grad_cam")
    explain = build_explainer(name, build_backbone("resnet_tiny", 3), layer="fc")
    with pytest.raises(InputError, match=r"layer 'fc' gives \(2, 3\), not features"):
        explain(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
