"""SGD with one or two learning rates, and the schedules, advanced once per step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR, StepLR

from cgc.models.key_names import head_names

Schedule = Literal["step", "cosine", "onecycle", "multistep"]

STEP_EPOCHS = 30  # published: the learning rate is divided by ten every 30 epochs
DECAY_EPOCHS = (12, 16)  # published for training with 1 % of the labels, as is the factor
DECAY = 0.2


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    lr_last_layer: float | None = None,
) -> SGD:
    """SGD over all parameters, as published; on CPU and GPU in one pass over the weights (torch's fused kernel).

    With ``lr_last_layer`` the classifier, which is the model's last linear layer (or last convolution, where that one
    classifies), has this rate and is the second group of parameters; the first group is all the rest.

    Raises ValueError if a rate is asked for the classifier of a model that has none.
    """
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    if lr_last_layer is None:
        return SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    parameters = dict(model.named_parameters())
    if not any(name.endswith("weight") and p.dim() in (2, 4) for name, p in parameters.items()):
        raise ValueError(f"{type(model).__name__} has no linear layer that could have a rate of its own")
    head = head_names(parameters)
    groups = [
        {"params": [p for name, p in parameters.items() if name not in head], "lr": lr},
        {"params": [parameters[name] for name in head], "lr": lr_last_layer},
    ]
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)


def make_schedule(
    name: Schedule,
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    milestones: Sequence[int] = DECAY_EPOCHS,
    gamma: float = DECAY,
) -> LRScheduler:
    """A schedule to be stepped after every optimizer step; it scales the rates of all groups alike.

    "step": ÷10 every 30 epochs, as published. "cosine": to zero at the end. "onecycle": the given rate is the peak,
    reached after 30 % of the steps; momentum stays as it is. "multistep": times ``gamma`` once so many epochs are done
    as ``milestones`` says, for each of them; no other schedule reads these two.

    Raises ValueError for milestones below 1 and a gamma that is not positive.
    """
    steps = max(1, epochs * steps_per_epoch)
    if name == "step":
        return StepLR(optimizer, step_size=STEP_EPOCHS * steps_per_epoch, gamma=0.1)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    if name == "multistep":
        if min(milestones, default=1) < 1 or not gamma > 0:
            raise ValueError(
                f"multistep needs milestones >= 1 and gamma > 0, got {list(milestones)} and {gamma}"
            )
        return MultiStepLR(optimizer, [epoch * steps_per_epoch for epoch in milestones], gamma)
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1, cycle_momentum=False)


def advance(schedule: LRScheduler, steps: int) -> None:
    """Bring a schedule that was just made to where it is after so many steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step")
        for _ in range(steps):
            schedule.step()
