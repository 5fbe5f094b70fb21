"""From a file to a model for evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cgc.errors import InputError
from cgc.gradcam_probe import PooledLinear
from cgc.models import loading, recognise
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


def test_neither_file_nor_pretrained() -> None:
    with pytest.raises(InputError, match=r"--resume.*--pretrained"):
        load_model("resnet_tiny", None, 3)
    with pytest.raises(InputError, match="-a NAME"):
        load_model(None, None, 3, pretrained=True)


def test_pretrained_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def build(arch: str, classes: int, **options: object) -> torch.nn.Module:
        asked.append((arch, classes, options))
        return build_backbone("resnet_tiny", classes)

    monkeypatch.setattr(loading, "build_backbone", build)
    assert not load_model("resnet50", None, 1000, pretrained=True).training
    assert asked == [("resnet50", 1000, {"pretrained": True, "maxpool": False})]
    with pytest.raises(InputError, match="published weights of resnet50 have 1000 classes, the data 80"):
        load_model("resnet50", None, 80, pretrained=True)
    load_model("resnet50", None, 80, pretrained=True, other_head="initialise", maxpool=True)
    assert asked[1:] == [("resnet50", 80, {"pretrained": True, "maxpool": True})]


def write(path: Path, backbone: torch.nn.Module, prefix: str = "", **more: object) -> Path:
    weights = {f"{prefix}{name}": w for name, w in backbone.state_dict().items()}
    torch.save({"state_dict": weights, **more} if more else weights, path)
    return path


@pytest.mark.parametrize("more", [{}, {"arch": "somebodys_net"}])
def test_a_file_that_does_not_name_its_architecture_is_recognised(
    tmp_path: Path, more: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = TinyResNet(3).eval()
    model = load_model(None, write(tmp_path / "bare.pth", backbone, "module.", **more), 3)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.explain(images)[0], backbone(images))
    said = capsys.readouterr().err
    assert "its keys are those of resnet_tiny" in said
    assert "62 of 62 keys loaded" in said
    assert ("somebodys_net" in said) == bool(more)


def test_what_cannot_be_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = TinyResNet(3).state_dict()
    del weights["conv1.weight"]
    torch.save(weights, tmp_path / "odd.pth")
    with pytest.raises(
        InputError, match=r"odd\.pth names no architecture, .*nearest: resnet_tiny, 61 of 62 keys.*-a NAME"
    ):
        load_model(None, tmp_path / "odd.pth", 3)
    bare = write(tmp_path / "bare.pth", TinyResNet(3))
    found = recognise.Recognised(("resnet_tiny", "its_twin"))
    monkeypatch.setattr(loading, "recognise", lambda weights: found)
    with pytest.raises(InputError, match="those of resnet_tiny, its_twin: choose with -a NAME"):
        load_model(None, bare, 3)
    monkeypatch.setattr(loading, "u2net_size", lambda weights: "u2netp")
    with pytest.raises(InputError, match=r"saliency network \(u2netp\), not a classifier"):
        load_model(None, bare, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(tmp_path: Path, dtype: torch.dtype) -> None:
    backbone = TinyResNet(3).eval()
    half = {k: w.to(dtype) if w.is_floating_point() else w for k, w in backbone.state_dict().items()}
    torch.save(half, tmp_path / "half.pth")
    model = load_model("resnet_tiny", tmp_path / "half.pth", 3)
    for name, weight in model.backbone.state_dict().items():
        assert weight.dtype == backbone.state_dict()[name].dtype
        assert torch.equal(weight, half[name].to(weight.dtype))


def test_another_head_initialises_the_trunk_and_says_so(
    saved: tuple[Path, TinyResNet], capsys: pytest.CaptureFixture[str]
) -> None:
    path, backbone = saved
    torch.manual_seed(1)
    model = load_model(None, path, 5, other_head="initialise")
    said = capsys.readouterr().err
    assert "60 of 62 keys loaded, fresh classifier (fc.weight, fc.bias): the file's has 3 classes" in said
    assert torch.equal(model.backbone.conv1.weight, backbone.conv1.weight)
    assert model.backbone.fc.out_features == 5
    torch.manual_seed(2)
    again = load_model(None, path, 5, other_head="initialise")
    assert torch.equal(again.backbone.fc.weight, model.backbone.fc.weight), "another fresh head every time"
    same = load_model(None, path, 3, other_head="initialise")
    assert torch.equal(same.backbone.fc.weight, backbone.fc.weight)
    assert "fresh" not in capsys.readouterr().err.splitlines()[-1]


def test_swavs_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a tiny network: a classifier called projection_head, or a projector and prototypes."""
    backbone = TinyResNet(3)
    trunk = {f"module.{k}": w for k, w in backbone.state_dict().items() if not k.startswith("fc.")}
    head = {f"module.projection_head.{k}": w for k, w in backbone.fc.state_dict().items()}
    torch.save({"state_dict": trunk | head, "arch": "resnet_tiny"}, tmp_path / "tuned.pth.tar")
    model = load_model(None, tmp_path / "tuned.pth.tar", 3)
    assert torch.equal(model.backbone.fc.weight, backbone.fc.weight)
    assert "projection_head is the classifier fc" in capsys.readouterr().err
    projector = {f"module.projection_head.{i}.weight": torch.zeros(8, 96) for i in (0, 3)}
    projector["module.prototypes.weight"] = torch.zeros(30, 8)
    torch.save(trunk | projector, tmp_path / "swav.pth.tar")
    with pytest.raises(InputError, match="holds the trunk of resnet_tiny and no classifier"):
        load_model(None, tmp_path / "swav.pth.tar", 3)
    capsys.readouterr()
    model = load_model(None, tmp_path / "swav.pth.tar", 3, other_head="initialise")
    said = capsys.readouterr().err
    assert "60 of 62 keys loaded" in said
    assert "the file has none for this network" in said
    assert "left out: 3 keys (projection_head.0.weight, projection_head.3.weight, prototypes.weight)" in said
    assert torch.equal(model.backbone.layer3.conv1.weight, backbone.layer3.conv1.weight)


