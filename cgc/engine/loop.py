"""The training loop: epochs of steps, validation, records, checkpoints; stoppable and resumable at any step.

A step is a method module (see :mod:`cgc.methods`): its ``prepare`` turns a batch into tensors, its ``forward`` these
into per-sample tensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from cgc.data.seeding import mix_seed
from cgc.data.shares import plan_of
from cgc.data.unlabelled import PairedBatch, PairedLoader
from cgc.data.views import Batch, ViewLoader
from cgc.engine.checkpoint import CheckpointFolder, random_states, restore_random_state
from cgc.engine.optim import advance
from cgc.engine.processes import Processes
from cgc.engine.progress import LoopOptions, Progress
from cgc.engine.records import RunRecorder, epoch_line
from cgc.engine.runtime import Stopped, StopRequest, bar_interval
from cgc.engine.step import OptimizerStep
from cgc.engine.together import StopTogether, share_buffers
from cgc.engine.totals import Totals, add_step, means_of
from cgc.engine.transfer import ahead
from cgc.errors import InputError, RunError

_TRANSFORMS = 1  # stream of mix_seed: apart from those of order and items, which end in -1 and an index


class Trainer:
    """Runs a method over a loader.

    ``step`` updates ``step.model`` from what ``prepare`` gives of a batch on the device and a generator; ``state``
    gives the parts of a checkpoint that are not the loop's (weights, arch, classes), ``validate`` figures with
    ``best_by`` (above -1, the more the better) and the unreadable images, ``set_weight`` sets λ to a share of its value
    for the warm-up. Of several ``processes``, which all run the same loop on their shares of each batch, the first one
    writes and speaks.
    """

    def __init__(
        self,
        step: OptimizerStep,
        schedule: LRScheduler,
        loader: ViewLoader | PairedLoader,
        device: torch.device,
        options: LoopOptions,
        *,
        folder: CheckpointFolder,
        state: Callable[[], dict[str, Any]],
        validate: Callable[[StopRequest], tuple[dict[str, float], list[str]]],
        prepare: Callable[[Any, torch.Generator], tuple[Tensor, ...]],
        set_weight: Callable[[float], None] = lambda share: None,
        best_by: str = "val_top1",
        processes: Processes | None = None,
    ) -> None:
        self.step, self.schedule, self.loader = step, schedule, loader
        self.order, self.batch_size, self.steps_per_epoch, self._described = plan_of(loader)
        self.device, self.options = device, options
        self.folder = folder
        self.recorder: RunRecorder | None = None
        self.state, self.validate, self.prepare, self.set_weight = state, validate, prepare, set_weight
        self.best_by = best_by
        self.processes = processes
        self.speaks = processes is None or processes.rank == 0
        self.progress = Progress()
        self._in_step = False

    def fit(self, stop: StopRequest, recorder: RunRecorder | None = None) -> Progress:
        """Train to the end, or until ``stop``; either way the last checkpoint holds the returned progress.

        Raises RunError if the loss is not finite any more; InputError for an unreadable image under ``strict``.
        """
        self.recorder = recorder
        while self.progress.epoch < self.options.epochs and not stop:
            totals = Totals(self.device, self.progress.sums, self.processes)
            try:
                self._train_epoch(stop, totals)
                if stop:
                    raise Stopped
                self._finish_epoch(totals.read(), stop)
            except Stopped:
                self._save_unfinished(totals)
                break
            except (InputError, KeyboardInterrupt):
                if self.processes is None:  # others may be anywhere, and saving takes all of them
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
        self.order.set_epoch(progress.epoch, start=min(progress.step * self.batch_size, self.order.length))
        self.step.method.train()
        steps = self.steps_per_epoch
        with tqdm(
            total=steps,
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1}/{options.epochs}",
            unit="step",
            mininterval=bar_interval(),
            disable=not self.speaks,
        ) as bar:
            for batch in self._batches(stop):
                self._in_step = True
                self._step(batch, totals)
                progress.step += 1
                self._in_step = False
                bar.update()
                if progress.step % options.print_freq == 0 or progress.step == steps:
                    self._report(bar, totals.read())
                    if isinstance(stop, StopTogether):
                        stop.agree()
                if stop:
                    break
                if options.save_every and progress.step % options.save_every == 0 and progress.step < steps:
                    progress.seconds, started = _until_now(progress.seconds, started)
                    self._save_unfinished(totals)
        progress.seconds, _ = _until_now(progress.seconds, started)

    def _batches(self, stop: StopRequest) -> Iterator[Batch | PairedBatch]:
        loaded: Iterator[Any] = iter(self.loader)
        for batch in stop.while_awaited(ahead(loaded, self.device)):
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
        outputs, norm = self.step(self.prepare(batch, generator))
        self.progress.note_rates(self.schedule.get_last_lr())
        self.schedule.step()
        add_step(totals, outputs, batch.labels, norm, self.options.clip_grad_norm)

    def _warm_up(self) -> None:
        done = self.progress.epoch * self.steps_per_epoch + self.progress.step
        if self.options.warmup_steps:
            self.set_weight(min(1.0, (done + 1) / self.options.warmup_steps))

    def _report(self, bar: Any, totals: Mapping[str, float]) -> None:
        """Refresh the bar, log the step, and stop a run whose loss is no number."""
        self._check_finite(totals)
        means = means_of(totals)
        if not self.speaks:
            return
        rate = (bar.n - bar.initial) / max(bar.format_dict["elapsed"], 1e-9)
        bar.set_postfix_str(
            f"loss {means['loss']:.3f}, "
            + (f"consistency {means['consistency']:.4g}, " if "consistency" in means else "")
            + f"top-1 {means['top1']:.1f}, {rate * self.batch_size:.0f} images/s"
        )
        step = self.progress.epoch * self.steps_per_epoch + self.progress.step
        if self.recorder is not None:
            self.recorder.step(step, {**means, **self.progress.rates})

    def _check_finite(self, totals: Mapping[str, float], *, whole_epoch: bool = False) -> None:
        """Stop a run whose loss or gradient is no number: its weights are spoilt.

        With fp16 single steps overflow and are skipped; only an epoch of nothing else ends the run.
        """
        if self.options.amp == "fp16":
            spoilt_steps = whole_epoch and totals["spoilt"] >= totals["steps"]
        else:
            spoilt_steps = totals["spoilt"] >= 1
        if spoilt_steps or not math.isfinite(totals["loss"]):
            what = "loss" if not math.isfinite(totals["loss"]) else "gradient"
            raise RunError(
                f"the {what} is no finite number in epoch {self.progress.epoch + 1}; the checkpoints in "
                f"{self.folder.folder} are from before. A lower --lr or --clip-grad-norm may help."
            )

    def _finish_epoch(self, totals: Mapping[str, float], stop: StopRequest) -> None:
        progress = self.progress
        self._check_finite(totals, whole_epoch=True)
        means = means_of(totals)
        started = time.perf_counter()
        if self.processes is not None:
            share_buffers(self.step.model)
        figures, unreadable = self.validate(stop)
        self._note_unreadable(unreadable)
        self._join_unreadable()
        progress.seconds += time.perf_counter() - started
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        best = figures[self.best_by] > progress.best_acc1
        progress.best_acc1 = max(progress.best_acc1, figures[self.best_by])
        row = {
            "epoch": progress.epoch,
            **self.progress.rates,
            **{f"train_{name}": value for name, value in means.items()},
            **figures,
            "seconds": round(progress.seconds, 2),
            "unreadable": len(progress.unreadable),
        }
        if self.recorder is not None:
            self.recorder.epoch(
                row
            )  # before saving: of a run that is killed in between the row is dropped again
        self._save(best=best)
        if self.speaks:
            tqdm.write(epoch_line(row))

    def _save(self, *, best: bool) -> None:
        progress = self.progress
        progress.batch_size, progress.seed = self._order
        progress.order = self._described
        own, others = random_states(self.processes)
        self._join_unreadable()
        if self.speaks:
            self._write(own, others, best)
        if self.processes is not None:  # whoever left now would be taken for dead
            self.processes.gather(None)

    def _join_unreadable(self) -> None:
        if self.processes is not None:
            for lines in self.processes.gather(self.progress.unreadable):
                self._note_unreadable(lines)

    def _write(self, own: dict[str, Any], others: list[dict[str, Any]], best: bool) -> None:
        progress = self.progress
        content = {
            "epoch": progress.epoch,
            "best_acc1": progress.best_acc1,
            **self.state(),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "random_state": own,
            "random_states_of_others": others,
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
        groups = self.step.optimizer.state_dict()["param_groups"]
        try:
            if len(extra["optimizer"]["param_groups"]) != len(groups):
                raise ValueError(
                    "a learning rate of the classifier's own (--lr_last_layer) in one of the two alone"
                )
            self.step.load_state(extra["optimizer"]["state"], groups)
            if "progress" in extra:
                self.progress = Progress(**extra["progress"])
                self.step.scaler.load_state_dict(extra["scaler"])
                restore_random_state(extra, self.processes)
            else:
                self.progress = Progress(int(extra["epoch"]), best_acc1=float(extra.get("best_acc1", -1)))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the checkpoint's state of training cannot be taken up ({type(error).__name__}: {error}); "
                "--init takes its weights alone"
            ) from error
        if self.progress.step and (self.progress.batch_size, self.progress.seed) != self._order:
            raise InputError(
                f"the checkpoint lies inside an epoch of batch size {self.progress.batch_size} and seed "
                f"{self.progress.seed}; continue it with these, not with {self._order[0]} and {self._order[1]}"
            )
        plain = f"{self.order.length} images"  # in files from before their content was told
        if self.progress.step and self.progress.order not in ("", plain, self._described):
            raise InputError(
                f"the checkpoint lies inside an epoch of {self.progress.order}; here are {self._described}"
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
        done = self.progress.epoch * self.steps_per_epoch + self.progress.step
        advance(self.schedule, min(done, self.options.epochs * self.steps_per_epoch))


def _until_now(seconds: float, started: float) -> tuple[float, float]:
    """``seconds`` with the time since ``started``, and the present time."""
    now = time.perf_counter()
    return seconds + now - started, now
