"""Architectures by name."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from cgc.errors import InputError, RunError
from cgc.models.backbones import architectures, build_backbone, last_linear


def test_names() -> None:
    names = architectures()
    assert len(set(names)) == len(names)
    assert {"resnet50", "vgg16", "resnet_tiny", "resnet18_small", "convnext_tiny"} <= set(names)
    assert not any("vit" in name or "swin" in name for name in names)


@pytest.mark.parametrize("arch", ["resnet_tiny", "resnet18_small"])
@pytest.mark.parametrize("size", [32, 48])
def test_small_networks_keep_a_map_for_small_images(arch: str, size: int) -> None:
    backbone = build_backbone(arch, 5).eval()
    sizes: list[tuple[int, ...]] = []
    last = backbone.layer3 if arch == "resnet_tiny" else backbone.layer4
    last.register_forward_hook(lambda _m, _i, out: sizes.append(tuple(out.shape[2:])))
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, size, size)).shape == (2, 5)
    assert sizes == [(size // 8, size // 8)]


def test_the_tiny_one_is_tiny() -> None:
    assert sum(p.numel() for p in build_backbone("resnet_tiny", 10).parameters()) < 300_000


def test_weights_come_from_the_global_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_backbone("resnet_tiny", 2).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("arch", ["resnet51", "ResNet50", "", "../resnet50"])
def test_unknown_names_say_what_exists(arch: str) -> None:
    with pytest.raises(InputError) as error:
        build_backbone(arch, 2)
    assert repr(arch) in str(error.value)
    assert any(name in str(error.value) for name in architectures())


@pytest.mark.parametrize("arch", ["vit_b_16", "swin_t", "maxvit_t"])
def test_vision_transformers_are_told_why(arch: str) -> None:
    with pytest.raises(InputError, match=f"{arch} is a vision transformer.*convolutional feature grid"):
        build_backbone(arch, 2)


def test_a_close_name_is_suggested_alone() -> None:
    with pytest.raises(InputError, match="did you mean resnet50") as error:
        build_backbone("resnet5O", 2)
    assert "vgg" not in str(error.value)


def test_small_networks_have_no_pretrained_weights() -> None:
    for arch in ("resnet_tiny", "resnet18_small"):
        with pytest.raises(InputError, match=arch):
            build_backbone(arch, 1000, pretrained=True)


@pytest.mark.parametrize(("classes", "fresh"), [(1000, False), (3, True)])
def test_pretrained_weights_get_a_fresh_head_unless_it_fits(
    monkeypatch: pytest.MonkeyPatch, classes: int, fresh: bool
) -> None:
    torch.manual_seed(0)
    downloaded = torchvision.models.resnet18()
    head = downloaded.fc
    asked: list[object] = []

    def get_model(arch: str, weights: object = None, **_: object) -> nn.Module:
        asked.append((arch, weights))
        return downloaded

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    backbone = build_backbone("resnet18", classes, pretrained=True)
    assert asked == [("resnet18", "IMAGENET1K_V1")]
    assert backbone.fc.out_features == classes
    assert (backbone.fc is not head) == fresh


def test_a_failed_download_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model(*_: object, **__: object) -> nn.Module:
        raise OSError("network is unreachable")

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    with pytest.raises(RunError, match=r"resnet18.*unreachable"):
        build_backbone("resnet18", 1000, pretrained=True)


def test_max_pooling_takes_the_place_of_average_pooling() -> None:
    torch.manual_seed(0)
    average = build_backbone("resnet_tiny", 4).eval()
    torch.manual_seed(0)
    maximum = build_backbone("resnet_tiny", 4, maxpool=True).eval()
    images = torch.randn(2, 3, 32, 32)
    features: list[torch.Tensor] = []
    maximum.layer3.register_forward_hook(lambda _m, _i, out: features.append(out))
    with torch.no_grad():
        logits = maximum(images)
        assert torch.allclose(logits, maximum.fc(features[0].amax(dim=(2, 3))))
        assert not torch.allclose(logits, average(images))


def test_max_pooling_needs_a_global_pooling() -> None:
    for arch in ("squeezenet1_1", "mobilenet_v2"):
        with pytest.raises(InputError, match=arch):
            build_backbone(arch, 2, maxpool=True)


def test_the_last_linear_layer() -> None:
    assert last_linear(build_backbone("resnet_tiny", 4))[0] == "fc"
    name, layer = last_linear(build_backbone("mobilenet_v2", 4))
    assert (name, layer.out_features) == ("classifier.1", 4)
    with pytest.raises(InputError, match="no linear classifier"):
        last_linear(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_not_built(arch: str) -> None:
    names = [name.lower() for name, _ in build_backbone(arch, 2).named_parameters()]
    assert not any(name.startswith("aux") for name in names)


@pytest.mark.parametrize("arch", ["resnet18", "googlenet", "inception_v3"])
def test_pretrained_weights_survive_a_checkpoint(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's published weights (here: random ones of their layout), saved and loaded into a fresh network."""
    layout = torchvision.models.get_model(
        arch, weights=None, **({"init_weights": False} if arch[0] != "r" else {})
    )
    monkeypatch.setattr(
        torchvision.models.WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: layout.state_dict()
    )
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    pretrained = build_backbone(arch, 1000, pretrained=True).eval()
    reloaded = build_backbone(arch, 1000).eval()
    reloaded.load_state_dict(pretrained.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(reloaded(images), pretrained(images))
    assert torch.equal(pretrained.state_dict()["fc.weight"], layout.state_dict()["fc.weight"])
    assert build_backbone(arch, 7, pretrained=True).eval()(images).shape == (1, 7)
