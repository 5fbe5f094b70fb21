"""What an evaluation prints and writes: a table, a summary as JSON, one CSV row per image and class."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cgc.commands.evaluate_options import Options, plain
from cgc.data.boxes import BoxedImages
from cgc.evaluation.options import LOCALISATION, MAPS, PERTURBATION
from cgc.evaluation.rows import Estimate, Row, Summary
from cgc.metrics.pointing_game import EVALUATED_SIDE, SMALL_SIDE, TOLERANCE
from cgc.report.comparison import LESS_IS_BETTER
from cgc.report.text import TITLES, aligned

_ORDER = ("top1", "top5", *LOCALISATION, *PERTURBATION, "consistency", "cosine")
_MAP_TITLES = ("uniform", "centre-Gaussian", "random")
_MULTI_LABEL = {"class_": "mean over classes", "overall_": "overall"}
_NAMED = 10  # skipped files that are listed on the screen, per reason; the JSON has them all


def heading(options: Options, found: BoxedImages, device: torch.device, processes: int) -> str:
    """What was evaluated on what, in one line."""
    subject = str(options.checkpoint or ("ImageNet weights" if options.pretrained else ""))
    if options.maps is not None:
        subject = " with ".join(filter(None, [subject, f"the maps in {options.maps}"]))
        how = "stored maps"
    elif options.explainer == "gradcam":
        how = f"{options.weighting} Grad-CAM of the label" + (f" at {options.layer}" if options.layer else "")
    else:
        how = f"{options.explainer} of the label" + (f" at {options.layer}" if options.layer else "")
    where = f"{device}" + (f", {processes} processes" if processes > 1 else "")
    precision = "" if options.amp == "off" else f", {options.amp}"
    return (
        f"{subject} on {options.data} ({found.layout}, {len(found.classes)} classes), "
        f"shorter side {options.input_resize} px, {how}, {where}{precision}"
    )


def table(summary: Summary) -> str:
    """Scores in per cent with their intervals, the model's beside those of maps that know nothing of the image."""
    with_interval = any(
        estimate.low != estimate.high
        for each in summary.scores.values()
        if (estimate := each["model"]) is not None
    )
    rows: list[tuple[str, ...]] = [
        ("score (%)", "model", *(["95 % interval"] if with_interval else []), *_MAP_TITLES, "rows")
    ]
    for metric in _ORDER:
        if metric not in summary.scores:
            continue
        each = summary.scores[metric]
        scale = 1 if metric == "consistency" else 100
        model = each["model"]
        interval = "" if model is None else f"[{scale * model.low:.2f}, {scale * model.high:.2f}]"
        trivial = (_cell(each.get(name), scale) for name in MAPS[1:])
        count = "0" if model is None else str(model.rows)
        rows.append(
            (_title(metric), _cell(model, scale), *([interval] if with_interval else []), *trivial, count)
        )
    text = aligned(rows)
    return text if summary.multi_label is None else text + "\n\n" + _multi_label_table(summary.multi_label)


def _title(metric: str) -> str:
    less = " (less is better)" if metric in LESS_IS_BETTER else ""
    return TITLES[metric] + less + (" (not in %)" if metric == "consistency" else "")


def _cell(estimate: Estimate | None, scale: float) -> str:
    return "" if estimate is None else f"{scale * estimate.value:.2f}"


def _multi_label_table(scores: Mapping[str, object]) -> str:
    rows: list[tuple[str, ...]] = [("labels (%)", "precision", "recall", "F1", "95 % interval of F1")]
    for prefix, title in _MULTI_LABEL.items():
        values = [scores.get(prefix + name) for name in ("precision", "recall", "f1")]
        interval = scores.get(f"{prefix}f1_interval")
        low_high = f"[{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]" if isinstance(interval, list) else ""
        cells = ("–" if not isinstance(v, float) else f"{100 * v:.2f}" for v in values)
        rows.append((title, *cells, low_high))
    return aligned(rows)


def notes(summary: Summary, found: BoxedImages, rows: Sequence[Row], options: Options) -> list[str]:
    """What a reader must know of the numbers: tolerance, zero maps, what was left out and why."""
    asked = options.metrics or ()
    lines = list(found.notes)
    if {"pg", "spg"} & set(asked):
        lines.append(tolerance_line(rows))
    treated = "left out of the maps' scores" if options.zero_maps == "skip" else "counted as uniform maps"
    lines.append(f"zero maps: {summary.zero_maps} ({treated})")
    if "pg" in asked:
        lines.append(
            "a uniform map points at its first pixel, top left: ties go to the first in row-major order"
        )
    if "spg" in asked and options.spg_samples is not None:
        lines.append(
            f"stochastic pointing game of the model: {options.spg_samples} drawn points a map, seed {options.seed}"
        )
    for metric in (metric for metric in PERTURBATION if metric in asked):
        with_trivial = (row.score(metric) for row in rows if row.score(metric, "uniform") is not None)
        own = [value for value in with_trivial if value is not None]
        if own:
            lines.append(
                f"{metric} of the trivial maps: over {len(own)} rows, evenly spread; "
                f"the model's own maps have {100 * sum(own) / len(own):.2f} there"
            )
    if summary.all_difficult and "pg" in asked:
        lines.append(f"not in the pointing game, all objects difficult: {summary.all_difficult}")
    if found.clipped or found.dropped:
        lines.append(f"boxes over the border: {found.clipped} clipped; empty boxes: {found.dropped} dropped")
    lines.append(f"skipped: {sum(map(len, found.skipped.values()))}")
    for reason, files in found.skipped.items():
        lines.append(f"  {reason}: {len(files)}")
        lines += [f"    {name}" for name in files[:_NAMED]]
        if len(files) > _NAMED:
            lines.append(f"    and {len(files) - _NAMED} more")
    return lines


