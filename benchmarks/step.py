"""Time of a CGC training step over plain cross-entropy on the same three views.

Both steps take the same uint8 views, make the augmented view, run the trunk three times, go backward and update
the weights; they share one network and one optimizer, and are timed in interleaved pairs. What is left of the
ratio is the heatmaps and the consistency loss.

    python3 benchmarks/step.py [--device cuda] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import common
import torch

from cgc.gradcam import GradCAMModel
from cgc.methods.cgc import CGCMethod
from cgc.models.backbones import build_backbone
from cgc.spatial import SpatialTransform


@dataclass(frozen=True)
class Setting:
    """One size at which the ratio is measured."""

    arch: str
    side: int
    batch: int
    bound: float


SETTINGS = (Setting("resnet_tiny", 64, 256, 1.03), Setting("resnet18", 224, 16, 1.01))
QUICK = (Setting("resnet_tiny", 32, 4, 1.03),)


def steps(setting: Setting, device: str) -> dict[str, Callable[[], object]]:
    """The two training steps on one network, in the form the trainer runs them."""
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(setting.arch, 100)).to(device).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    shape = (setting.batch, 3, setting.side, setting.side)
    xe, query = (
        torch.randint(256, shape, dtype=torch.uint8).to(device, memory_format=torch.channels_last)
        for _ in range(2)
    )
    labels = torch.randint(100, (setting.batch,)).to(device)
    packed = SpatialTransform.sample(setting.batch, setting.side).pack().to(device)

    def step_of(method: torch.nn.Module) -> Callable[[], object]:
        def step() -> None:
            optimizer.zero_grad()
            method(xe, query, labels, packed)["loss"].mean().backward()
            optimizer.step()

        return step

    return {"cross-entropy": step_of(CGCMethod(model, weight=0)), "CGC": step_of(CGCMethod(model))}


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv)
    repeats = options.repeats or (2 if options.quick else 20)
    print(common.machine(options.device))
    for setting in QUICK if options.quick else SETTINGS:
        print(
            f"{setting.arch}, {setting.side} px, batch {setting.batch}, float32; {repeats} interleaved pairs"
        )
        times = common.interleaved(steps(setting, options.device), repeats, options.device)
        for name, values in times.items():
            print(f"  {name:<16}{common.spread(values)}")
        ratio, low, high = common.ratio_interval(times["CGC"], times["cross-entropy"])
        interval = f"95 % interval [{low:.3f}, {high:.3f}]"
        print(f"  CGC over cross-entropy: {common.verdict(ratio, setting.bound)}, {interval}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
