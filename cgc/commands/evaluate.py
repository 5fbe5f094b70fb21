"""Every evaluation: `python -m cgc evaluate`, and the published scripts as views of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from cgc.commands import evaluate_report
from cgc.commands.evaluate_options import Options, parse
from cgc.commands.evaluate_outputs import check_outputs, map_writers, overlay_folder
from cgc.commands.evaluate_presets import PRESETS, Preset
from cgc.commands.options import run_command
from cgc.data.boxes import BoxedImage, BoxedImages, open_boxes
from cgc.data.labelled import has_class_folders, open_labelled
from cgc.data.presets import resize_size
from cgc.data.shards.folders import refuse_shards
from cgc.engine.processes import Processes, joined_processes, own_device
from cgc.engine.runtime import pick_device
from cgc.errors import InputError, RunError
from cgc.evaluation.loader import image_starts
from cgc.evaluation.options import (
    CONSISTENCY,
    LOCALISATION,
    PERTURBATION,
    EvaluationOptions,
    PerturbationOptions,
)
from cgc.evaluation.rows import Evaluation, summarise
from cgc.evaluation.run import evaluate
from cgc.evaluation.subject import Subject, gradcam_subject
from cgc.explainers import build_explainer
from cgc.explainers.stored import StoredMaps
from cgc.gradcam import GradCAMModel
from cgc.models.folding import fold_batch_norm
from cgc.models.loading import load_model
from cgc.modes import evaluating

_IMAGENET_CLASSES = 1000
# These read the network's own layers; the others see only inputs and outputs, and may get a faster equal network.
_FOLDABLE = ("gradcam", "rise")


def main(argv: Sequence[str] | None = None, *, preset: str = "evaluate") -> int:
    """Run an evaluation with the defaults of ``preset``; 0, or 2 for input that cannot be used, 1 for a run that failed
    (one line on stderr).
    """
    options = parse(argv, PRESETS[preset])
    return run_command(lambda: run(options, PRESETS[preset]))


def run(options: Options, preset: Preset) -> int:
    """Evaluate, print, write.

    Raises:
        InputError: data, classes, checkpoint, device or output path cannot be used.
        RunError: not one row could be scored, or a result could not be written.
    """
    if options.resize_size is not None and options.resize_size < options.image_size:
        raise InputError(f"--resize-size {options.resize_size} is below --image-size {options.image_size}")
    if options.maps is not None and (options.explainer != preset.explainer or options.layer is not None):
        raise InputError(
            "--maps or --explainer: the heatmaps come from a folder or from the model, not from both"
        )
    if options.amp != "off" and options.explainer != "gradcam":
        raise InputError(f"--amp {options.amp}: {options.explainer} computes in float32; leave it out")
    device = own_device(pick_device("cpu" if options.num_gpus == 0 else options.device))
    check_outputs(options)
    refuse_shards(options.data)
    found = _subset(open_rows(options), options.images)
    options = replace(options, metrics=_metrics(options, found))
    with joined_processes(device) as processes:
        model = _load(options, preset, found)
        with evaluating(model.to(device) if model is not None else nn.Identity()):
            result = evaluate(
                _subject(options, found, model),
                found.images,
                _settings(options),
                device=device,
                on_maps=map_writers(options, found),
                progress=processes is None or processes.rank == 0,
                processes=processes,
            )
        if processes is None or processes.rank == 0:
            _report(options, found, result, device, processes)
    return 0


def open_rows(options: Options) -> BoxedImages:
    assert options.metrics is None or options.metrics
    localises = options.metrics is None or set(options.metrics) & set(LOCALISATION)
    if not localises and not options.class_map and has_class_folders(options.data, options.dataset):
        return open_labelled(options.data, options.dataset, options.classes)
    return open_boxes(
        options.data,
        classes=options.classes,
        dataset=options.dataset,
        split=options.split,
        year=options.year,
        regions=options.regions,
        class_map=options.class_map,
        download=options.download,
    )


def _subset(found: BoxedImages, count: int | None) -> BoxedImages:
    """``count`` images with all of their rows, evenly spread over the list."""
    starts = image_starts(found.images)
    if count is None or count >= len(starts):
        return found
    chosen = np.linspace(0, len(starts) - 1, count).round().astype(int).tolist()
    rows = [row for i in chosen for row in found.images[slice(*starts[i])]]
    found.notes.append(f"{count} of {len(starts)} images, evenly spread")
    return replace(found, images=rows)


def _metrics(options: Options, found: BoxedImages) -> tuple[str, ...]:
    """What is measured: as asked, else what suits the data; refused where it means nothing there."""
    has_model = options.checkpoint is not None or options.pretrained
    if options.metrics is None:
        more = () if not has_model else ("f1",) if found.multi_label else ("top1",)
        return (*LOCALISATION, *more)
    asked = options.metrics
    if not has_model:
        if set(asked) & set(PERTURBATION):
            raise InputError(
                "insertion and deletion ask a model, also about maps from a folder: name a checkpoint"
            )
        kept = tuple(metric for metric in asked if metric in LOCALISATION)
        if not kept or options.maps is None:
            raise InputError(
                "name a checkpoint, ask for ImageNet weights with --pretrained, or for --maps DIR"
            )
        if kept != asked:
            left_out = ", ".join(metric for metric in asked if metric not in kept)
            found.notes.append(f"not measured without a model: {left_out}")
        return kept
    wrong = {"top1", "top5"} if found.multi_label else {"f1"}
    if wrong & set(asked):
        kind = "several labels" if found.multi_label else "one label"
        raise InputError(
            f"{options.data} has {kind} per image: {', '.join(sorted(wrong & set(asked)))} is not defined"
        )
    if options.maps is not None and set(asked) & set(CONSISTENCY):
        raise InputError("--maps: consistency needs maps of augmented views, which no folder holds")
    return asked


def _load(options: Options, preset: Preset, found: BoxedImages) -> GradCAMModel | None:
    if options.checkpoint is None and not options.pretrained:
        if options.maps is not None:
            return None
        raise InputError("name a checkpoint, ask for ImageNet weights with --pretrained, or for --maps DIR")
    classes = len(found.classes)
    only_imagenet = options.pretrained and options.checkpoint is None and preset.other_head == "refuse"
    if only_imagenet and classes != _IMAGENET_CLASSES:
        raise InputError(f"--pretrained has ImageNet's 1000 classes, {options.data} has {classes}")
    return load_model(
        options.arch or (preset.arch if options.checkpoint is None else None),
        options.checkpoint,
        classes,
        pretrained=options.pretrained,
        image_size=_smallest_view(options),
        maxpool=options.maxpool,
        other_head=preset.other_head,
        target_layer=options.layer if options.explainer == "gradcam" else None,
    )


def _smallest_view(options: Options) -> int:
    """Shortest side, in pixels, of what the network will see."""
    settings = _settings(options)
    sides = (
        (options.input_resize, settings.needs_full_view),
        (options.insertion_size, settings.perturbs),
        (options.image_size, settings.compares_views),
    )
    return min(side for side, seen in sides if seen)


def _subject(options: Options, found: BoxedImages, model: GradCAMModel | None) -> Subject:
    load_map = None
    if options.maps is not None:
        names = {*found.classes, *(image.category for image in found.images if image.category)}
        stored = StoredMaps(options.maps, options.data, stretch=options.stretch_maps, classes=names)
        load_map = partial(_stored_map, stored, found)
    if model is None:
        return Subject(load_map=load_map, multi_label=found.multi_label)
    model = model.to(
        memory_format=torch.channels_last
    )  # what the views come in, and what convolutions like best
    if options.explainer in _FOLDABLE:
        folded = fold_batch_norm(model.backbone).to(memory_format=torch.channels_last)
        model = GradCAMModel(folded, model.target_layer).eval()
    own = gradcam_subject(
        model, weighting=options.weighting, load_map=load_map, multi_label=found.multi_label
    )
    if options.explainer == "gradcam" or load_map is not None:
        return own
    explain = build_explainer(
        options.explainer,
        model.backbone,
        layer=options.layer,
        weighting=options.weighting,
        seed=options.seed,
        batch_size=options.batch_size,
        masks=options.rise_masks,
    )
    return replace(own, explain=explain)


def _stored_map(stored: StoredMaps, found: BoxedImages, image: BoxedImage) -> Tensor:
    return stored.load(image.path, found.name(image), image.size)


def _settings(options: Options) -> EvaluationOptions:
    assert options.metrics is not None
    return EvaluationOptions(
        metrics=options.metrics,
        input_resize=options.input_resize,
        batch_size=options.batch_size,
        workers=options.workers,
        tolerance=options.tolerance,
        zero_maps=options.zero_maps,
        spg_samples=options.spg_samples,
        perturbation=PerturbationOptions(
            options.insertion_size, options.insertion_baseline, options.deletion_baseline, options.steps
        ),
        trivial_images=options.trivial_images,
        crop=(options.resize_size or resize_size(options.image_size), options.image_size),
        temperature=options.temperature,
        precision=options.amp,
        seed=options.seed,
    )


def _report(
    options: Options,
    found: BoxedImages,
    result: Evaluation,
    device: torch.device,
    processes: Processes | None,
) -> None:
    for row, reason, what in result.failed:
        found.skip(reason, f"{what} ({found.name(found.images[row])})" if found.multi_label else what)
    if not result.rows:
        reason, files = next(iter(found.skipped.items()))
        raise RunError(
            f"not one of {len(found.images)} images could be scored; the first: {files[0]} ({reason})"
        )
    assert options.metrics is not None
    summary = summarise(
        result.rows,
        found.images,
        options.metrics,
        num_classes=len(found.classes),
        draws=options.bootstrap,
        seed=options.seed,
    )
    print(evaluate_report.heading(options, found, device, 1 if processes is None else processes.size) + "\n")
    print(evaluate_report.table(summary) + "\n")
    print("\n".join(evaluate_report.notes(summary, found, result.rows, options)))
    if options.out is not None:
        content = evaluate_report.summary_json(summary, found, result.rows, options, device)
        try:
            rows = evaluate_report.write(options.out, content, found, result.rows, options)
        except OSError as error:
            raise RunError(f"{options.out} cannot be written: {error.strerror}") from error
        print(f"written: {options.out} and {rows}")
    if options.save_maps is not None:
        print(f"maps: {options.save_maps}")
    if options.save_overlays:
        print(f"overlays: {overlay_folder(options)}")


if __name__ == "__main__":
    sys.exit(main())
