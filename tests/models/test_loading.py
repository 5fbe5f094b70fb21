"""From a file to a model for evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgc.errors import InputError
from cgc.models import loading
from cgc.models.backbones import TinyResNet, build_backbone
from cgc.models.checkpoint_layouts import released_state_dict
from cgc.models.loading import load_model


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, TinyResNet]:
    backbone = TinyResNet(3).eval()
    path = tmp_path / "model.pth.tar"
    torch.save({"epoch": 1, "arch": "resnet_tiny", "state_dict": released_state_dict(backbone)}, path)
    return path, backbone


@pytest.mark.parametrize("arch", ["resnet_tiny", None])
def test_the_model_of_a_file(saved: tuple[Path, TinyResNet], arch: str | None) -> None:
    path, backbone = saved
    model = load_model(arch, path, 3)
    assert not any(module.training for module in model.modules())
    images = torch.randn(2, 3, 32, 32)
    logits, maps = model.explain(images)
    assert torch.allclose(logits, backbone(images), atol=1e-6)
    assert maps.shape == (2, 4, 4)
    assert not maps.requires_grad


def test_another_number_of_classes_names_both(saved: tuple[Path, TinyResNet]) -> None:
    with pytest.raises(InputError, match=r"model\.pth\.tar has 3 classes, the data 5"):
        load_model(None, saved[0], 5)


def test_another_architecture_does_not_fit(saved: tuple[Path, TinyResNet]) -> None:
    with pytest.raises(InputError, match="does not fit"):
        load_model("resnet18", saved[0], 3)


def test_a_file_that_does_not_name_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "bare.pth"
    torch.save(TinyResNet(3).state_dict(), path)
    with pytest.raises(InputError, match=r"bare\.pth.*-a NAME"):
        load_model(None, path, 3)
    assert load_model("resnet_tiny", path, 3).backbone.fc.out_features == 3


def test_neither_file_nor_pretrained() -> None:
    with pytest.raises(InputError, match=r"--resume.*--pretrained"):
        load_model("resnet_tiny", None, 3)
    with pytest.raises(InputError, match="-a NAME"):
        load_model(None, None, 3, pretrained=True)


def test_pretrained_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def build(arch: str, classes: int, *, pretrained: bool = False) -> torch.nn.Module:
        asked.append((arch, classes, pretrained))
        return build_backbone("resnet_tiny", classes)

    monkeypatch.setattr(loading, "build_backbone", build)
    assert not load_model("resnet50", None, 1000, pretrained=True).training
    assert asked == [("resnet50", 1000, True)]