def test_initialising_needs_the_whole_trunk(tmp_path: Path) -> None:
    weights = TinyResNet(3).state_dict()
    del weights["layer2.conv1.weight"]
    torch.save(weights, tmp_path / "cut.pth")
    with pytest.raises(InputError, match=r"does not fit.*1 missing \(layer2\.conv1\.weight\)$"):
        load_model("resnet_tiny", tmp_path / "cut.pth", 5, other_head="initialise")


def test_global_max_pooling_is_an_option_unless_the_file_tells(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.pth", TinyResNet(3))
    assert load_model("resnet_tiny", plain, 3).pooled_linear == PooledLinear("avg", "fc", ())
    assert load_model("resnet_tiny", plain, 3, maxpool=True).pooled_linear == PooledLinear("max", "fc", ())
    ours = write(tmp_path / "ours.pth", TinyResNet(3), arch="resnet_tiny", options={"maxpool": True})
    assert load_model(None, ours, 3).pooled_linear == PooledLinear("max", "fc", ())


def test_the_layer_to_explain(saved: tuple[Path, TinyResNet]) -> None:
    path, _ = saved
    model = load_model(None, path, 3, target_layer="layer2")
    assert model.target_layer == "layer2"
    with pytest.raises(InputError, match=r"resnet_tiny has no layer 'layer4'; it has layer\d"):
        load_model(None, path, 3, target_layer="layer4")
    with pytest.raises(InputError, match="has no layer 'x'; it has conv1, bn1"):
        load_model(None, path, 3, target_layer="x")
    with pytest.raises(InputError, match="resnet_tiny: layer 'fc' gives"):
        load_model(None, path, 3, target_layer="fc")
