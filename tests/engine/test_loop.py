"""The training loop with a toy method: order of things, resuming after any step, refusing to save nonsense."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cgc.engine.runtime import Stopped, StopRequest
from cgc.errors import InputError, RunError
from tests.commands.runs import differences, training_folder
from tests.engine.toy import EPOCHS, STEPS, fit, make_trainer, method_of, stop_after


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("loop") / "data")


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def final_state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / f"checkpoint_{EPOCHS:03d}.pth.tar", weights_only=True)
    content["progress"].pop("seconds")
    return content


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    fit(make_trainer(data, folder), folder)
    return folder


@pytest.mark.parametrize("steps", range(1, EPOCHS * STEPS))
def test_stopped_after_any_step_and_continued_ends_the_same(
    data: Path, tmp_path: Path, uninterrupted: Path, steps: int
) -> None:
    first = make_trainer(data, tmp_path)
    progress = fit(first, tmp_path, stop_after(first, steps))
    epoch, step = divmod(steps, STEPS)
    if steps % STEPS == 0:  # the epoch is done but for its validation
        epoch, step = epoch - 1, STEPS
    assert (progress.epoch, progress.step) == (epoch, step)
    latest = first.folder.latest
    assert latest is not None
    assert latest.name == (
        f"checkpoint_{progress.epoch:03d}"
        + (f"_step{progress.step:06d}" if progress.step else "")
        + ".pth.tar"
    )
    content = torch.load(latest, weights_only=True)

    torch.manual_seed(12345)  # another process would not be in the same random state
    second = make_trainer(data, tmp_path)
    second.step.model.load_state_dict(content["state_dict"])
    second.resume(content)
    fit(second, tmp_path)
    assert differences(final_state(tmp_path), final_state(uninterrupted)) == []
    assert metrics(tmp_path) == metrics(uninterrupted)


def test_a_different_seed_or_transform_ends_elsewhere(
    data: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    """So that the equality above means something."""
    fit(make_trainer(data, tmp_path, seed=4), tmp_path)
    assert "/state_dict/linear.weight" in differences(final_state(tmp_path), final_state(uninterrupted))


def test_an_epoch_is_one_pass_and_its_row_the_mean_over_samples(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path, epochs=1)
    seen: list[tuple[int, float]] = []
    forward = method_of(trainer).forward

    def recording(*inputs: Tensor) -> dict[str, Tensor]:
        outputs = forward(*inputs)
        seen.append((len(inputs[2]), float(outputs["loss"].detach().sum())))
        return outputs

    method_of(trainer).forward = recording  # type: ignore[method-assign]
    fit(trainer, tmp_path)
    assert [n for n, _ in seen] == [5, 5, 2]
    (row,) = metrics(tmp_path)
    assert float(row["train_loss"]) == pytest.approx(sum(loss for _, loss in seen) / 12, rel=1e-5)
    assert row["epoch"] == "1"
    assert float(row["train_near_zero"]) == 100
    assert 0 <= float(row["train_top1"]) <= 100
    assert float(row["train_grad_norm_max"]) >= float(row["train_grad_norm"]) > 0
    assert "train_clipped" not in row


def test_every_step_draws_transforms_of_its_own(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path)
    forward, drawn = method_of(trainer).forward, []

    def recording(*inputs: Tensor) -> dict[str, Tensor]:
        drawn.append(inputs[3][:2].tolist())
        return forward(*inputs)

    method_of(trainer).forward = recording  # type: ignore[method-assign]
    fit(trainer, tmp_path)
    assert len({str(rows) for rows in drawn}) == EPOCHS * STEPS


def test_best_is_the_first_highest_validation(data: Path, tmp_path: Path) -> None:
    scores = iter([50.0, 75.0, 75.0])
    progress = fit(
        make_trainer(data, tmp_path, validate=lambda stop: ({"val_top1": next(scores)}, [])), tmp_path
    )
    best = torch.load(tmp_path / "model_best.pth.tar", weights_only=True)
    assert (progress.best_acc1, best["best_acc1"], best["epoch"]) == (75.0, 75.0, 2)


def test_gradients_are_clipped_and_the_share_is_reported(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path, epochs=1, clip_grad_norm=1e-3)
    norms: list[float] = []

    def record(*_: Any) -> None:
        grads = [p.grad.flatten() for p in trainer.step.model.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))

    trainer.step.optimizer.register_step_pre_hook(record)
    fit(trainer, tmp_path)
    assert len(norms) == STEPS
    assert max(norms) <= 1e-3 * (1 + 1e-4)
    (row,) = metrics(tmp_path)
    assert float(row["train_clipped"]) == 100
    assert float(row["train_grad_norm"]) > 1e-2  # before clipping


def test_warm_up_raises_the_weight_step_by_step_also_after_a_resume(data: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    first = make_trainer(data, tmp_path, warmup_steps=4, set_weight=shares.append)
    fit(first, tmp_path, stop_after(first, 2))
    latest = first.folder.latest
    assert latest is not None
    second = make_trainer(data, tmp_path, warmup_steps=4, set_weight=shares.append)
    second.resume(torch.load(latest, weights_only=True))
    fit(second, tmp_path)
    assert shares == [0.25, 0.5, 0.75, 1.0] + [1.0] * (EPOCHS * STEPS - 4)


@pytest.mark.parametrize("bad_step", [STEPS + 1, 2 * STEPS])
def test_a_loss_that_is_no_number_ends_the_run_and_nothing_is_saved_after(
    data: Path, tmp_path: Path, bad_step: int
) -> None:
    trainer = make_trainer(data, tmp_path)
    method_of(trainer).scale = lambda calls: math.nan if calls == bad_step else 1.0
    with pytest.raises(RunError, match="epoch 2"):
        fit(trainer, tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.pth.tar")) == [
        "checkpoint_001.pth.tar",
        "model_best.pth.tar",
    ]
    assert len(metrics(tmp_path)) == 1


def test_a_stop_after_the_loss_broke_saves_nothing(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path, print_freq=100)
    stop = stop_after(trainer, STEPS + 1)
    method_of(trainer).scale = lambda calls: math.nan if calls == STEPS + 1 else 1.0
    with pytest.raises(RunError):
        fit(trainer, tmp_path, stop)
    assert sorted(p.name for p in tmp_path.glob("*step*")) == []


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.nan


def test_weights_that_are_no_numbers_are_not_saved_though_the_losses_were_finite(
    data: Path, tmp_path: Path
) -> None:
    """The last step of an epoch can break the weights with a finite loss: a NaN gradient."""
    trainer = make_trainer(data, tmp_path)
    forward = method_of(trainer).forward

    def breaking(*inputs: Tensor) -> dict[str, Tensor]:
        outputs = forward(*inputs)
        if method_of(trainer).calls == 2 * STEPS:
            outputs["loss"] = _BadGradient.apply(outputs["loss"])
        return outputs

    method_of(trainer).forward = breaking  # type: ignore[method-assign]
    with pytest.raises(RunError):
        fit(trainer, tmp_path)
    assert not (tmp_path / "checkpoint_002.pth.tar").exists()


def test_a_released_file_is_taken_up_at_its_epoch_with_its_learning_rate(data: Path, tmp_path: Path) -> None:
    """After 31 epochs the released trainer has set 0.01 in its optimizer: not to be divided by ten again."""
    trainer = make_trainer(data, tmp_path, epochs=62, schedule="step")
    optimizer = trainer.step.optimizer.state_dict()
    for group in optimizer["param_groups"]:
        group.pop("initial_lr")
        group["lr"] = 0.01
    trainer.resume({"epoch": 31, "best_acc1": torch.tensor(12.5), "optimizer": optimizer})
    assert (trainer.progress.epoch, trainer.progress.best_acc1) == (31, 12.5)
    assert trainer.schedule.get_last_lr() == pytest.approx([0.01])
    assert trainer.step.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    method_of(trainer).scale = lambda calls: 1e-9
    fit(trainer, tmp_path)
    rates = {row["epoch"]: float(row["lr"]) for row in metrics(tmp_path)}
    assert rates["32"] == pytest.approx(0.01)
    assert rates["59"] == pytest.approx(0.01)
    assert rates["61"] == pytest.approx(0.001)


@pytest.mark.parametrize("name", ["step", "cosine", "onecycle"])
def test_a_released_file_continues_under_every_schedule(data: Path, tmp_path: Path, name: str) -> None:
    """The rate is the one that a run from the start would have had."""
    twin = make_trainer(data, tmp_path, schedule=name)
    for _ in range(2 * STEPS):
        twin.step.optimizer.step()
        twin.schedule.step()
    trainer = make_trainer(data, tmp_path, schedule=name)
    optimizer = trainer.step.optimizer.state_dict()
    plain = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "params")
    optimizer["param_groups"] = [
        {k: v for k, v in group.items() if k in plain} for group in optimizer["param_groups"]
    ]
    optimizer["param_groups"][0]["lr"] = 0.1
    trainer.resume({"epoch": 2, "best_acc1": 1.0, "optimizer": optimizer})
    assert trainer.step.optimizer.param_groups[0]["lr"] == pytest.approx(
        twin.step.optimizer.param_groups[0]["lr"]
    )
    fit(trainer, tmp_path)


def test_start_epoch_advances_the_schedule_without_a_warning(
    data: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    trainer = make_trainer(data, tmp_path, epochs=40, schedule="step")
    trainer.start_at(35)
    assert trainer.step.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert [str(w.message) for w in recwarn if "lr_scheduler" in str(w.message)] == []


def test_unreadable_images_are_listed_once(data: Path, tmp_path: Path) -> None:
    copy = training_folder(tmp_path / "data")
    (copy / "train" / "bee" / "1.png").write_bytes(b"")
    run = tmp_path / "run"
    run.mkdir()
    progress = fit(make_trainer(copy, run), run)
    assert len(progress.unreadable) == 1
    assert "bee/1.png" in progress.unreadable[0]
    assert [row["unreadable"] for row in metrics(run)] == ["1"] * EPOCHS
    with pytest.raises(InputError, match=r"strict.*bee/1\.png"):
        fit(make_trainer(copy, run, strict=True), run)


def test_a_stop_request_during_validation_keeps_the_epoch(data: Path, tmp_path: Path) -> None:
    """Validation of a large set takes longer than a scheduler waits: it is begun again after resuming."""
    trainer = make_trainer(data, tmp_path)

    def interrupted(stop: StopRequest) -> tuple[dict[str, float], list[str]]:
        raise Stopped

    trainer.validate = interrupted
    progress = fit(trainer, tmp_path)
    assert (progress.epoch, progress.step) == (0, STEPS)
    assert trainer.folder.latest == tmp_path / f"checkpoint_000_step{STEPS:06d}.pth.tar"


def test_an_unreadable_validation_image_under_strict_keeps_the_epoch(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path)

    def strict(stop: StopRequest) -> tuple[dict[str, float], list[str]]:
        raise InputError("unreadable image")

    trainer.validate = strict
    with pytest.raises(InputError):
        fit(trainer, tmp_path)
    assert trainer.folder.latest == tmp_path / f"checkpoint_000_step{STEPS:06d}.pth.tar"


def test_a_position_in_another_order_is_refused(data: Path, tmp_path: Path) -> None:
    """Images came or went, or shards are read in another way: the epoch could not be finished."""
    first = make_trainer(data, tmp_path)
    fit(first, tmp_path, stop_after(first, 1))
    assert first.folder.latest is not None
    content = torch.load(first.folder.latest, weights_only=True)
    assert content["progress"]["order"] == "12 images"
    second = make_trainer(data, tmp_path)
    second._described = "12 images (0123abcd)"
    second.resume(content)  # a file from before the images' names were told
    content["progress"]["order"] = "13 images"
    with pytest.raises(InputError, match="inside an epoch of 13 images; here are 12 images"):
        make_trainer(data, tmp_path).resume(content)
    content["progress"]["step"] = 0  # between two epochs it does not matter
    make_trainer(data, tmp_path).resume(content)


def test_a_step_that_overflows_in_half_precision_is_no_end(data: Path, tmp_path: Path) -> None:
    """The scaler starts high and skips it, be it the first step of an epoch; an epoch of nothing else is the end."""
    trainer = make_trainer(data, tmp_path, print_freq=1)
    trainer.options = replace(trainer.options, amp="fp16")
    totals = {"loss": 1.0, "spoilt": 2.0, "steps": 2.0}
    trainer._check_finite(totals)
    with pytest.raises(RunError, match="gradient is no finite number"):
        trainer._check_finite(totals, whole_epoch=True)
    trainer.options = replace(trainer.options, amp="off")
    with pytest.raises(RunError, match="gradient"):
        trainer._check_finite({**totals, "spoilt": 1.0})
