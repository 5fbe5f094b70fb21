"""Every convolutional classifier of torchvision: heatmaps equal autograd's, whatever the head."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from cgc.gradcam import GradCAMModel
from tests.test_gradcam import WEIGHTINGS, autograd_maps, images

TRANSFORMERS = ("vit_", "swin", "maxvit")
SIDES = {"inception_v3": 299, "alexnet": 64, "squeezenet": 48}
SIDES |= dict.fromkeys(("vgg", "convnext"), 32)


def convolutional() -> list[Any]:
    """All names; large ones (the memory of 60 million parameters) only in the slow run."""
    names = [
        name
        for name in torchvision.models.list_models(module=torchvision.models)
        if not name.startswith(TRANSFORMERS)
    ]
    parameters = []
    for name in names:
        weights = torchvision.models.get_model_weights(name)
        large = next(iter(weights)).meta["num_params"] > 26e6
        heavy_but_needed = name in ("alexnet", "vgg11", "convnext_tiny", "inception_v3")
        marks = [pytest.mark.slow] if large and not heavy_but_needed else []
        parameters.append(pytest.param(name, marks=marks))
    return parameters


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=5, **options)


@pytest.mark.parametrize("name", convolutional())
def test_every_torchvision_cnn(name: str) -> None:
    side = next((side for prefix, side in SIDES.items() if name.startswith(prefix)), 64)
    model = GradCAMModel(build(name))
    x = images(2, side)
    for training in (True, False):
        model.train(training)
        logits, features = model(x)
        assert logits.shape == (2, 5)
        assert features.shape[0] == 2
        assert features.dim() == 4
        target = logits.argmax(1)
        for weighting in WEIGHTINGS:
            maps = model.heatmaps(logits, features, weighting=weighting, create_graph=False)
            assert maps.shape == (2, *features.shape[2:])
            assert maps.isfinite().all()
            assert (maps >= 0).all()
            expected = autograd_maps(features, logits, target, weighting)
            scale = (features * features).sum(1).sqrt().max() + 1e-30
            torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * scale.item())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    explained_logits, explained = model.explain(x)
    torch.testing.assert_close(explained_logits, logits.detach())
    torch.testing.assert_close(explained, model.heatmaps(logits, features).detach())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_every_family_is_walked_by_default() -> None:
    def families(names: Iterable[str]) -> set[str]:
        return {torchvision.models.get_model_builder(name).__module__ for name in names}

    every = {parameter.values[0] for parameter in convolutional()}
    default = {parameter.values[0] for parameter in convolutional() if not parameter.marks}
    assert len(families(every)) >= 14
    assert families(default) == families(every)


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_transformers_get_a_clear_error(name: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)layer|features|transformer"):
        GradCAMModel(torchvision.models.get_model(name, weights=None, num_classes=5))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_active_dropout_goes_through_autograd(name: str) -> None:
    """In training the maps are those of the drawn units; afterwards the closed form is back where it holds."""
    model = GradCAMModel(build(name)).train()
    assert not model.closed_form
    torch.manual_seed(1)
    logits, features = model(images(4, 64))
    maps = model.heatmaps(logits, features)
    expected = autograd_maps(features, logits, logits.argmax(1), "elementwise")
    torch.testing.assert_close(maps, expected)
    maps.sum().backward()  # differentiable in training mode
    assert model.backbone.features[0][0].weight.grad is not None
    model.eval()
    assert model.closed_form == (name == "mobilenet_v2")
