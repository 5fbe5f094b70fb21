"""Several heatmaps of one image from one forward pass."""

from __future__ import annotations

import pytest
import torch

from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone


@pytest.mark.parametrize("arch", ["resnet_tiny", "squeezenet1_1"])  # closed form, autograd
@pytest.mark.parametrize("weighting", ["elementwise", "channel"])
def test_maps_of_one_pass_equal_those_of_one_pass_each(arch, weighting):
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(arch, 5)).eval()
    assert model.closed_form == (arch == "resnet_tiny")
    images = torch.randn(3, 3, 64, 80)
    owner, target = torch.tensor([0, 1, 1, 1, 2, 0]), torch.tensor([4, 0, 3, 2, 1, 0])
    logits, maps = model.explain(images, target, owner, weighting=weighting)
    alone_logits, alone_maps = model.explain(images[owner], target, weighting=weighting)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(logits[owner], alone_logits)
    torch.testing.assert_close(maps, alone_maps)
    assert maps.amax((1, 2)).gt(0).sum() >= 3  # not all zero
    assert not maps.requires_grad


def test_the_forward_pass_runs_once():
    model = GradCAMModel(build_backbone("squeezenet1_1", 5)).eval()
    calls = []
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    model.explain(torch.randn(1, 3, 64, 64), torch.arange(5), torch.zeros(5, dtype=torch.long))
    assert calls == [1]
