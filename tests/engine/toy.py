"""A trainer with a toy method, small enough to be stopped after every step."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgc.data.folders import open_split
from cgc.data.views import SeededSampler, TrainViews, make_loader
from cgc.engine.checkpoint import CheckpointFolder
from cgc.engine.loop import Trainer
from cgc.engine.optim import make_optimizer, make_schedule
from cgc.engine.progress import LoopOptions, Progress
from cgc.engine.records import RunRecorder
from cgc.engine.runtime import StopRequest
from cgc.engine.step import OptimizerStep
from cgc.spatial import SpatialTransform

SIZE, BATCH, STEPS, EPOCHS = 8, 5, 3, 3
CPU = torch.device("cpu")


class ToyMethod(nn.Module):
    """A linear classifier behind dropout; its loss depends on both views and on the transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(3 * SIZE * SIZE + 5, 3)
        self.norm = nn.BatchNorm1d(3 * SIZE * SIZE)
        self.calls = 0
        self.after: Callable[[int], None] = lambda calls: None
        self.scale: Callable[[int], float] = lambda calls: 1.0

    def prepare(self, batch, generator: torch.Generator) -> tuple[Tensor, ...]:
        packed = SpatialTransform.sample(len(batch.labels), SIZE, generator=generator).pack()
        return batch.xe, batch.query, batch.labels, packed

    def forward(self, xe: Tensor, query: Tensor, labels: Tensor, packed: Tensor) -> dict[str, Tensor]:
        views = ((xe.float() + 0.5 * query.float()) / 255).flatten(1)
        logits = self.linear(torch.cat([self.drop(self.norm(views)), packed.float() / SIZE], dim=1))
        self.calls += 1
        cross_entropy = F.cross_entropy(logits, labels, reduction="none") * self.scale(self.calls)
        self.after(self.calls)
        return {
            "loss": cross_entropy,
            "cross_entropy": cross_entropy.detach(),
            "near_zero": torch.ones_like(cross_entropy.detach()),
            "logits": logits.detach(),
        }


def make_trainer(data: Path, folder: Path, **changes: Any) -> Trainer:
    schedule_name = changes.pop("schedule", "cosine")
    validate = changes.pop("validate", None)
    set_weight = changes.pop("set_weight", lambda share: None)
    lr, parts = changes.pop("lr", 0.1), changes.pop("parts", 1)
    options = LoopOptions(**{"epochs": EPOCHS, "seed": 3, "print_freq": 2, **changes})
    images = open_split(data, "train")
    loader = make_loader(
        TrainViews(images, SIZE), SeededSampler(len(images), seed=options.seed), batch_size=BATCH, workers=0
    )
    torch.manual_seed(options.seed)
    method = ToyMethod()
    optimizer = make_optimizer(method, lr=lr, momentum=0.9, weight_decay=1e-4)
    schedule = make_schedule(schedule_name, optimizer, epochs=options.epochs, steps_per_epoch=STEPS)
    step = OptimizerStep(
        method, method, optimizer, CPU, amp=options.amp, clip_grad_norm=options.clip_grad_norm, parts=parts
    )
    return Trainer(
        step,
        schedule,
        loader,
        CPU,
        options,
        folder=CheckpointFolder(folder, keep=0),
        state=lambda: {"arch": "toy", "state_dict": method.state_dict()},
        validate=validate
        or (lambda stop: ({"val_top1": 50 + float(method.linear.weight.detach().sum())}, [])),
        prepare=method.prepare,
        set_weight=set_weight,
    )


def method_of(trainer: Trainer) -> ToyMethod:
    assert isinstance(trainer.step.method, ToyMethod)
    return trainer.step.method


def stop_after(trainer: Trainer, steps: int) -> StopRequest:
    stop = StopRequest()

    def after(calls: int) -> None:
        if calls == steps:
            stop.signal = signal.SIGINT

    method_of(trainer).after = after
    return stop


def fit(trainer: Trainer, folder: Path, stop: StopRequest | None = None) -> Progress:
    recorder = RunRecorder(folder, folder / "log", {}, first_epoch=trainer.progress.epoch)
    try:
        return trainer.fit(StopRequest() if stop is None else stop, recorder)
    finally:
        recorder.close()
