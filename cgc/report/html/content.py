"""What a report is made of, before it is a page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cgc.errors import InputError
from cgc.report.score_files import Key, ScoreFile
from cgc.report.text import TITLES

_SHOWN = ("top1", "ch", "pg", "spg", "insertion", "deletion", "cosine", "consistency")
# Every score that a report shows, in this order: its key in the summary, its column among the rows, its title.
SCORES = tuple((name, "correct" if name == "top1" else name, TITLES[name]) for name in _SHOWN)
TRIVIAL = (("uniform", "uniform"), ("gaussian", "centre Gaussian"), ("random", "random"))


@dataclass(frozen=True)
class Model:
    """One evaluation: its rows, its summary as ``evaluate --out`` writes it, and what a run's metrics.csv holds.

    ``predictions``: the class that the model says, by row. ``curves``: a column of finite numbers per name, by epoch.
    """

    name: str
    scores: ScoreFile
    summary: Mapping[str, Any]
    predictions: Mapping[Key, str]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Said:
    """What one model says of one row; None where it says nothing. Scores in [0, 1]."""

    prediction: str | None
    correct: bool | None
    confidence: float | None
    ch: float | None
    map_hw: Tensor | None


@dataclass(frozen=True)
class Card:
    """One row of the gallery. ``boxes`` (B, 4) x0 y0 x1 y1 inclusive, or ``mask_HW`` in the image's own pixels."""

    path: str
    class_name: str
    image: Image.Image
    boxes: npt.NDArray[np.int64]
    mask_HW: npt.NDArray[np.bool_] | None
    said: tuple[Said, ...]


def read_summary(path: Path) -> dict[str, Any]:
    """The JSON of an evaluation. What a report shows of it is of the kind that an evaluation writes.

    Raises InputError for a file that cannot be read, or that is another one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not the summary of an evaluation: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise InputError(f"{path} is not the summary of an evaluation (`evaluate --out`): it has no settings")
    odd = next(_odd(content), None)
    if odd is not None:
        raise InputError(f"{path} is not the summary of an evaluation: {odd}")
    return content


def _odd(content: Mapping[str, Any]) -> Iterator[str]:
    """What is not as an evaluation writes it."""
    if not _number_or_none(content.get("top1")):
        yield "top1 is no number"
    for name in ("scores", "intervals", "counted", "skipped"):
        if not isinstance(content.get(name, {}), dict):
            yield f"{name} is no object"
            return
    if not all(
        isinstance(each, dict) and all(map(_number_or_none, each.values()))
        for each in _all("scores", content)
    ):
        yield "a score is no number"
    for ends in _all("intervals", content):
        if ends is not None and not (isinstance(ends, list) and len(ends) == 2 and all(map(_number, ends))):
            yield "an interval is not two numbers"
    if not all(map(_number, _all("counted", content))):
        yield "a count is no number"
    if not all(isinstance(each, list) for each in (*_all("skipped", content), content.get("notes", []))):
        yield "what was skipped, or the notes, are no lists"
    paths = (content["settings"].get(name) for name in ("checkpoint", "maps", "save_maps"))
    if not all(each is None or (isinstance(each, str) and "\0" not in each) for each in paths):
        yield "a path in the settings is none"


def _all(name: str, content: Mapping[str, Any]) -> Collection[Any]:
    values: Mapping[str, Any] = content.get(name, {})
    return values.values()


def _number_or_none(value: object) -> bool:
    return value is None or _number(value)


def _number(value: object) -> bool:
    """Whether it is a number that a float can be; true and false are none."""
    try:
        return type(value) in (int, float) and math.isfinite(float(value))  # type: ignore[arg-type]
    except OverflowError:
        return False


def read_predictions(path: Path) -> dict[Key, str]:
    """The ``prediction`` column of an evaluation's CSV: names, and so no column of :class:`ScoreFile`.

    Raises InputError for a file that cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return {(row["path"], row["class"]): row["prediction"] for row in rows if row.get("prediction")}


def read_curves(path: Path) -> dict[str, list[float]]:
    """Columns of a run's ``metrics.csv`` that hold a finite number in every row; empty without such a file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    curves: dict[str, list[float]] = {}
    for name in rows[0] if rows else ():
        try:
            values = [float(row[name]) for row in rows]
        except (TypeError, ValueError):
            continue
        if np.isfinite(values).all():
            curves[name] = values
    return curves


def said(model: Model, row: int, map_hw: Tensor | None) -> Said:
    """What a model's files say in one of their rows."""

    def cell(*names: str) -> float | None:
        for name in names:
            if name in model.scores.columns:
                value = float(model.scores.columns[name][row])
                return value if np.isfinite(value) else None
        return None

    right = cell("correct", "label_found")
    return Said(
        model.predictions.get(model.scores.keys[row]),
        None if right is None else right > 0.5,
        cell("confidence"),
        cell("ch"),
        map_hw,
    )
