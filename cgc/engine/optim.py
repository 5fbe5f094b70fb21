"""SGD and the learning-rate schedules, advanced once per step."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

Schedule = Literal["step", "cosine", "onecycle"]

STEP_EPOCHS = 30  # published: the learning rate is divided by ten every 30 epochs


def make_optimizer(model: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> SGD:
    """SGD over all parameters, as published."""
    return SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def make_schedule(name: Schedule, optimizer: Optimizer, *, epochs: int, steps_per_epoch: int) -> LRScheduler:
    """A schedule to be stepped after every optimizer step.

    "step": ÷10 every 30 epochs, as published. "cosine": to zero at the end. "onecycle": the given rate is the peak,
    reached after 30 % of the steps; momentum stays as it is.
    """
    steps = max(1, epochs * steps_per_epoch)
    if name == "step":
        return StepLR(optimizer, step_size=STEP_EPOCHS * steps_per_epoch, gamma=0.1)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1, cycle_momentum=False)
