"""Under autocast the trunk runs in half precision; heatmaps, and heads that are differentiated twice, do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cgc.gradcam import GradCAMModel


class Network(nn.Module):
    """A convolution, then a head: one linear layer (closed form) or two (autograd)."""

    def __init__(self, *, two_layers: bool) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        hidden = [nn.Linear(16, 16), nn.ReLU()] if two_layers else []
        self.classifier = nn.Sequential(*hidden, nn.Linear(16, 5))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.pool(self.trunk(images)).flatten(1))


def explained(model: GradCAMModel, images: Tensor, how: str) -> tuple[Tensor, Tensor]:
    if how == "explain":
        return model.explain(images, torch.zeros(len(images), dtype=torch.int64))
    logits, features = model(images)
    return logits, model.heatmaps(logits, features, torch.zeros(len(images), dtype=torch.int64))


@pytest.mark.parametrize("how", ["explain", "train"])
@pytest.mark.parametrize("two_layers", [True, False])
def test_only_the_trunk_is_in_half_precision(two_layers: bool, how: str) -> None:
    torch.manual_seed(0)
    network = Network(two_layers=two_layers)
    model = GradCAMModel(network)
    assert model.closed_form is not two_layers
    images = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half_features = network.trunk(images)
        assert half_features.dtype == torch.bfloat16
        logits, maps = explained(model, images, how)
        assert torch.is_autocast_enabled("cpu")  # as it was found
        assert (images @ images).dtype == torch.bfloat16
    # The expectation: the half-precision features through a head in float32.
    features = half_features.detach().float().requires_grad_()
    expected = network.classifier(network.pool(features).flatten(1))
    (grad,) = torch.autograd.grad(expected[:, 0].sum(), features)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, (grad * features).sum(1).relu(), rtol=1e-5, atol=1e-7)
    if two_layers:
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected)
