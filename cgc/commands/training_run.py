"""From options to a run: data, model, method, loop, records."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cgc.commands.run_folders import AUTO, resumed_by_all, run_folder
from cgc.commands.train_options import TrainOptions
from cgc.commands.training_data import TrainingData
from cgc.commands.training_methods import (
    best_by,
    build_method,
    method_in_parallel,
    run_validation,
    validation_step,
)
from cgc.commands.training_network import TrainedNetwork, arch_to_begin_with
from cgc.commands.training_panels import heatmap_panels
from cgc.data.seeding import mix_seed
from cgc.data.shares import plan_of
from cgc.engine.checkpoint import CheckpointFolder, place_in_run
from cgc.engine.loop import Trainer
from cgc.engine.optim import make_optimizer, make_schedule
from cgc.engine.processes import Processes
from cgc.engine.progress import LoopOptions, Progress
from cgc.engine.records import RunRecorder, name_unreadable
from cgc.engine.runtime import StopRequest, in_parallel
from cgc.engine.step import OptimizerStep
from cgc.engine.together import StopTogether, synchronise_batch_norm
from cgc.errors import InputError
from cgc.models.checkpoint_layouts import released_state_dict

_PLACES = {"data", "resume", "init", "save_dir", "log_dir", "shard_cache"}
_MAY_CHANGE = _PLACES | {
    "workers",
    "shard_cache_gb",
    "shard_timeout",
    "print_freq",
    "evaluate",
    "keep",
    "save_every",
    "device",
    "gpu",
    "dist_backend",
    "program",
}


def _recorded(continued: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options that a checkpoint was trained with; none where it is not one of ours."""
    options = continued.get("options")
    return options if isinstance(options, dict) else {}


