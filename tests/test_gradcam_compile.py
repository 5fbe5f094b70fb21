"""A compiled trunk gives the same heatmaps, and the same gradients of a loss made of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from cgc.gradcam import GradCAMModel
from cgc.methods import CGCMethod
from cgc.models.backbones import build_backbone
from cgc.spatial import SpatialTransform


def loss_and_gradients(model: GradCAMModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    packed = SpatialTransform.sample(4, 32, generator=generator).pack()
    loss = CGCMethod(model)(views, views, torch.arange(4), packed)["loss"].mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("arch", "backend"),
    [
        ("resnet_tiny", "eager"),  # closed form
        pytest.param("mobilenet_v3_small", "eager", marks=pytest.mark.slow),  # autograd through the head
        pytest.param("resnet_tiny", "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled_trunk(arch: str, backend: str) -> None:
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(arch, 5)).eval()  # frozen batch norm and dropout
    compiled = copy.deepcopy(model)
    compiled.compile_trunk(backend=backend)
    try:
        assert any(m._compiled_call_impl is not None for m in compiled.backbone.modules())
        assert compiled.backbone.get_submodule(model.target_layer)._compiled_call_impl is None
        for plain, ours in zip(loss_and_gradients(model), loss_and_gradients(compiled), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5)
    finally:
        torch.compiler.reset()


def test_every_region_has_room_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share one, and what does not fit is silently not compiled: training, validation and short batches each."""
    from torch._dynamo import config

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    monkeypatch.setattr(config, limit, 8)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    GradCAMModel(build_backbone("resnet18", 2)).compile_trunk()
    assert getattr(config, limit) == 8 * len(compiled) > 8
