"""What the localisation evaluator prints and writes: a table, a summary as JSON, one CSV row per image."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgc.data.boxes import BoxedImages
from cgc.engine.localisation import MAPS, METRICS, ImageScore, Summary
from cgc.metrics.pointing_game import EVALUATED_SIDE, SMALL_SIDE, TOLERANCE
from cgc.report.text import aligned

_TITLES = {"ch": "Content Heatmap", "pg": "Pointing Game", "spg": "Stochastic PG (exact)"}
_MAP_TITLES = {"model": "model", "uniform": "uniform", "gaussian": "centre-Gaussian"}
_NAMED = 10  # skipped files that are listed on the screen, per reason; the JSON has them all


def table(summary: Summary) -> str:
    """Scores in per cent, the model's beside those of maps that know nothing of the image."""
    rows: list[tuple[str, ...]] = [("score (%)", *_MAP_TITLES.values(), "images")]
    rows.append(("top-1", _percent(summary.top1), "", "", str(summary.images)))
    for metric in METRICS:
        values = (_percent(summary.values[metric][name]) for name in MAPS)
        rows.append((_TITLES[metric], *values, str(summary.counted[metric])))
    return aligned(rows)


def notes(summary: Summary, found: BoxedImages, scores: Sequence[ImageScore], zero_maps: str) -> list[str]:
    """What a reader must know of the numbers: tolerance, zero maps, what was left out and why."""
    lines = [tolerance_line(scores)]
    treated = "left out" if zero_maps == "skip" else "counted as uniform maps"
    lines.append(f"zero maps: {summary.zero_maps} ({treated})")
    lines.append("a uniform map points at its first pixel, top left: ties go to the first in row-major order")
    if summary.all_difficult:
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


def tolerance_line(scores: Sequence[ImageScore]) -> str:
    """The pixels by which a point may miss, as they were used."""
    used = sorted({row.tolerance for row in scores})
    if not used:
        return "pointing tolerance: none used"
    text = f"{used[0]:g} px" if len(used) == 1 else f"{used[0]:g} to {used[-1]:g} px"
    small = f"{TOLERANCE:g} · side / {EVALUATED_SIDE}"
    rule = f"{TOLERANCE:g} px; {small} where the shorter side is below {SMALL_SIDE} px"
    return f"pointing tolerance: {text} (unless given: {rule})"


def summary_json(
    summary: Summary, found: BoxedImages, scores: Sequence[ImageScore], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything the screen shows, unrounded; scores in [0, 1]."""
    return {
        "settings": dict(settings),
        "layout": found.layout,
        "classes": len(found.classes),
        "images": summary.images,
        "zero_maps": summary.zero_maps,
        "all_difficult": summary.all_difficult,
        "boxes_clipped": found.clipped,
        "boxes_dropped": found.dropped,
        "tolerance_px": sorted({row.tolerance for row in scores}),
        "top1": summary.top1,
        "scores": summary.values,
        "counted": summary.counted,
        "skipped": found.skipped,
    }


def write(
    path: Path, content: Mapping[str, Any], found: BoxedImages, scores: Sequence[ImageScore], root: Path
) -> Path:
    """The JSON at `path` and the CSV beside it, whose path is returned. Cells of scores that do not count
    are empty.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    rows_path = path.with_suffix(".csv")
    rows = [_row(row, found, root) for row in scores]
    with rows_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows_path


def _row(row: ImageScore, found: BoxedImages, root: Path) -> dict[str, Any]:
    image = found.images[row.index]
    cells: dict[str, Any] = {
        "path": image.path.relative_to(root).as_posix(),
        "class": found.classes[row.label],
        "prediction": found.classes[row.prediction],
        "correct": int(row.prediction == row.label),
        "confidence": f"{row.confidence:.7g}",
    }
    for name in MAPS:
        prefix = "" if name == "model" else f"{name}_"
        for metric in METRICS:
            value = getattr(getattr(row, name), metric)
            cells[prefix + metric] = "" if value is None else f"{value:.8g}"
    return cells | {
        "zero_map": int(row.zero_map),
        "all_difficult": int(row.all_difficult),
        "tolerance": f"{row.tolerance:g}",
        "height": image.size[0],
        "width": image.size[1],
    }


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"
