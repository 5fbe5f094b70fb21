"""timm's networks by name: tiny ones that timm has for tests; nothing is downloaded."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgc.errors import InputError, RunError
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone, pretrained_classes
from cgc.models.loading import load_model
from cgc.models.timm_models import _use_max_pool

timm = pytest.importorskip("timm")

IMAGENET = (
    torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
)


def images(n: int = 2, size: int = 64) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def logits(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(batch)


def test_another_normalisation_is_converted_inside() -> None:
    """test_resnet expects mean and deviation 0.5: with our images it must say what timm's says with its own."""
    torch.manual_seed(0)
    ours = build_backbone("timm:test_resnet", 5)
    theirs = timm.create_model("test_resnet", num_classes=5)
    assert theirs.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    theirs.load_state_dict(ours.state_dict())
    mean, std = IMAGENET
    expected = logits(theirs, (images() - 0.5) / 0.5)
    for model in (ours, copy.deepcopy(ours)):
        torch.testing.assert_close(logits(model, (images() - mean) / std), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(theirs, (images() - mean) / std), expected, atol=1e-3)


def test_the_keys_stay_timms_own() -> None:
    ours, theirs = build_backbone("timm:test_resnet", 5), timm.create_model("test_resnet", num_classes=5)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_networks_that_expect_imagenets_are_left_alone() -> None:
    model = build_backbone("timm:test_efficientnet", 3)
    assert model.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert not model._forward_pre_hooks


def test_maps_and_gradients_go_through() -> None:
    model = GradCAMModel(build_backbone("timm:test_resnet", 5))
    assert model.closed_form
    out, features = model(images())
    model.heatmaps(out, features).sum().backward()
    assert model.backbone.conv1[0].weight.grad.abs().sum() > 0
    found, maps = model.eval().explain(images())
    assert found.shape == (2, 5)
    assert maps.shape[1:] == features.shape[2:]


def test_max_pooling() -> None:
    torch.manual_seed(0)
    average = build_backbone("timm:test_resnet", 5)
    maximum = build_backbone("timm:test_resnet", 5, maxpool=True)
    maximum.load_state_dict(average.state_dict())
    with torch.no_grad():
        features = maximum.eval().forward_features(images())
        assert torch.allclose(maximum.forward_head(features), maximum.fc(features.amax((2, 3))), atol=1e-6)
    assert GradCAMModel(maximum).pooled_linear.pool == "max"
    with pytest.raises(InputError, match="--maxpool"):
        _use_max_pool("timm:other", nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:resnett50", "did you mean timm:resnet50"),
        ("timm:", "knows no network ''"),
        ("timm:resnet50.mine", "no weights 'mine' of resnet50; it has a1_in1k"),
        ("timm:test_vit", "convolutional feature grid"),
        ("timm:mixer_s16_224", "convolutional feature grid"),
        ("timm:mambaout_femto", "convolutional feature grid"),
        ("timm:vit_tiny_patch16_224", "vision transformer"),
        ("timm:swin_tiny_patch4_window7_224", "vision transformer"),
    ],
)
def test_names_that_do_not_work(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        build_backbone(name, 2)
    assert "\n" not in str(error.value)


def test_without_timm_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        build_backbone("timm:resnet18", 2)


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def create(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise OSError("no route to the hub\nsecond line")
        return build(name, **options)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(RunError, match=r"timm:test_resnet could not be downloaded: no route to the hub$"):
        build_backbone("timm:test_resnet", 1000, pretrained=True)


def test_weights_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="no pretrained weights for 'timm:regnetz_005'"):
        build_backbone("timm:regnetz_005", 1000, pretrained=True)


def test_published_weights_of_other_classes_are_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh classifier in place of one of 11,821 classes would score as if it were trained."""
    assert pretrained_classes("timm:convnext_tiny.in12k") == 11821
    assert pretrained_classes("timm:resnet50.a1_in1k") == pretrained_classes("resnet50") == 1000
    with pytest.raises(InputError, match="11821 classes, the data 1000"):
        load_model("timm:convnext_tiny.in12k", None, 1000, pretrained=True)


@pytest.mark.parametrize("named", [True, False])
def test_a_checkpoint_of_ours_comes_back(
    tmp_path: Any, named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build_backbone("timm:test_resnet", 4)
    content = {"state_dict": {f"module.{k}": w for k, w in backbone.state_dict().items()}}
    torch.save(content | ({"arch": "timm:test_resnet"} if named else {}), tmp_path / "m.pth.tar")
    model = load_model(None if named else "timm:test_resnet", tmp_path / "m.pth.tar", 4)
    assert torch.equal(logits(model.backbone, images()), logits(backbone, images()))
