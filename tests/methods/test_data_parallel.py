"""Replicas: DataParallel on a real GPU, and the way it makes replicas, in threads, on the CPU."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from cgc.gradcam import GradCAMModel
from cgc.methods import CGCMethod
from cgc.models.backbones import build_backbone
from cgc.spatial import SpatialTransform


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("arch", ["resnet_tiny", "mobilenet_v3_small"])  # closed form and autograd
def test_two_replicas_on_one_gpu_equal_the_two_chunks(arch: str) -> None:
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(arch, 7)).cuda().eval()  # frozen batch norm, no dropout
    method = CGCMethod(model)
    xe, query = (torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8).cuda() for _ in range(2))
    labels = torch.arange(8).cuda() % 7
    packed = SpatialTransform.sample(8, 64, generator=torch.Generator().manual_seed(1)).pack().cuda()

    def gradients(outputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        model.zero_grad()
        outputs["loss"].mean().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    parallel = torch.nn.DataParallel(method, device_ids=[0, 0])(xe, query, labels, packed)
    chunks = [method(xe[s], query[s], labels[s], packed[s]) for s in (slice(0, 4), slice(4, 8))]
    chunked = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    for name, value in chunked.items():
        torch.testing.assert_close(parallel[name], value, rtol=1e-4, atol=1e-5)
    expected_gradients = gradients(chunked)
    for ours, theirs in zip(gradients(parallel), expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def replica(module: nn.Module) -> nn.Module:
    """What DataParallel makes of a module: a shallow copy with plain tensors for parameters."""
    copy = module._replicate_for_data_parallel()
    for name, parameter in module._parameters.items():
        if parameter is None:
            copy._parameters[name] = None
        else:
            setattr(copy, name, parameter * 1)
    for name, child in module._modules.items():
        if child is not None:
            setattr(copy, name, replica(child))
    return copy


@pytest.mark.parametrize("arch", ["resnet_tiny", "mobilenet_v3_small"])  # closed form and autograd
def test_replicas_in_threads_catch_their_own_features(arch: str) -> None:
    """Replicas share the dictionary of hooks; each thread must still get the features of its own images."""
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(arch, 7)).eval()
    method = CGCMethod(model)
    views = torch.randint(256, (4, 2, 3, 64, 64), dtype=torch.uint8)
    packed = SpatialTransform.sample(2, 64, generator=torch.Generator().manual_seed(1)).pack()
    labels = torch.tensor([1, 2])
    expected = [method(x, x, labels, packed)["loss"] for x in views]
    found: dict[int, torch.Tensor] = {}

    def run(i: int, one: nn.Module) -> None:
        found[i] = one(views[i], views[i], labels, packed)["loss"]

    threads = [threading.Thread(target=run, args=(i, replica(method))) for i in range(len(views))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(len(views)))
    for i, loss in enumerate(expected):
        torch.testing.assert_close(found[i], loss, rtol=1e-4, atol=1e-5)
    found[0].mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not model.backbone.get_submodule(model.target_layer)._forward_hooks


def test_the_consistency_reaches_the_weights_in_eval_mode_too() -> None:
    """Training with frozen batch norm: autograd heatmaps must stay differentiable."""
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone("mobilenet_v3_small", 5)).eval()
    views = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    packed = SpatialTransform.sample(4, 64, generator=torch.Generator().manual_seed(1)).pack()
    gradients = []
    for weight in (0.5, 1000.0):
        model.zero_grad()
        CGCMethod(model, weight=weight)(views, views, torch.arange(4), packed)["loss"].mean().backward()
        gradients.append(model.backbone.get_submodule("classifier.0").weight.grad.clone())
    # Beyond the linear effect of λ through the features: with constant G this layer would see cross-entropy alone.
    assert not torch.allclose(gradients[0], gradients[1], rtol=0.1)
