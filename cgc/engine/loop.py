"""The training loop: epochs of steps, validation, records, checkpoints; stoppable and resumable at any step.

A step is a method module (see :mod:`cgc.methods`): its ``prepare`` turns a batch into tensors, its ``forward`` these
into per-sample tensors.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from cgc.data.unlabelled import PairedBatch, PairedLoader
from cgc.data.views import Batch, SeededSampler, ViewLoader, mix_seed
from cgc.engine.checkpoint import CheckpointFolder, random_state, restore_random_state
from cgc.engine.progress import LoopOptions, Progress
from cgc.engine.records import RunRecorder
from cgc.engine.runtime import Stopped, StopRequest, bar_interval
from cgc.engine.totals import Totals, means_of
from cgc.engine.transfer import on_device
from cgc.errors import InputError, RunError

_TRANSFORMS = 1  # stream of mix_seed: apart from those of order and items, which end in -1 and an index


class Trainer:
    """Runs a method over a loader.

    ``method`` is the module to call (DataParallel-wrapped or not), ``prepare`` gives its inputs from a batch on the
    device and a generator, ``model`` is what it trains; ``state`` gives the
    parts of a checkpoint that are not the loop's (weights, arch, classes), ``validate`` figures with
    ``best_by`` (above -1, the more the better) and the unreadable images, ``set_weight`` sets λ to a share of its value
    for the warm-up.
    """

    def __init__(
        self,
        method: nn.Module,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LRScheduler,
        loader: ViewLoader | PairedLoader,
        device: torch.device,
        options: LoopOptions,
        *,
        folder: CheckpointFolder,
        state: Callable[[], dict[str, Any]],
        validate: Callable[[], tuple[dict[str, float], list[str]]],
        prepare: Callable[[Any, torch.Generator], tuple[Tensor, ...]],
        set_weight: Callable[[float], None] = lambda share: None,
        best_by: str = "val_top1",
    ) -> None:
        assert isinstance(loader.sampler, SeededSampler)
        assert loader.batch_size is not None
        self.method, self.model, self.optimizer, self.schedule = method, model, optimizer, schedule
        self.loader, self.sampler, self.batch_size = loader, loader.sampler, loader.batch_size
        self.device, self.options = device, options
        self.folder = folder
        self.recorder: RunRecorder | None = None
        self.state, self.validate, self.prepare, self.set_weight = state, validate, prepare, set_weight
        self.best_by = best_by
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
        self.progress = Progress()
        self._in_step = False
        self.steps_per_epoch = math.ceil(self.sampler.length / self.batch_size)

    def fit(self, stop: StopRequest, recorder: RunRecorder | None = None) -> Progress:
        """Train to the end, or until ``stop``; either way the last checkpoint holds the returned progress.

        Raises RunError if the loss is not finite any more; InputError for an unreadable image under ``strict``.
        """
        self.recorder = recorder
        while self.progress.epoch < self.options.epochs and not stop:
            totals = Totals(self.device, self.progress.sums)
            try:
                self._train_epoch(stop, totals)
                if stop:
                    raise Stopped
                self._finish_epoch(totals.read())
            except Stopped:
                self._save_unfinished(totals)
                break
            except (InputError, KeyboardInterrupt):
                self._save_unfinished(totals)
                raise
        return self.progress

    def _save_unfinished(self, totals: Totals) -> None:
        """Save inside an epoch (its validation included), unless a step was cut short or nothing was done."""
        if self._in_step or not self.progress.step:
            return
        self.progress.sums = totals.read()
        self._check_finite(self.progress.sums)
        self._save(best=False)

    def _train_epoch(self, stop: StopRequest, totals: Totals) -> None:
        """The steps of the current epoch that are not done yet."""
        started = time.perf_counter()
        progress, options = self.progress, self.options
        self.sampler.set_epoch(
            progress.epoch, start=min(progress.step * self.batch_size, self.sampler.length)
        )
        self.method.train()
        steps = self.steps_per_epoch
        title = f"epoch {progress.epoch + 1}/{options.epochs}"
        with tqdm(
            total=steps, initial=progress.step, desc=title, unit="step", mininterval=bar_interval()
        ) as bar:
            for batch in self._batches():
                self._in_step = True
                self._step(batch, totals)
                progress.step += 1
                self._in_step = False
                bar.update()
                if progress.step % options.print_freq == 0 or progress.step == steps:
                    self._report(bar, totals.read())
                if stop:
                    break
        progress.seconds += time.perf_counter() - started

    def _batches(self) -> Iterator[Batch | PairedBatch]:
        for batch in self.loader:
            if batch.unreadable:
                if self.options.strict:
                    raise InputError(f"unreadable image (--strict): {batch.unreadable[0]}")
                self._note_unreadable(batch.unreadable)
            yield batch

    def _note_unreadable(self, lines: Sequence[str]) -> None:
        known = self.progress.unreadable
        known += [line for line in dict.fromkeys(lines) if line not in known]

    def _step(self, batch: Batch | PairedBatch, totals: Totals) -> None:
        options, progress = self.options, self.progress
        seed = mix_seed(options.seed, progress.epoch, progress.step, _TRANSFORMS)
        generator = torch.Generator().manual_seed(seed)
        self._warm_up()
        batch = on_device(batch, self.device)
        outputs = self.method(*self.prepare(batch, generator))
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(outputs["loss"].mean()).backward()
        self.scaler.unscale_(self.optimizer)
        limit = math.inf if options.clip_grad_norm is None else options.clip_grad_norm
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.progress.lr = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        self._add_up(totals, outputs, batch.labels, norm)

    def _warm_up(self) -> None:
        done = self.progress.epoch * self.steps_per_epoch + self.progress.step
        if self.options.warmup_steps:
            self.set_weight(min(1.0, (done + 1) / self.options.warmup_steps))

    def _add_up(self, totals: Totals, outputs: Mapping[str, Tensor], labels: Tensor, norm: Tensor) -> None:
        for name, value in outputs.items():
            if name != "logits":
                totals.add(name, value)
        first_N = outputs["logits"].argmax(dim=1)
        several = labels.dim() == 2  # then the first prediction should be one of them
        totals.add("top1", labels.gather(1, first_N[:, None]) if several else first_N == labels)
        totals.add("samples", torch.ones(len(labels), device=labels.device))
        totals.add("steps", torch.ones((), device=norm.device))
        usable = norm.isfinite()
        totals.add("spoilt", ~usable)
        totals.add("grad_norm", torch.where(usable, norm, 0))
        totals.raise_to("grad_norm_max", torch.where(usable, norm, 0))
        if self.options.clip_grad_norm is not None:
            totals.add("clipped", norm > self.options.clip_grad_norm)

    def _report(self, bar: Any, totals: Mapping[str, float]) -> None:
        """Refresh the bar, log the step, and stop a run whose loss is no number."""
        self._check_finite(totals)
        means = means_of(totals)
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
        bar.set_postfix_str(
            f"loss {means['loss']:.3f}, "
            + (f"consistency {means['consistency']:.4g}, " if "consistency" in means else "")
            + f"top-1 {means['top1']:.1f}, {rate * self.batch_size:.0f} images/s"
        )
        step = self.progress.epoch * self.steps_per_epoch + self.progress.step
        if self.recorder is not None:
            self.recorder.step(step, {**means, "lr": self.progress.lr})

    def _check_finite(self, totals: Mapping[str, float]) -> None:
        """Stop a run whose loss or gradient is no number: its weights are spoilt.

        With fp16 single steps overflow and are skipped; only an epoch of nothing else ends the run.
        """
        spoilt_steps = totals["spoilt"] >= (totals["steps"] if self.options.amp == "fp16" else 1)
        if spoilt_steps or not math.isfinite(totals["loss"]):
            what = "loss" if not math.isfinite(totals["loss"]) else "gradient"
            raise RunError(
                f"the {what} is no finite number in epoch {self.progress.epoch + 1}; the checkpoints in "
                f"{self.folder.folder} are from before. A lower --lr or --clip-grad-norm may help."
            )

    def _finish_epoch(self, totals: Mapping[str, float]) -> None:
        progress = self.progress
        self._check_finite(totals)
        means = means_of(totals)
        started = time.perf_counter()
        figures, unreadable = self.validate()
        self._note_unreadable(unreadable)
        progress.seconds += time.perf_counter() - started
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        best = figures[self.best_by] > progress.best_acc1
        progress.best_acc1 = max(progress.best_acc1, figures[self.best_by])
        row = {
            "epoch": progress.epoch,
            "lr": self.progress.lr,
            **{f"train_{name}": value for name, value in means.items()},
            **figures,
            "seconds": round(progress.seconds, 2),
            "unreadable": len(progress.unreadable),
        }
        self._save(best=best)
        if self.recorder is not None:
            self.recorder.epoch(row)
        tqdm.write(_line(row))

    def _save(self, *, best: bool) -> None:
        progress = self.progress
        progress.batch_size, progress.seed = self._order
        content = {
            "epoch": progress.epoch,
            "best_acc1": progress.best_acc1,
            **self.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random_state": random_state(),
            "progress": {**vars(progress)},
        }
        self.folder.save(content, progress.epoch, progress.step, best=best)

    def resume(self, extra: Mapping[str, Any]) -> None:
        """Take up momentum, progress and random states of a checkpoint (weights are loaded elsewhere).

        Learning rates are those of this run's options at the file's position, so that epochs may be added and files of
        the released code, which hold no schedule, continue as well; with unchanged options they are the very ones that
        an uninterrupted run would use.

        Raises InputError where the file's optimizer or position does not fit this run.
        """
        groups = self.optimizer.state_dict()["param_groups"]
        try:
            if len(extra["optimizer"]["param_groups"]) != len(groups):
                raise ValueError(
                    "a learning rate of the classifier's own (--lr_last_layer) in one of the two alone"
                )
            self.optimizer.load_state_dict({"state": extra["optimizer"]["state"], "param_groups": groups})
            if "progress" in extra:
                self.progress = Progress(**extra["progress"])
                self.scaler.load_state_dict(extra["scaler"])
                restore_random_state(extra["random_state"])
            else:
                self.progress = Progress(int(extra["epoch"]), best_acc1=float(extra.get("best_acc1", -1)))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the checkpoint's state of training cannot be taken up: {error!r}") from error
        if self.progress.step and (self.progress.batch_size, self.progress.seed) != self._order:
            raise InputError(
                f"the checkpoint lies inside an epoch of batch size {self.progress.batch_size} and seed "
                f"{self.progress.seed}; continue it with these, not with {self._order[0]} and {self._order[1]}"
            )
        self._advance_schedule()

    def start_at(self, epoch: int) -> None:
        """Count epochs, and advance the schedule, from ``epoch`` on (``--start-epoch``)."""
        self.progress.epoch = epoch
        self._advance_schedule()

    @property
    def _order(self) -> tuple[int, int]:
        """What the order of the images within an epoch depends on."""
        return self.batch_size, self.options.seed

    def _advance_schedule(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step")
            done = self.progress.epoch * self.steps_per_epoch + self.progress.step
            for _ in range(min(done, self.options.epochs * self.steps_per_epoch)):
                self.schedule.step()


def _line(row: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float) and name != "lr"
    ]
    return f"epoch {row['epoch']}: " + ", ".join(parts)
