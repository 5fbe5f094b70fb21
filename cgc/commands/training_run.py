"""From options to a run: data, model, method, loop, records."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cgc.commands.train_options import TrainOptions
from cgc.commands.training_data import TrainingData
from cgc.commands.training_methods import best_by, build_method, run_validation, validation_step
from cgc.data.presets import normalise
from cgc.data.unlabelled import PairedLoader
from cgc.engine.checkpoint import CheckpointFolder
from cgc.engine.loop import Trainer
from cgc.engine.optim import make_optimizer, make_schedule
from cgc.engine.progress import LoopOptions, Progress
from cgc.engine.records import RunRecorder
from cgc.engine.runtime import StopRequest, in_parallel, pick_device
from cgc.errors import InputError
from cgc.gradcam import GradCAMModel
from cgc.methods.base import Method
from cgc.methods.semi import check_replicas
from cgc.models.backbones import build_backbone, check_image_size, pretrained_classes
from cgc.models.checkpoint_layouts import (
    Checkpoint,
    load_weights,
    match,
    read_checkpoint,
    released_state_dict,
)
from cgc.models.loading import architecture
from cgc.report.overlays import panel_row

_DEFAULT_ARCH = "resnet50"
_PANEL_IMAGES = 8
_PLACES = {"data", "resume", "save_dir", "log_dir"}
_MAY_CHANGE = _PLACES | {"workers", "print_freq", "evaluate", "keep", "device", "gpu"}


class TrainingRun:
    """Everything of one command, set up so that what can be wrong is found before the first step."""

    def __init__(self, options: TrainOptions) -> None:
        self.options = options
        self.stop = StopRequest()
        self.device = pick_device("cpu" if options.num_gpus == 0 else options.device, options.gpu)
        self.checkpoint = read_checkpoint(options.resume) if options.resume else None
        self.arch = options.arch or (architecture(self.checkpoint) if self.checkpoint else _DEFAULT_ARCH)
        self.data = TrainingData(options, pin_memory=self.device.type == "cuda")
        self.classes = self.data.classes
        for note in self.data.notes:
            print(note, file=sys.stderr)
        self.model = self._build_model()
        self.validation = in_parallel(validation_step(self.model, options), self.device, options.amp)
        if options.compile and isinstance(self.validation, nn.DataParallel):
            raise InputError("--compile runs on one GPU: pick it with --gpu N")

    def _build_model(self) -> GradCAMModel:
        options = self.options
        torch.manual_seed(options.seed)
        backbone = build_backbone(
            self.arch,
            len(self.classes),
            pretrained=options.pretrained and self.checkpoint is None,
            maxpool=options.maxpool,
        )
        if (
            options.pretrained
            and self.checkpoint is None
            and pretrained_classes(self.arch) != len(self.classes)
        ):
            print(
                f"{self.arch}: published weights, fresh classifier of {len(self.classes)} classes",
                file=sys.stderr,
            )
        self.starts_anew = options.new_head
        if self.checkpoint is not None:
            if options.other_head == "initialise":
                # A file of another head, SwAV's for instance, starts the network; it is not a run to go on with.
                self.starts_anew |= not match(backbone, self.checkpoint).head_fits
            said = load_weights(
                backbone, self.checkpoint, new_head=options.new_head, other_head=options.other_head
            )
            print(said, file=sys.stderr)
            self._check_classes(self.checkpoint)
        # The smallest batch of the run is its last one.
        smallest = min(len(self.data.views) % options.batch_size or options.batch_size, 2)
        try:
            check_image_size(backbone, options.image_size, smallest, training=not options.evaluate)
        except InputError as error:
            raise InputError(f"{self.arch}, -b {options.batch_size}: {error}") from error
        try:
            # Channels last is what the views come in, and what convolutions are fastest with, on CPU and GPU.
            model = GradCAMModel(backbone).to(self.device).to(memory_format=torch.channels_last)
        except ValueError as error:
            raise InputError(f"{self.arch}: {error}") from error
        if options.compile:
            model.compile_trunk()
        return model

    def _check_classes(self, checkpoint: Checkpoint) -> None:
        """The same number of classes is not the same classes."""
        theirs = checkpoint.extra.get("classes")
        if not isinstance(theirs, list) or not theirs:  # not one of ours
            return
        if theirs != list(self.classes) and not self.starts_anew:
            raise InputError(
                f"{checkpoint.path} was trained on other classes ({theirs[0]}, …) than {self.options.data} has "
                f"({self.classes[0]}, …); --new-head starts with a fresh classifier"
            )

    def validate_only(self) -> int:
        if self.checkpoint is None and not self.options.pretrained:
            raise InputError("-e needs a model: --resume FILE or --pretrained")
        figures, unreadable = self._validate()
        for name, value in figures.items():
            print(f"{name} {value:.4f}")
        name_unreadable(unreadable)
        return 0

    def _validate(self) -> tuple[dict[str, float], list[str]]:
        loader = self.data.held_out_loader
        return run_validation(
            self.validation, loader, len(self.classes), self.device, self.options, self.stop
        )

    def train(self) -> int:
        options, stop = self.options, self.stop
        continued = self._continued()
        if continued is None and options.start_epoch >= options.epochs:
            raise InputError(
                f"--start-epoch {options.start_epoch} leaves none of {options.epochs} epochs to train"
            )
        save_dir = (
            options.save_dir
            or Path("runs") / f"{options.method}-{self.arch.replace(':', '-')}-seed{options.seed}"
        )
        folder = CheckpointFolder(save_dir, options.keep)
        folder.claim()
        if continued is None or save_dir.resolve() not in Path(options.resume or "").resolve().parents:
            folder.refuse_if_used()
        trainer = self._trainer(folder)
        if continued is not None:
            self._say_what_changed(continued)
            try:
                trainer.resume(continued)
            except InputError as error:
                raise InputError(f"{options.resume}: {error}") from error
        else:
            trainer.start_at(options.start_epoch)
        recorder = RunRecorder(
            save_dir,
            options.log_dir or save_dir / "tensorboard",
            {**asdict(options), "arch": self.arch, "classes": list(self.classes)},
            first_epoch=trainer.progress.epoch,
            panels=self._panels,
        )
        try:
            with stop.listening():
                progress = trainer.fit(stop, recorder)
        finally:
            recorder.close()
            name_unreadable(trainer.progress.unreadable)
        completed = progress.epoch >= options.epochs
        recorder.result(self._result(progress, recorder.rows[-1] if recorder.rows else {}, completed))
        if completed:
            return 0
        print(
            f"stopped; to continue: the same command with --resume {folder.latest or options.resume}",
            file=sys.stderr,
        )
        return stop.exit_status

    def _continued(self) -> Mapping[str, Any] | None:
        """The checkpoint's state of training, unless the file or the options mean weights to start from."""
        if self.checkpoint is None or self.starts_anew or "optimizer" not in self.checkpoint.extra:
            return None
        return self.checkpoint.extra

    def _say_what_changed(self, continued: Mapping[str, Any]) -> None:
        """A run is continued with this command's options; where they are not the checkpoint's, say so."""
        before, now = continued.get("options"), self._plain_options()
        if not isinstance(before, dict):  # not one of ours
            return
        for name in sorted(set(before) & set(now) - _MAY_CHANGE):
            if before[name] != now[name]:
                print(f"continuing with {name} {now[name]}; it was {before[name]}", file=sys.stderr)

    def _plain_options(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.options).items()}

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
        steps = math.ceil(len(self.data.views) / options.batch_size)
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

        return Trainer(
            self._in_parallel(method),
            self.model,
            optimizer,
            schedule,
            self.data.loader,
            self.device,
            LoopOptions(
                epochs=options.epochs,
                seed=options.seed,
                print_freq=options.print_freq,
                amp=options.amp,
                clip_grad_norm=options.clip_grad_norm or None,
                strict=options.strict,
                warmup_steps=options.lambda_warmup * steps,
            ),
            folder=folder,
            state=self._state,
            validate=self._validate,
            prepare=method.prepare,
            set_weight=set_weight,
            best_by=best_by(options),
        )

    def _in_parallel(self, method: Method) -> nn.Module:
        wrapped = in_parallel(method, self.device, self.options.amp)
        if isinstance(wrapped, nn.DataParallel) and isinstance(self.data.loader, PairedLoader):
            unlabelled = self.data.loader.unlabelled_batch_size
            check_replicas(len(self.data.views), self.options.batch_size, unlabelled, len(wrapped.device_ids))
        return wrapped

    def _state(self) -> dict[str, Any]:
        """The parts of a checkpoint that do not belong to the loop, in the released layout."""
        return {
            "arch": self.arch,
            "state_dict": released_state_dict(self.model.backbone),
            "classes": list(self.classes),
            "options": self._plain_options(),
        }

    def _panels(self) -> NDArray[Any]:
        """Heatmaps of a few validation images for their predicted classes."""
        views = self.data.held_out
        indices = np.linspace(0, len(views) - 1, min(_PANEL_IMAGES, len(views))).astype(int)
        samples = [views[(int(i), 0)] for i in indices]
        images = torch.stack([s.query for s in samples]).permute(0, 3, 1, 2)
        was_training = self.model.training
        self.model.eval()
        logits, maps = self.model.explain(normalise(images.to(self.device)))
        self.model.train(was_training)
        captions = [self.classes[k] for k in logits.argmax(1).tolist()]
        return panel_row(images, maps.cpu(), captions)

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


def name_unreadable(lines: Sequence[str], most: int = 20) -> None:
    """Say at the end which images could not be read."""
    if lines:
        print(f"{len(lines)} unreadable images were replaced by their neighbours:", file=sys.stderr)
        for line in lines[:most]:
            print(f"  {line}", file=sys.stderr)
        if len(lines) > most:
            print(f"  … and {len(lines) - most} more, all in result.json", file=sys.stderr)
