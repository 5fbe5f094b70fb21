"""DataParallel on a real GPU; its arithmetic is tested by chunking on the CPU in test_cgc.py."""

from __future__ import annotations

import pytest
import torch

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
