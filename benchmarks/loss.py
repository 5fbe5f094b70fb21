"""Time of the consistency part: forward and backward from features to their gradients.

Held against (a) copying both feature tensors and both gradients once, (b) the computation as published, with
S x S masks, slice assignment in a loop and Grad-CAM through a second backward pass, on the CPU in a process with the C
library's defaults and in this one, which keeps freed memory as the commands do, (c) itself as the batch grows. All of
it includes the gradient with respect to the linear head's weight.

    python3 benchmarks/loss.py [--device cuda] [--quick]
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence

import common
import torch
from elsewhere import elsewhere
from torch import Tensor

from cgc.gradcam import class_activation_map
from cgc.losses.cgc import cgc_loss
from cgc.spatial import SpatialTransform
from tests.references.cgc import cgc_loss_as_published

CLASSES = 1000
TEMPERATURE = 0.5
COPY_BOUND = 5.0
DIRECT_BOUND = 80.0
PUBLISHED, PUBLISHED_LOSS = "as published (double backward, S x S)", "  its loss alone on closed-form maps"
KEPT = ", freed memory kept"


class Problem:
    """Features of two views and a linear head, as a ResNet's trunk leaves them."""

    def __init__(self, n: int, channels: int, size: int, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.n, self.size = n, size
        self.features = [
            torch.randn(n, channels, 7, 7, generator=generator).relu().to(device).requires_grad_()
            for _ in range(2)
        ]
        self.weight = (torch.randn(CLASSES, channels, generator=generator) * 0.02).to(device).requires_grad_()
        self.target = torch.randint(CLASSES, (n,), generator=generator).to(device)
        packed = SpatialTransform.sample(n, size, generator=generator).pack().to(device)
        self.transform = SpatialTransform.unpack(packed, size)
        self.inputs = (*self.features, self.weight)
        self.copies = [torch.empty_like(features).detach() for features in self.features * 2]

    def ours(self) -> tuple[Tensor, ...]:
        query, augmented = (class_activation_map(x, self.weight, self.target) for x in self.features)
        loss = cgc_loss(query, augmented, self.transform, temperature=TEMPERATURE)
        return torch.autograd.grad(loss, self.inputs)

    def maps_only(self) -> tuple[Tensor, ...]:
        total = sum(class_activation_map(x, self.weight, self.target).sum() for x in self.features)
        return torch.autograd.grad(total, self.inputs)  # type: ignore[arg-type]

    def published(self) -> tuple[Tensor, ...]:
        query, augmented = (self.double_backward_maps(x) for x in self.features)
        loss = cgc_loss_as_published(query, augmented, self.transform, temperature=TEMPERATURE)
        return torch.autograd.grad(loss, self.inputs)

    def published_loss(self) -> tuple[Tensor, ...]:
        query, augmented = (class_activation_map(x, self.weight, self.target) for x in self.features)
        loss = cgc_loss_as_published(query, augmented, self.transform, temperature=TEMPERATURE)
        return torch.autograd.grad(loss, self.inputs)

    def double_backward_maps(self, features: Tensor) -> Tensor:
        logits = features.mean((2, 3)) @ self.weight.T
        score = logits.gather(1, self.target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features, create_graph=True)
        return (gradient * features).sum(1).relu()

    def copy(self) -> None:
        """Both feature tensors and two tensors of their size, standing for the gradients."""
        for source, copied in zip(self.features * 2, self.copies, strict=True):
            copied.copy_(source.detach())


def published(n: int, channels: int, size: int, device: str) -> Callable[[], object]:
    """For a process of its own."""
    return Problem(n, channels, size, device).published


def published_loss(n: int, channels: int, size: int, device: str) -> Callable[[], object]:
    """For a process of its own."""
    return Problem(n, channels, size, device).published_loss


def agreement(problem: Problem) -> float:
    """Largest relative difference (norms) between our gradients and the published computation's."""
    pairs = zip(problem.ours(), problem.published(), strict=True)
    return max(((ours - direct).norm() / direct.norm()).item() for ours, direct in pairs)


def report(name: str, times: list[float]) -> None:
    print(f"  {name:<44}{common.spread(times)}")


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv)
    device = options.device
    n, channels, size = (8, 16, 32) if options.quick else (256, 2048, 224)
    repeats = options.repeats or (2 if options.quick else 15)
    print(common.machine(device))
    print(f"N {n}, C {channels}, 7x7 features, S {size}, K {CLASSES}, float32; median [quartiles]")

    problem = Problem(n, channels, size, device)
    difference = agreement(Problem(8, 16, size, device))
    print(
        f"gradients differ from the published computation's by {difference:.1e} (relative norms, N 8, C 16)"
    )
    works: dict[str, Callable[[], object]] = {
        "copy of two features and two gradients": problem.copy,
        "consistency part, forward + backward": problem.ours,
        "  of which maps alone": problem.maps_only,
    }
    times = common.interleaved(works, repeats, device)
    slow_times = {}  # tens of seconds each
    if not device.startswith("cuda"):
        with contextlib.ExitStack() as processes:
            apart = {
                name: processes.enter_context(elsewhere(functools.partial(make, n, channels, size, device)))
                for name, make in ((PUBLISHED, published), (PUBLISHED_LOSS, published_loss))
            }
            slow_times = common.interleaved(apart, 2, device, warmup=0)
    here: dict[str, Callable[[], object]] = {
        PUBLISHED + KEPT * bool(slow_times): problem.published,
        PUBLISHED_LOSS + KEPT * bool(slow_times): problem.published_loss,
    }
    slow_times |= common.interleaved(here, 2, device, warmup=0)
    for name, values in (times | slow_times).items():
        report(name, values)

    copy, ours, _ = times.values()
    middle = common.quartiles(ours)[1]
    ratio, low, high = common.ratio_interval(ours, copy)
    print(f"over copying: {common.verdict(ratio, COPY_BOUND)}, 95 % interval [{low:.3g}, {high:.3g}]")
    for name, values in slow_times.items():
        faster = common.quartiles(values)[1] / middle
        goal = "" if name.endswith(KEPT) else common.verdict(faster, DIRECT_BOUND, at_most=False)
        print(f"faster than {name.strip()}: {goal or f'{faster:.3g}'}")

    print("as the batch grows (the loss and the maps; only the N x N products grow faster than N):")
    del problem, works, here
    for batch in (2, 4, 8) if options.quick else (64, 128, 256, 512):
        grown = Problem(batch, channels, size, device)
        values = common.interleaved({"": grown.ours}, max(2, repeats // 2), device)[""]
        report(f"N {batch}: {1e6 * common.quartiles(values)[1] / batch:.1f} us per image", values)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
