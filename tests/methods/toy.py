"""What the tests of the methods share: small networks, smooth images, replicas by hand, a recorder of operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cgc.gradcam import GradCAMModel

SYNCHRONISING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal"}


class InDouble(nn.Module):
    """A network that computes in float64, so that comparisons are tight."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double())


def in_double(
    build: Callable[[], nn.Module], target_layer: str = "layer3", *, frozen_norm: bool = False, seed: int = 0
) -> GradCAMModel:
    """A model in training mode, or with batch norm frozen at statistics that matter."""
    torch.manual_seed(seed)
    model = GradCAMModel(InDouble(build()), f"net.{target_layer}").train()
    return frozen(model) if frozen_norm else model


def frozen(model: GradCAMModel) -> GradCAMModel:
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


class FlatHead(nn.Module):
    """No closed form; 48 px give a grid of 5×5 and 96 px one of 11×11, so the cells are 6 and 5 wide."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 7, stride=4), nn.ReLU(), nn.MaxPool2d(3, 2))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def smooth_images(n: int, size: int, generator: torch.Generator, cells: int = 8) -> Tensor:
    """(n, 3, size, size) uint8; smooth, so that crops differ from one another."""
    noise = torch.rand(n, 3, cells, cells, generator=generator) * 255
    return F.interpolate(noise, (size, size), mode="bilinear").to(torch.uint8)


def blobs(n: int, size: int, generator: torch.Generator) -> Tensor:
    """(n, size, size) uint8, 1 on a coherent foreground."""
    noise = torch.rand(n, 1, 3, 3, generator=generator)
    return (F.interpolate(noise, (size, size), mode="bilinear")[:, 0] > 0.5).to(torch.uint8)


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def relative(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).norm() / expected.norm()).item()


def in_replicas(
    method: nn.Module, shares: Sequence[tuple[Tensor, ...]]
) -> tuple[dict[str, Tensor], Tensor, list[nn.Module]]:
    """DataParallel by hand: a copy of the method for each share of the inputs.

    The outputs concatenated, the gradients of their mean loss added, and the copies.
    """
    replicas = [copy.deepcopy(method) for _ in shares]
    outputs = [replica(*share) for replica, share in zip(replicas, shares, strict=True)]
    together = {key: torch.cat([output[key] for output in outputs]) for key in outputs[0]}
    together["loss"].mean().backward()
    return together, torch.stack([gradients(replica) for replica in replicas]).sum(0), replicas


def check_step(
    outputs: dict[str, Tensor],
    models: tuple[GradCAMModel, GradCAMModel],
    expected: tuple[Tensor, Tensor],
    weight: float,
    atol: float = 1e-7,
) -> None:
    """A step of the first model against the second's, written out: ``expected`` classification and consistency.

    Compares the losses, the gradients, and the running statistics: one update for every pass, in both.
    """
    classification, consistency = expected
    loss = classification + weight * consistency
    torch.testing.assert_close(outputs["cross_entropy"], classification.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs["consistency"], consistency.detach(), rtol=1e-4, atol=atol)
    torch.testing.assert_close(outputs["loss"], loss, rtol=1e-5, atol=1e-5)
    outputs["loss"].mean().backward()
    loss.mean().backward()
    # The views are rounded to float32 before the network.
    assert relative(gradients(models[0]), gradients(models[1])) < 1e-4
    for (name, value), other in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


def check_shares(
    method: nn.Module,
    inputs: tuple[Tensor, ...],
    sizes: Sequence[int],
    written_out: Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]],
    twin: nn.Module,
) -> None:
    """Replicas of a method of weight ½ against the step of each share written out, on the ``twin`` of its model."""
    shares = list(zip(*(tensor.split(sizes) for tensor in inputs), strict=True))
    together, gradient, _ = in_replicas(method, shares)
    parts = [written_out(share) for share in shares]
    cross_entropy, expected = (torch.cat(column) for column in zip(*parts, strict=True))
    (cross_entropy + 0.5 * expected).mean().backward()
    torch.testing.assert_close(together["cross_entropy"], cross_entropy.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together["consistency"], expected.detach(), rtol=1e-4, atol=1e-6)
    assert relative(gradient, gradients(twin)) < 1e-4
    # The negatives are those of the replica alone: the whole batch at once has more of them.
    whole = method(*inputs)
    assert (whole["consistency"] > together["consistency"]).all()
    torch.testing.assert_close(whole["logits"], together["logits"])


def check_consistency_is_learnt(model: nn.Module, loss_with: Callable[[float], Tensor]) -> None:
    """Weights of 0 and 100 give the model's parameters different gradients, finite ones."""
    found = []
    for weight in (0.0, 100.0):
        torch.manual_seed(3)  # the same units dropped
        model.zero_grad()
        loss_with(weight).mean().backward()
        found.append(gradients(model))
    assert found[1].isfinite().all()
    assert relative(found[1], found[0]) > 1e-3


class Recorder(TorchDispatchMode):
    """Names of the operations that run, and the most elements any of them returns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result
