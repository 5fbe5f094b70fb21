"""Time of every method's training step, over the baseline's and over what it must cost at least.

GC over two bare forward and backward passes, one on the images and one on composites that are ready; SGC over CGC on
the same views. All over the baseline, which is one pass of one view: what a method costs a user. The steps share one
network and one optimizer and are timed in interleaved turns; drawing and composing is part of the methods' steps.

    python3 benchmarks/methods.py [--device cuda] [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import common
import torch
import torch.nn.functional as F

from cgc.data.presets import normalise
from cgc.data.unlabelled import PairedBatch
from cgc.data.views import Batch
from cgc.gradcam import GradCAMModel
from cgc.methods import (
    BaselineMethod,
    CGCMethod,
    EnergyMethod,
    GridConsistencyMethod,
    Method,
    SemiSupervisedCGC,
    SGCMethod,
)
from cgc.models.backbones import build_backbone
from cgc.models.weight_gradients import use_matrix_products


@dataclass(frozen=True)
class Setting:
    """One size at which the ratios are measured."""

    arch: str
    side: int
    batch: int
    grid_bound: float = 1.05
    sgc_bound: float = 1.02


SETTINGS = (Setting("resnet_tiny", 64, 128), Setting("resnet18", 224, 8))
QUICK = (Setting("resnet_tiny", 32, 4),)


def random_batch(setting: Setting, device: str) -> Batch:
    """Views, labels of enough classes for distractors, and half of every query as foreground."""
    n, side = setting.batch, setting.side
    views = torch.randint(256, (2, n, 3, side, side), dtype=torch.uint8, device=device)
    xe, query = (view.contiguous(memory_format=torch.channels_last) for view in views)
    saliency = torch.zeros(n, side, side, dtype=torch.uint8, device=device)
    saliency[:, :, : side // 2] = 1
    return Batch(xe, query, torch.arange(n, device=device) % 100, torch.arange(n), [], saliency)


def steps(setting: Setting, device: str) -> dict[str, Callable[[], object]]:
    """Every step, on one network."""
    torch.manual_seed(0)
    model = GradCAMModel(build_backbone(setting.arch, 100)).to(device).train()
    model = model.to(memory_format=torch.channels_last)
    if device == "cpu":
        use_matrix_products(model)  # as training does
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    batch = random_batch(setting, device)
    generator = torch.Generator().manual_seed(0)

    def updated(loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def step_of(method: Method, given: Batch | PairedBatch = batch) -> Callable[[], object]:
        return lambda: updated(method(*method.prepare(given, generator))["loss"].mean())

    grid = GridConsistencyMethod(model)
    _, composites, *_ = grid.prepare(batch, generator)

    def two_passes() -> None:
        assert batch.xe is not None
        images = model.backbone(normalise(batch.xe))
        grids = model.backbone(normalise(composites))
        updated(F.cross_entropy(images, batch.labels) + F.cross_entropy(grids, batch.labels))

    side = setting.side
    boxes = torch.tensor([side // 4, side // 4, side // 2, side // 2], device=device)
    boxed = batch._replace(boxes=boxes.expand(setting.batch, 1, 4))
    paired = PairedBatch(*batch[:5], batch.query, batch.indices)
    return {
        "baseline": step_of(BaselineMethod(model)),
        "two passes": two_passes,
        "GC": step_of(grid),
        "CGC": step_of(CGCMethod(model)),
        "CGC + unlabelled": step_of(SemiSupervisedCGC(model), paired),
        "SGC": step_of(SGCMethod(model)),
        "energy": step_of(EnergyMethod(model), boxed),
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = common.parse_arguments(__doc__, argv)
    repeats = options.repeats or (2 if options.quick else 10)
    print(common.machine(options.device))
    for setting in QUICK if options.quick else SETTINGS:
        print(
            f"{setting.arch}, {setting.side} px, batch {setting.batch}, float32; {repeats} interleaved turns"
        )
        times = common.interleaved(steps(setting, options.device), repeats, options.device)
        for name, values in times.items():
            print(f"  {name:<18}{common.spread(values)}")
        for name, base, bound in (
            ("GC", "two passes", setting.grid_bound),
            ("SGC", "CGC", setting.sgc_bound),
        ):
            ratio, low, high = common.ratio_interval(times[name], times[base])
            interval = f"95 % interval [{low:.3f}, {high:.3f}]"
            print(f"  {name} over {base}: {common.verdict(ratio, bound)}, {interval}")
        for name in (each for each in times if each not in ("baseline", "two passes")):
            ratio, low, high = common.ratio_interval(times[name], times["baseline"])
            print(f"  {name} over baseline: {ratio:.2f}, 95 % interval [{low:.2f}, {high:.2f}]")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
