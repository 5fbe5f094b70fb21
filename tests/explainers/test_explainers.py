"""What holds of every explainer, and finding one by name."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgc.errors import InputError
from cgc.explainers import EXPLAINERS, build_explainer
from cgc.models.backbones import TinyResNet, build_backbone
from tests.explainers.test_excitation import images, with_random_statistics

OPTIONS: dict[str, dict[str, Any]] = {
    "rise": {"masks": 24, "cells": 3, "batch_size": 16},
    "integrated-gradients": {"steps": 4},
    "scorecam": {"batch_size": 96},
}
NEEDS = {
    **dict.fromkeys(("gradcam++", "scorecam", "layercam", "pytorch-gradcam"), "pytorch_grad_cam"),
    **dict.fromkeys(("integrated-gradients", "guided-backprop", "captum-gradcam"), "captum"),
}
FULL_SIZE = ("rise", "integrated-gradients", "guided-backprop")


def build(name: str, net: nn.Module, **options: Any) -> Any:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return build_explainer(name, net, **{**OPTIONS.get(name, {}), **options})


def network() -> nn.Module:
    torch.manual_seed(0)
    return with_random_statistics(build_backbone("resnet_tiny", 5))


def test_the_names() -> None:
    assert list(EXPLAINERS) == [
        "gradcam",
        "excitation",
        "contrastive-excitation",
        "rise",
        "gradcam++",
        "scorecam",
        "layercam",
        "integrated-gradients",
        "guided-backprop",
        "captum-gradcam",
        "pytorch-gradcam",
    ]


def _hooks(net: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, kind)) for module in net.modules() for kind in kinds]


def _state(net: nn.Module) -> dict[str, Any]:
    return {
        "modes": [module.training for module in net.modules()],
        "hooks": _hooks(net),
        "in place": [getattr(module, "inplace", None) for module in net.modules()],
        "flags": [parameter.requires_grad for parameter in net.parameters()],
        "objects": [id(each) for each in (*net.parameters(), *net.buffers(), *net.modules())],
    }


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_model_is_left_as_found(name: str) -> None:
    net = network().train()
    net.layer2.eval()  # type: ignore[operator]
    net.conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    net.fc.weight.grad = torch.full_like(net.fc.weight, 7.0)  # type: ignore[union-attr, arg-type]
    seen: list[int] = []
    net.layer1.register_forward_hook(lambda *_: seen.append(1))  # type: ignore[union-attr]
    before, weights = _state(net), {key: value.clone() for key, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    x, target = images(2, 16, 24), torch.tensor([1, 3])
    x_before = x.clone()
    explain = build(name, net)
    assert not explain(x, target)[1].requires_grad
    assert torch.is_grad_enabled()
    assert _state(net) == before
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())
    assert torch.equal(net.fc.weight.grad, torch.full_like(net.fc.weight, 7.0))  # type: ignore[union-attr, arg-type]
    assert net.bn1.weight.grad is None  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, x_before)
    assert not x.requires_grad


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_model_is_left_as_found_by_a_failure(name: str) -> None:
    net = network().train()
    explain = build(name, net)
    before = _state(net)
    with pytest.raises((IndexError, RuntimeError, AssertionError)):
        explain(images(1, 32, 32), torch.tensor([99]))
    assert _state(net) == before


@pytest.mark.parametrize("name", EXPLAINERS)
def test_maps_and_logits(name: str) -> None:
    net, x = network(), images(3, 24, 32)
    target = torch.tensor([1, 3, 0])
    explain = build(name, net)
    logits, maps = explain(x, target)
    with torch.no_grad():
        torch.testing.assert_close(logits, net.eval()(x))
    grid = (24, 32) if name in FULL_SIZE else (3, 4)
    assert maps.shape == (3, *grid)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    assert maps.any()
    # Images do not influence each other, the classes do matter.
    torch.testing.assert_close(
        explain(x[1:2], target[1:2])[1][0], maps[1], rtol=1e-3, atol=1e-4 * float(maps.max())
    )
    assert not torch.allclose(explain(x, torch.tensor([2, 2, 2]))[1], maps, rtol=1e-3)
    # Without a class: the predicted one.
    predicted = explain(x)[1]
    torch.testing.assert_close(explain(x, logits.argmax(1))[1], predicted)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_several_maps_of_an_image(name: str) -> None:
    net, x = network(), images(2, 16, 24)
    owner, target = torch.tensor([1, 0, 1]), torch.tensor([0, 2, 4])
    _, expected = build(name, net)(x[owner], target)
    with torch.no_grad():
        expected_logits = net.eval()(x)
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * float(expected.max())}
    for batch_size in (1, 8):
        logits, maps = build(name, net, batch_size=batch_size)(x, target, owner)
        torch.testing.assert_close(logits, expected_logits)
        torch.testing.assert_close(maps, expected, **tolerance)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_images_that_no_map_is_asked_of(name: str) -> None:
    net, x = network(), images(3, 16, 24)
    expected = build(name, net)(x[1:2], torch.tensor([3]))
    for batch_size in (1, 8):
        logits, maps = build(name, net, batch_size=batch_size)(x, torch.tensor([3]), torch.tensor([1]))
        assert logits.shape == (3, 5)
        torch.testing.assert_close(logits[1:2], expected[0])
        torch.testing.assert_close(maps, expected[1], rtol=1e-3, atol=1e-4 * float(maps.max()))


@pytest.mark.parametrize("name", ["scorecam", "guided-backprop", "captum-gradcam"])
def test_no_copy_outlives_the_call(name: str) -> None:
    net, x = network(), images(1, 16, 16)
    explain = build(name, net)
    explain(x)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is TinyResNet for each in gc.get_objects())
        explain(x)
        assert sum(type(each) is TinyResNet for each in gc.get_objects()) == before
    finally:
        gc.enable()


@pytest.mark.parametrize("name", EXPLAINERS)
def test_new_weights_are_seen(name: str) -> None:
    net, x = network(), images(1, 16, 16)
    explain = build(name, net)
    first = explain(x, torch.tensor([1]))[1]
    with torch.no_grad():
        net.fc.weight[1] = net.fc.weight[3]  # type: ignore[index]
    assert not torch.allclose(explain(x, torch.tensor([1]))[1], first, rtol=1e-3)


def test_outputs_with_auxiliary_logits() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class WithOutput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Output:
            return Output(self.net(x))

    net, x = WithOutput(), images(1, 32, 32)
    for name in ("rise", "contrastive-excitation", "captum-gradcam", "pytorch-gradcam"):
        inside, outside = ({}, {}) if name == "rise" else ({"layer": "layer2"}, {"layer": "net.layer2"})
        expected = build(name, net.net, **inside)(x, torch.tensor([1]))[1]
        torch.testing.assert_close(build(name, net, **outside)(x, torch.tensor([1]))[1], expected)


@pytest.mark.parametrize(
    ("name", "said"),
    [("grad-cam", "did you mean.*gradcam"), ("excitaton", "excitation"), ("zzz", "known: .*captum-gradcam")],
)
def test_unknown_names(name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"unknown explainer '{name}'; .*{said}"):
        build_explainer(name, network())


def test_options() -> None:
    net = network()
    assert len(build_explainer("rise", net, masks=5, weighting="channel").masks) == 5  # type: ignore[attr-defined]
    build_explainer("gradcam", net, masks=5)  # an option of another explainer
    with pytest.raises(InputError, match="unknown option 'mask' of explainers; did you mean masks"):
        build_explainer("rise", net, mask=5)
    with pytest.raises(InputError, match="rise explains no layer, but layer 'layer2'"):
        build_explainer("rise", net, layer="layer2")
    with pytest.raises(InputError, match="'both'"):
        build_explainer("gradcam", net, weighting="both")
    with pytest.raises(InputError, match="no layer 'layer7'"):
        build_explainer("gradcam", net, layer="layer7")
    with pytest.raises(InputError, match="batch_size"):
        build_explainer("gradcam", net, batch_size=0)
    with pytest.raises(InputError, match="has no convolution"):
        build_explainer("gradcam", nn.Sequential(nn.Flatten(), nn.Linear(3, 2)))


@pytest.mark.parametrize(
    ("target", "owner"),
    [(torch.tensor([1]), None), (None, torch.tensor([0])), (torch.tensor([1, 2, 3]), [0, 1])],
)
def test_shapes_that_do_not_fit(target: Any, owner: Any) -> None:
    owner = torch.tensor(owner) if isinstance(owner, list) else owner
    with pytest.raises(ValueError, match=r"do not fit|need a target"):
        build_explainer("gradcam", network())(images(2, 32, 32), target, owner)


@pytest.fixture(autouse=True)
def _no_autograd_left_on() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled()
