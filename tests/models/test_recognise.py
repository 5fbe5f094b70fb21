"""Architectures told from names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from cgc.models import recognise as module
from cgc.models.backbones import architectures
from cgc.models.key_names import head_names, plain_names
from cgc.models.recognise import layout, recognise, u2net_size

FEW = ["alexnet", "densenet121", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet18_small", "resnet_tiny",
       "squeezenet1_1", "vgg11", "vgg11_bn"]  # fmt: skip


def blank(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def with_classes(own: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """The same network for another number of classes."""
    head = head_names(own)
    return {name: blank(classes, *w.shape[1:]) if name in head else w for name, w in own.items()}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few architectures, to be quick."""
    monkeypatch.setattr(module, "architectures", lambda: FEW)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("arch", FEW)
def test_each_is_told_from_the_others(arch: str) -> None:
    found = recognise({f"encoder.{name}": w for name, w in with_classes(layout(arch), 17).items()})
    assert found.arch == arch
    assert found.candidates == (arch,)


@pytest.mark.slow
def test_every_architecture_is_told_from_every_other() -> None:
    for arch in architectures():
        assert recognise(plain_names(layout(arch))).candidates == (arch,), arch


@pytest.mark.parametrize("arch", [*FEW, "convnext_tiny", "efficientnet_b0", "regnet_x_400mf", "mnasnet0_5",
                                  "shufflenet_v2_x0_5", "googlenet", "inception_v3", "resnext50_32x4d",
                                  "mobilenet_v3_small", "wide_resnet50_2"])  # fmt: skip
def test_the_first_keys_are_those_of_the_architectures(arch: str) -> None:
    """RegNet takes its widths from small tensors, which must keep their values without memory."""
    assert module._first_key(arch) == next(iter(layout(arch)))


def test_layouts_take_no_memory_and_no_random_numbers() -> None:
    layout.cache_clear()
    before = torch.get_rng_state()
    assert all(w.is_meta for name, w in layout("alexnet").items())
    assert torch.equal(torch.get_rng_state(), before)
    assert layout("alexnet")["classifier.6.weight"].shape == (1000, 4096)


@pytest.mark.usefixtures("few")
def test_what_is_none_of_them_names_the_nearest() -> None:
    weights = {name: w for name, w in layout("resnet18").items() if name != "layer3.0.conv1.weight"}
    found = recognise(weights)
    assert found.candidates == ()
    assert found.arch is None
    assert (found.nearest, found.share) == ("resnet18", (121, 122))
    nothing = recognise({"something.weight": blank(3)})
    assert (nothing.candidates, nothing.nearest) == ((), None)


@pytest.mark.usefixtures("few")
def test_a_file_without_classifier_is_recognised_too() -> None:
    own = layout("resnet18")
    assert recognise({name: w for name, w in own.items() if name not in head_names(own)}).arch == "resnet18"


def test_two_that_fit_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = layout("resnet_tiny")
    monkeypatch.setattr(module, "architectures", lambda: ["resnet_one", "resnet_two"])
    monkeypatch.setattr(module, "layout", lambda arch: tiny)
    found = recognise(tiny)
    assert found.candidates == ("resnet_one", "resnet_two")
    assert found.arch is None


def test_of_two_alike_the_classifier_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = layout("resnet_tiny")
    wide = {**tiny, "fc.weight": blank(1000, 192)}
    monkeypatch.setattr(module, "architectures", lambda: ["resnet_wide", "resnet_narrow"])
    monkeypatch.setattr(module, "layout", lambda arch: wide if arch == "resnet_wide" else tiny)
    assert recognise(with_classes(tiny, 5)).arch == "resnet_narrow"


def test_a_file_with_two_networks_is_not_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "architectures", lambda: ["resnet_tiny"])
    twice = {
        f"{prefix}.{name}": w for prefix in ("query", "key") for name, w in layout("resnet_tiny").items()
    }
    assert recognise(twice).candidates == ()


@pytest.mark.parametrize(("channels", "name"), [(32, "u2net"), (16, "u2netp"), (8, None)])
def test_saliency_networks_are_known_by_name(channels: int, name: str | None) -> None:
    stages = [f"stage{i}" for i in range(1, 7)] + [f"stage{i}d" for i in range(1, 6)]
    weights = {f"{part}.rebnconvin.conv_s1.weight": blank(64, 3, 3, 3) for part in stages}
    weights |= {
        f"{part}.weight": blank(1, 64, 3, 3) for part in (*(f"side{i}" for i in range(1, 7)), "outconv")
    }
    weights["stage1.rebnconv1.conv_s1.weight"] = blank(channels, 64, 3, 3)
    assert u2net_size(weights) == name
    assert u2net_size({**weights, "fc.weight": blank(3, 3)}) is None
    assert u2net_size(layout("resnet_tiny")) is None