class TrainingRun:
    """Everything of one command, set up so that what can be wrong is found before the first step."""

    def __init__(
        self, options: TrainOptions, device: torch.device, processes: Processes | None = None
    ) -> None:
        self.options, self.device, self.processes = options, device, processes
        self.speaks = processes is None or processes.rank == 0
        self.sharers = 1 if processes is None else processes.size
        self.stop = StopRequest()
        if options.resume == AUTO:
            folder = run_folder(options.save_dir, options.method, arch_to_begin_with(options), options.seed)
            resume = resumed_by_all(folder, processes, self._say)
            options = self.options = replace(options, resume=resume)
        network = TrainedNetwork(options, device)
        self.checkpoint, self.arch = network.checkpoint, network.arch
        self.data = TrainingData(options, device, processes)
        self.classes = self.data.classes
        self._say(*self.data.notes)
        self._check_data()
        self.model = network.build(self.classes, len(self.data.views), self.sharers, self._say)
        self.starts_anew = network.starts_anew
        if self.starts_anew and options.resume is not None:  # named, as published, weights to begin with
            options = self.options = replace(options, init=options.resume, resume=None)
        if options.sync_bn:
            synchronise_batch_norm(self.model, device)
        if processes is not None and processes.rank:
            torch.manual_seed(mix_seed(options.seed, processes.rank))  # of dropout: the processes' own
        self.validation = in_parallel(
            validation_step(self.model, options), device, options.amp, gpus=options.num_gpus
        )
        if options.compile and isinstance(self.validation, nn.DataParallel):
            raise InputError("--compile runs on one GPU: pick it with --gpu N, or start a process per GPU")

    def _say(self, *lines: str) -> None:
        for line in lines if self.speaks else ():
            print(line, file=sys.stderr)

    def _check_data(self) -> None:
        """Raise InputError where there is no step to take, or where other processes see other images."""
        if not plan_of(self.data.loader).steps:
            raise InputError(
                f"{self.options.data}: {len(self.data.views)} images, fewer than there are processes"
            )
        if self.processes is None:
            return
        seen = self.processes.gather([each.images.checksum for each in (self.data.views, self.data.held_out)])
        for rank, other in enumerate(seen):
            if other != seen[0]:
                raise InputError(f"{self.options.data}: process {rank} finds other images than the first one")

    def validate_only(self) -> int:
        if self.checkpoint is None and not self.options.pretrained:
            raise InputError("-e needs a model: --resume FILE, --init FILE or --pretrained")
        figures, unreadable = self._validate(self.stop)
        if self.speaks:
            for name, value in figures.items():
                print(f"{name} {value:.4f}")
            name_unreadable(unreadable)
        return 0

    def _validate(self, stop: StopRequest) -> tuple[dict[str, float], list[str]]:
        loader = self.data.held_out_loader
        return run_validation(self.validation, loader, self.device, self.options, stop, self.processes)

    def train(self) -> int:
        options = self.options
        continued = self._continued()
        if continued is not None and options.init is None:
            began = _recorded(continued).get("init")  # for args.json, which tells how to have the run again
            options = self.options = replace(options, init=Path(began) if isinstance(began, str) else None)
        if continued is None and options.start_epoch >= options.epochs:
            raise InputError(
                f"--start-epoch {options.start_epoch} leaves none of {options.epochs} epochs to train"
            )
        save_dir = run_folder(options.save_dir, options.method, self.arch, options.seed)
        folder = CheckpointFolder(save_dir, options.keep)
        own = continued is not None and save_dir.resolve() == Path(options.resume or "").resolve().parent
        if self.speaks:
            folder.claim()
            if not own:
                folder.refuse_if_used()
        trainer = self._trainer(folder)
        if continued is not None:
            self._say_what_changed(continued)
            try:
                trainer.resume(continued)
            except InputError as error:
                raise InputError(f"{options.resume}: {error}") from error
            if own and self.speaks:
                progress = trainer.progress
                place = progress.epoch, progress.step
                same = _recorded(continued).get("keep") == options.keep
                for path in folder.take_over(
                    *place, spared=place_in_run(continued.get("spared")) if same else place
                ):
                    self._say(f"{path}: of a run that went on otherwise")
        else:
            trainer.start_at(options.start_epoch)
        stop = self.stop if self.processes is None else StopTogether(self.stop, self.processes)
        recorder = self._recorder(save_dir, trainer.progress.epoch) if self.speaks else None
        try:
            with self.stop.listening():
                progress = trainer.fit(stop, recorder)
        finally:
            if recorder is not None:
                recorder.close()
                name_unreadable(trainer.progress.unreadable)
        completed = progress.epoch >= options.epochs
        if recorder is not None:
            recorder.result(self._result(progress, recorder.rows[-1] if recorder.rows else {}, completed))
        if completed:
            return 0
        if self.processes is not None:
            self.processes.gather(None)  # all end together, or torchrun would end the others
        self._say(f"stopped; to continue: the same command with --resume {folder.latest or options.resume}")
        return stop.exit_status

    def _recorder(self, save_dir: Path, first_epoch: int) -> RunRecorder:
        options = self.options
        return RunRecorder(
            save_dir,
            options.log_dir or save_dir / "tensorboard",
            {
                **self._plain_options(),
                "arch": self.arch,
                "classes": list(self.classes),
                "command": shlex.join(sys.argv),
                "save_dir": str(save_dir),
            },
            first_epoch=first_epoch,
            panels=lambda: heatmap_panels(self.model, self.data.held_out, self.classes, self.device),
        )

    def _continued(self) -> Mapping[str, Any] | None:
        """The checkpoint's state of training, unless the file or the options mean weights to start from."""
        if self.checkpoint is None or self.starts_anew or "optimizer" not in self.checkpoint.extra:
            return None
        return self.checkpoint.extra

    def _say_what_changed(self, continued: Mapping[str, Any]) -> None:
        """A run is continued with this command's options; where they are not the checkpoint's, say so."""
        before, now = _recorded(continued), self._plain_options()
        for name in sorted(set(before) & set(now) - _MAY_CHANGE):
            if before[name] != now[name]:
                self._say(f"continuing with {name} {now[name]}; it was {before[name]}")

    def _plain_options(self) -> dict[str, Any]:
        options = {
            k: str(v) if isinstance(v, (Path, Fraction)) else v for k, v in asdict(self.options).items()
        }
        # Masks under the same path may be others now: a run that goes on says so.
        return options if self.data.masks is None else {**options, "masks": self.data.masks}

    def _trainer(self, folder: CheckpointFolder) -> Trainer:
        options = self.options
        method = build_method(self.model, options)
        optimizer = make_optimizer(
            self.model,
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            lr_last_layer=options.lr_last_layer,
        )
        steps = plan_of(self.data.loader).steps
        schedule = make_schedule(
            options.schedule,
            optimizer,
            epochs=options.epochs,
            steps_per_epoch=steps,
            milestones=options.decay_epochs,
            gamma=options.gamma,
        )

        def set_weight(share: float) -> None:
            if hasattr(method, "weight"):
                method.weight = options.weight * share  # type: ignore[assignment]

        clip_at = options.clip_grad_norm or None
        return Trainer(
            OptimizerStep(
                method_in_parallel(
                    method,
                    options,
                    self.device,
                    self.data.loader,
                    images=len(self.data.views),
                    processes=self.processes,
                    say=self._say,
                ),
                self.model,
                optimizer,
                self.device,
                amp=options.amp,
                clip_grad_norm=clip_at,
                parts=options.accumulate,
            ),
            schedule,
            self.data.loader,
            self.device,
            LoopOptions(
                epochs=options.epochs,
                seed=options.seed,
                print_freq=options.print_freq,
                save_every=options.save_every,
                amp=options.amp,
                clip_grad_norm=clip_at,
                strict=options.strict,
                warmup_steps=options.lambda_warmup * steps,
            ),
            folder=folder,
            state=lambda: {**self._state(), "spared": list(folder.spared)},
            validate=self._validate,
            prepare=method.prepare,
            set_weight=set_weight,
            best_by=best_by(options),
            processes=self.processes,
        )

    def _state(self) -> dict[str, Any]:
        """The parts of a checkpoint that do not belong to the loop, in the released layout."""
        return {
            "arch": self.arch,
            "state_dict": released_state_dict(self.model.backbone),
            "classes": list(self.classes),
            "options": self._plain_options(),
        }

    def _result(self, progress: Progress, last: Mapping[str, Any], completed: bool) -> dict[str, Any]:
        return {
            "method": self.options.method,
            "arch": self.arch,
            "completed": completed,
            "best_by": best_by(self.options),
            "best_acc1": progress.best_acc1,
            **last,
            "epoch": progress.epoch,
            "seconds": progress.seconds,
            "unreadable_images": progress.unreadable,
        }