def tolerance_line(rows: Sequence[Row]) -> str:
    """The pixels by which a point may miss, as they were used."""
    used = sorted({row.tolerance for row in rows if row.tolerance is not None})
    if not used:
        return "pointing tolerance: none used"
    text = f"{used[0]:g} px" if len(used) == 1 else f"{used[0]:g} to {used[-1]:g} px"
    small = f"{TOLERANCE:g} · side / {EVALUATED_SIDE}"
    rule = f"{TOLERANCE:g} px; {small} where the shorter side is below {SMALL_SIDE} px"
    return f"pointing tolerance: {text} (unless given: {rule})"


def summary_json(
    summary: Summary, found: BoxedImages, rows: Sequence[Row], options: Options, device: torch.device
) -> dict[str, Any]:
    """Everything the screen shows, unrounded; scores in [0, 1]."""
    content: dict[str, Any] = {
        "settings": plain(options) | {"device": str(device), "torch": torch.__version__},
        "layout": found.layout,
        "classes": len(found.classes),
        "images": summary.images,
        "rows": summary.rows,
        "zero_maps": summary.zero_maps,
        "all_difficult": summary.all_difficult,
        "boxes_clipped": found.clipped,
        "boxes_dropped": found.dropped,
        "tolerance_px": sorted({row.tolerance for row in rows if row.tolerance is not None}),
        "notes": found.notes,
        "scores": {},
        "intervals": {},
        "counted": {},
        "skipped": found.skipped,
    }
    for metric, each in summary.scores.items():
        model = each["model"]
        interval = None if model is None else [model.low, model.high]
        content["counted"][metric] = 0 if model is None else model.rows
        content["intervals"][metric] = interval
        values = {name: None if estimate is None else estimate.value for name, estimate in each.items()}
        if metric in ("top1", "top5"):
            content[metric] = values["model"]
        else:
            content["scores"][metric] = values
    if summary.multi_label is not None:
        content["multi_label"] = dict(summary.multi_label) | {"names": list(found.classes)}
    return content


def write(
    path: Path, content: Mapping[str, Any], found: BoxedImages, rows: Sequence[Row], options: Options
) -> Path:
    """The JSON at `path` and the CSV beside it, whose path is returned. Cells of scores that do not count are empty."""
    rows_path = path.with_suffix(".csv")
    chosen = any(found.images[row.index].alternatives for row in rows)
    cells = [_cells(row, found, options, chosen) for row in rows]
    with rows_path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(cells[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return rows_path


def _cells(row: Row, found: BoxedImages, options: Options, chosen: bool) -> dict[str, Any]:
    """One row. ``chosen``: the explained class is one of several admissible ones, in some row at least."""
    image, metrics = found.images[row.index], options.metrics or ()
    cells: dict[str, Any] = {
        "path": _relative(image.path, options.data),
        "class": found.name(image),
        "prediction": "" if row.prediction is None else found.classes[row.prediction],
        # With several labels: whether this one is among those that the model says.
        "label_found" if found.multi_label else "correct": "" if row.correct is None else int(row.correct),
        "confidence": "" if row.confidence is None else f"{row.confidence:.7g}",
    }
    if chosen:
        cells["explained"] = found.classes[row.label]
    if row.predicted is not None:
        cells["predicted"] = ";".join(found.classes[k] for k in row.predicted)
    if "top5" in metrics:
        cells["top5"] = "" if row.rank is None else int(row.rank < 5)
    scored = [metric for metric in _ORDER if metric in metrics and metric not in ("top1", "top5")]
    for name in MAPS:
        for metric in scored:
            if name == "model" or metric in (*LOCALISATION, *PERTURBATION):
                value = row.score(metric, name)
                cells[metric if name == "model" else f"{name}_{metric}"] = (
                    "" if value is None else f"{value:.8g}"
                )
    return cells | {
        "zero_map": int(row.zero_map),
        "all_difficult": int(row.all_difficult),
        "tolerance": "" if row.tolerance is None else f"{row.tolerance:g}",
        "height": image.size[0],
        "width": image.size[1],
    }


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
