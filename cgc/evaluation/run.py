"""One pass over annotated images: every forward pass and every heatmap once, every score from them.

Legend: N images of a batch, M rows (image, class), K classes, (h, w) grid of the heatmaps. Scores are computed on the
device, and read back one batch late, so that a GPU never waits for Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from cgc.data.boxed_views import ViewSizes
from cgc.data.boxes import BoxedImage
from cgc.data.presets import normalise
from cgc.engine.processes import Processes
from cgc.engine.runtime import autocast, bar_interval
from cgc.engine.transfer import Readback, to_device
from cgc.evaluation.consistency import ConsistencyPass
from cgc.evaluation.loader import (
    EvaluationBatch,
    Failure,
    Preparation,
    evaluation_loader,
)
from cgc.evaluation.options import EvaluationOptions
from cgc.evaluation.perturbation import Perturbation
from cgc.evaluation.rows import Evaluation, Row
from cgc.evaluation.scores import (
    classification_columns,
    localisation_columns,
)
from cgc.evaluation.subject import Subject

NOT_FINITE = "logits or map not finite"
OnMaps = Callable[[Sequence[Row], Sequence[Tensor]], None]


def evaluate(
    subject: Subject,
    images: Sequence[BoxedImage],
    options: EvaluationOptions,
    *,
    device: torch.device | str = "cpu",
    on_maps: OnMaps | None = None,
    progress: bool = False,
    processes: Processes | None = None,
) -> Evaluation:
    """Score every row in one pass; memory holds one batch, the rows, and grid maps where consistency is asked for.

    Args:
        images: rows; those of one image stand next to each other.
        on_maps: gets the rows of each image with their raw maps (h, w) on the CPU.
        processes: share the images with the other processes; every process gets the rows of all.

    Raises:
        ValueError: a metric needs a model and there is none, or ``zero_maps`` is neither of the two.
    """
    if options.zero_maps not in ("skip", "uniform"):
        raise ValueError(f"zero_maps must be 'skip' or 'uniform', not {options.zero_maps!r}")
    needs_model = options.perturbs or options.compares_views or not options.localises
    if subject.predict is None and needs_model:
        raise ValueError(f"{', '.join(options.metrics)}: needs a model, not only maps")
    run = _Pass(subject, images, options, torch.device(device), on_maps)
    share = processes.share if processes is not None else slice(None)
    loader = run.loader(share)
    total = sum(map(len, loader.batch_sampler or ()))
    with tqdm(total=total, unit="image", disable=not progress, mininterval=bar_interval()) as bar:
        for batch in loader:
            run.take(batch)
            bar.update(batch.images)
        run.finish()
    result = run.result
    if processes is not None:
        everyone = processes.gather(result)
        result = Evaluation([r for e in everyone for r in e.rows], [f for e in everyone for f in e.failed])
    if options.compares_views:
        own = run.consistency.on_cpu()
        parts = [own] if processes is None else processes.gather(own)
        spoilt = ConsistencyPass.score(
            parts, result.rows, options.temperature, skip_zero_maps=options.zero_maps == "skip"
        )
        result.rows = [row for row in result.rows if row.index not in spoilt]
        result.failed += [Failure(row, NOT_FINITE, str(images[row].path)) for row in spoilt]
    result.rows.sort(key=lambda row: row.index)
    result.failed.sort()
    return result


class _Pass:
    """The state of one evaluation in one process."""

    def __init__(
        self,
        subject: Subject,
        images: Sequence[BoxedImage],
        options: EvaluationOptions,
        device: torch.device,
        on_maps: OnMaps | None,
    ) -> None:
        self.subject, self.images, self.options = subject, images, options
        self.device, self.on_maps = device, on_maps
        self.result = Evaluation()
        self.consistency = ConsistencyPass(options.crop[1])
        self.perturbation = Perturbation(subject, options, len(images))
        self._pending: tuple[EvaluationBatch, Readback, Sequence[Tensor]] | None = None

    def loader(self, share: slice) -> DataLoader[Any]:
        options, has_model = self.options, self.subject.predict is not None
        views = ViewSizes(
            options.input_resize if has_model and options.needs_full_view else None,
            options.perturbation.side if options.perturbs else None,
            options.crop if options.compares_views else None,
        )
        return evaluation_loader(
            self.images,
            Preparation(
                views,
                options.localises,
                options.tolerance,
                self.subject.load_map if options.localises or options.perturbs else None,
            ),
            batch_size=options.batch_size,
            workers=options.workers,
            pin_memory=self.device.type == "cuda",
            share=share,
        )

    def take(self, batch: EvaluationBatch) -> None:
        """Queue the work of a batch, then read the results of the one before."""
        self.result.failed.extend(batch.failed)
        if not batch.rows:
            return
        columns: dict[str, Tensor] = {}
        maps: Tensor | Sequence[Tensor] = batch.stored()
        with torch.no_grad(), autocast(self.device, self.options.precision):
            if self.subject.predict is not None:
                maps = self._look(batch, columns)
            if self.options.compares_views:
                self._compare_views(batch)
        if self.options.localises:
            found = localisation_columns(
                batch,
                maps,
                self.images,
                self.device,
                skip_zero_maps=self.options.zero_maps == "skip",
                samples=self.options.spg_samples,
                seed=self.options.seed,
            )
            _merge(columns, found)
        kept = [map_hw.float().cpu() for map_hw in maps] if self.on_maps is not None else []
        before, self._pending = self._pending, (batch, Readback(columns), kept)
        if before is not None:
            self._read(*before)

    def finish(self) -> None:
        """Read the results of the last batch."""
        if self._pending is not None:
            self._read(*self._pending)
            self._pending = None

    def _look(self, batch: EvaluationBatch, columns: dict[str, Tensor]) -> Tensor | Sequence[Tensor]:
        """Everything that the network is needed for; the maps that are scored against regions, or that there are."""
        maps: Tensor | Sequence[Tensor] = batch.stored()
        target_M = self._to_device(torch.tensor([self.images[row].label for row in batch.rows]))
        owner_M = self._to_device(torch.tensor(batch.owners))
        if batch.views.full is not None:
            images_NCHW = self._normalised(batch.views.full)
            target_M = self._favoured(batch, images_NCHW, target_M, owner_M)
            logits_NK, maps = self._explained(images_NCHW, target_M, owner_M, batch, self.options.localises)
            _merge(columns, classification_columns(logits_NK, target_M, owner_M, self.subject.multi_label))
        if batch.views.square is not None:
            square_NCHW = self._normalised(batch.views.square)
            if batch.views.full is None:
                target_M = self._favoured(batch, square_NCHW, target_M, owner_M)
            logits_NK, square_maps = self._explained(square_NCHW, target_M, owner_M, batch, True)
            if batch.views.full is None:
                maps = square_maps
                _merge(
                    columns, classification_columns(logits_NK, target_M, owner_M, self.subject.multi_label)
                )
            images_MCHW = square_NCHW if len(owner_M) == len(square_NCHW) else square_NCHW[owner_M]
            found = self.perturbation.columns(
                images_MCHW, logits_NK[owner_M], square_maps, target_M, batch.rows
            )
            _merge(columns, found)
        columns["label"] = target_M
        return maps

    def _explained(
        self,
        images_NCHW: Tensor,
        target_M: Tensor,
        owner_M: Tensor,
        batch: EvaluationBatch,
        wants_maps: bool,
    ) -> tuple[Tensor, Tensor | Sequence[Tensor]]:
        """Logits (N, K) and the rows' maps: stored ones, those of the explainer, or none if none are wanted."""
        if wants_maps and self.subject.load_map is None:
            assert self.subject.explain is not None
            return self.subject.explain(images_NCHW, target_M, owner_M)
        assert self.subject.predict is not None
        return self.subject.predict(images_NCHW), batch.stored()

    def _favoured(
        self, batch: EvaluationBatch, images_NCHW: Tensor, labels_M: Tensor, owner_M: Tensor
    ) -> Tensor:
        """The class to explain: the label, or of several admissible classes the one that the model favours."""
        several = [m for m, row in enumerate(batch.rows) if self.images[row].alternatives]
        if not several or self.subject.load_map is not None:
            return labels_M
        assert self.subject.predict is not None
        logits_NK = self.subject.predict(images_NCHW)
        labels_M = labels_M.clone()
        for m in several:
            image = self.images[batch.rows[m]]
            admissible = self._to_device(torch.tensor([image.label, *image.alternatives]))
            labels_M[m] = admissible[logits_NK[owner_M[m]][admissible].argmax()]
        return labels_M

    def _compare_views(self, batch: EvaluationBatch) -> None:
        assert batch.views.crop is not None
        first_rows = [batch.rows[batch.owners.index(n)] for n in range(len(batch.views.crop))]
        self.consistency.add(self.subject, self._to_device(batch.views.crop), first_rows)

    def _read(self, batch: EvaluationBatch, readback: Readback, maps: Sequence[Tensor]) -> None:
        columns = readback.columns()
        tolerances = {m: t for g in batch.layouts for m, t in zip(g.positions, g.tolerances, strict=True)}
        done: list[tuple[int, Row]] = []
        for m, index in enumerate(batch.rows):
            if not columns.get("finite", [1.0] * len(batch.rows))[m]:
                what = str(self.images[index].path)
                self.result.failed.append(Failure(index, NOT_FINITE, what))
                continue
            row = self._row(index, m, columns, tolerances.get(m))
            self.result.rows.append(row)
            done.append((m, row))
        if self.on_maps is not None and maps:
            for owner in dict.fromkeys(batch.owners[m] for m, _ in done):
                own = [(row, maps[m]) for m, row in done if batch.owners[m] == owner]
                self.on_maps([row for row, _ in own], [map_hw for _, map_hw in own])

    def _row(self, index: int, m: int, columns: Mapping[str, list[Any]], tolerance: float | None) -> Row:
        image = self.images[index]
        label = int(columns["label"][m]) if "label" in columns else image.label
        row = Row(index, label, all_difficult=image.all_difficult, tolerance=tolerance)
        if "prediction" in columns:
            row.prediction, row.rank = int(columns["prediction"][m]), int(columns["rank"][m])
            row.confidence = columns["confidence"][m]
            row.correct = row.rank == 0  # of several admissible classes, the favoured one's
            if self.subject.multi_label:
                row.predicted = tuple(k for k, p in enumerate(columns["predicted"][m]) if p)
                row.correct = label in row.predicted
        row.zero_map = bool(columns["zero"][m]) if "zero" in columns else False
        for name, values in columns.items():
            metric, _, map_name = name.partition("/")
            value = values[m]
            if not map_name or value != value:  # NaN: not measured for this row
                continue
            if metric == "pg" and row.all_difficult:
                continue
            row.scores.setdefault(metric, {})[map_name] = value
        return row

    def _to_device(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self.device)

    def _normalised(self, images_u8: Tensor) -> Tensor:
        return normalise(self._to_device(images_u8))


def _merge(columns: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Take up columns; a row is finite if it is so everywhere, and has a zero map if one of its maps is."""
    for name, column_M in more.items():
        if name in columns and name == "finite":
            column_M = columns[name] & column_M.to(columns[name].device)
        elif name in columns and name == "zero":
            column_M = columns[name] | column_M.to(columns[name].device)
        columns[name] = column_M
