"""The learning-rate schedules against the rules they are named after."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cgc.engine.loop import Trainer
from cgc.engine.optim import Schedule, make_optimizer, make_schedule
from cgc.gradcam import GradCAMModel
from cgc.models.backbones import build_backbone
from tests.commands.runs import differences, training_folder
from tests.engine.toy import EPOCHS, STEPS, fit, make_trainer, stop_after

SCHEDULES: tuple[Schedule, ...] = ("step", "cosine", "onecycle", "multistep")


def rates(name: Schedule, *, epochs: int, steps: int, lr: float = 0.4, **options: Any) -> list[float]:
    """The rate that each step of a run uses, and the one after the last step."""
    optimizer = make_optimizer(nn.Linear(2, 1), lr=lr, momentum=0.9, weight_decay=0.0)
    schedule = make_schedule(name, optimizer, epochs=epochs, steps_per_epoch=steps, **options)
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


@pytest.mark.parametrize("steps", [1, 3])
def test_multistep_falls_at_the_published_epochs(steps: int) -> None:
    used = rates("multistep", epochs=50, steps=steps, lr=0.02)
    for epoch in range(50):
        expected = 0.02 if epoch < 12 else 0.004 if epoch < 16 else 0.0008
        assert used[epoch * steps : (epoch + 1) * steps] == pytest.approx([expected] * steps)


def test_milestones_and_gamma_are_the_given_ones() -> None:
    used = rates("multistep", epochs=6, steps=2, milestones=[4, 1], gamma=0.5)
    assert used[:12] == pytest.approx([0.4] * 2 + [0.2] * 6 + [0.1] * 4)
    assert rates("multistep", epochs=3, steps=1, milestones=[]) == [0.4] * 4
    for name in ("step", "cosine", "onecycle"):
        assert rates(name, epochs=4, steps=2, milestones=[1], gamma=0.5) == rates(name, epochs=4, steps=2)


@pytest.mark.parametrize("options", [{"milestones": [0, 3]}, {"gamma": 0.0}, {"gamma": -1.0}])
def test_unusable_milestones_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="multistep needs milestones >= 1 and gamma > 0"):
        rates("multistep", epochs=2, steps=1, **options)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_shortest_run(name: Schedule) -> None:
    assert all(math.isfinite(rate) for rate in rates(name, epochs=1, steps=1))


@pytest.mark.parametrize("name", SCHEDULES)
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


class WithHead(nn.Module):
    """The classifier is not the last of the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)


def names_of(model: nn.Module, group: dict[str, Any]) -> list[str]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for parameter in group["params"]]


def test_the_classifier_has_a_rate_of_its_own() -> None:
    model = WithHead()
    optimizer = make_optimizer(model, lr=0.02, momentum=0.9, weight_decay=1e-4, lr_last_layer=5.0)
    trunk, head = optimizer.param_groups
    assert names_of(model, trunk) == ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]
    assert names_of(model, head) == ["fc.weight", "fc.bias"]
    assert (trunk["lr"], head["lr"]) == (0.02, 5.0)
    assert all((g["momentum"], g["weight_decay"]) == (0.9, 1e-4) for g in (trunk, head))


@pytest.mark.parametrize(
    ("arch", "head"),
    [("resnet_tiny", "fc"), ("mobilenet_v3_small", "classifier.3"), ("squeezenet1_1", "classifier.1")],
)
def test_the_classifiers_of_networks(arch: str, head: str) -> None:
    model = GradCAMModel(build_backbone(arch, 5))
    groups = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.0, lr_last_layer=1.0).param_groups
    assert names_of(model, groups[1]) == [f"backbone.{head}.weight", f"backbone.{head}.bias"]
    assert len(groups[0]["params"]) + 2 == len(list(model.parameters()))


def test_one_rate_is_one_group() -> None:
    model = WithHead()
    (group,) = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=0.0).param_groups
    assert names_of(model, group) == [name for name, _ in model.named_parameters()]


def test_a_model_without_a_classifier_has_no_rate_for_it() -> None:
    with pytest.raises(ValueError, match="BatchNorm1d has no linear layer"):
        make_optimizer(nn.BatchNorm1d(3), lr=0.1, momentum=0.9, weight_decay=0.0, lr_last_layer=1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_scale_both_rates(name: Schedule) -> None:
    alone = rates(name, epochs=40, steps=2, lr=0.02)
    optimizer = make_optimizer(WithHead(), lr=0.02, momentum=0.9, weight_decay=0.0, lr_last_layer=5.0)
    schedule = make_schedule(name, optimizer, epochs=40, steps_per_epoch=2)
    for step, rate in enumerate(alone):
        if step:
            optimizer.step()
            schedule.step()
        trunk, head = optimizer.param_groups
        assert trunk["lr"] == pytest.approx(rate, rel=1e-12)
        assert head["lr"] == pytest.approx(250 * rate, rel=1e-12)


def two_rates(data: Path, folder: Path, lr_last_layer: float = 0.4) -> Trainer:
    """The toy trainer, whose classifier comes before the rest of its parameters, with two rates that both fall."""
    trainer = make_trainer(data, folder)
    trainer.step.optimizer = make_optimizer(
        trainer.step.model, lr=0.05, momentum=0.9, weight_decay=1e-4, lr_last_layer=lr_last_layer
    )
    trainer.schedule = make_schedule(
        "multistep",
        trainer.step.optimizer,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        milestones=[1, 2],
        gamma=0.5,
    )
    return trainer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("optim") / "data")


def state(folder: Path, name: str = f"checkpoint_{EPOCHS:03d}.pth.tar") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / name, weights_only=True)
    content["progress"].pop("seconds")
    return content


@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 2])
def test_a_run_with_two_rates_goes_on_as_if_never_stopped(data: Path, tmp_path: Path, steps: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(two_rates(data, whole), whole)
    first = two_rates(data, parts)
    fit(first, parts, stop_after(first, steps))
    assert first.folder.latest is not None
    content = torch.load(first.folder.latest, weights_only=True)

    second = two_rates(data, parts)
    second.step.model.load_state_dict(content["state_dict"])
    second.resume(content)
    momenta = [group["params"][0] for group in second.step.optimizer.param_groups]
    assert all("momentum_buffer" in second.step.optimizer.state[p] for p in momenta)
    falls = steps // STEPS
    found = [group["lr"] for group in second.step.optimizer.param_groups]
    assert found == pytest.approx([0.05 * 0.5**falls, 0.4 * 0.5**falls])
    fit(second, parts)
    assert differences(state(parts), state(whole)) == []
    assert [group["lr"] for group in state(whole)["optimizer"]["param_groups"]] == pytest.approx(
        [0.0125, 0.1]
    )


def test_the_second_rate_matters(data: Path, tmp_path: Path) -> None:
    """So that the equality above means something."""
    found = []
    for rate in (0.4, 0.05):
        folder = tmp_path / str(rate)
        fit(two_rates(data, folder, rate), folder)
        found.append(state(folder))
    assert "/state_dict/linear.weight" in differences(*found)
