"""The learning-rate schedules against the rules they are named after."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cgc.engine.optim import Schedule, make_optimizer, make_schedule


def rates(name: Schedule, *, epochs: int, steps: int, lr: float = 0.4) -> list[float]:
    """The rate that each step of a run uses, and the one after the last step."""
    optimizer = make_optimizer(nn.Linear(2, 1), lr=lr, momentum=0.9, weight_decay=0.0)
    schedule = make_schedule(name, optimizer, epochs=epochs, steps_per_epoch=steps)
    used = []
    for _ in range(epochs * steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*used, optimizer.param_groups[0]["lr"]]


@pytest.mark.parametrize("steps", [1, 3])
def test_step_divides_by_ten_every_thirty_epochs(steps: int) -> None:
    used = rates("step", epochs=91, steps=steps)
    for epoch in range(91):
        expected = 0.4 / 10 ** (epoch // 30)
        assert used[epoch * steps : (epoch + 1) * steps] == pytest.approx([expected] * steps)


@pytest.mark.parametrize("steps", [1, 4])
def test_cosine_falls_to_zero_at_the_end(steps: int) -> None:
    used = rates("cosine", epochs=5, steps=steps)
    total = 5 * steps
    assert used == pytest.approx([0.2 * (1 + math.cos(math.pi * t / total)) for t in range(total + 1)])


def test_onecycle_peaks_at_the_given_rate_after_three_tenths() -> None:
    used = rates("onecycle", epochs=10, steps=10)
    peak = max(range(101), key=used.__getitem__)
    assert used[peak] == pytest.approx(0.4, rel=1e-3)
    assert 28 <= peak <= 31
    assert used[0] == pytest.approx(0.4 / 25)
    assert used[:peak] == sorted(used[:peak])
    assert used[peak:] == sorted(used[peak:], reverse=True)
    assert used[-1] < used[0] / 1000


@pytest.mark.parametrize("name", ["step", "cosine", "onecycle"])
def test_the_shortest_run(name: Schedule) -> None:
    assert all(math.isfinite(rate) for rate in rates(name, epochs=1, steps=1))


@pytest.mark.parametrize("name", ["step", "cosine", "onecycle"])
def test_momentum_stays(name: Schedule) -> None:
    optimizer = make_optimizer(nn.Linear(2, 1), lr=0.1, momentum=0.7, weight_decay=0.0)
    schedule = make_schedule(name, optimizer, epochs=2, steps_per_epoch=2)
    for _ in range(4):
        optimizer.step()
        schedule.step()
        assert optimizer.param_groups[0]["momentum"] == 0.7


def test_one_step_of_sgd_with_weight_decay_and_momentum() -> None:
    """v = g + wd·w, then 0.9·v + ...; w falls by lr·v."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.5)
    weight, velocity = 2.0, 0.0
    for _ in range(3):
        model.weight.grad = torch.full((1, 1), 3.0)
        optimizer.step()
        velocity = 0.9 * velocity + 3.0 + 0.5 * weight
        weight -= 0.1 * velocity
        assert float(model.weight.detach()) == pytest.approx(weight, rel=1e-6)
