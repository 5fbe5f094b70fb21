"""Two evaluations of the same images against each other, row by row.

Shapes: n rows that both files have; a column of a row counts where both files have a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cgc.errors import InputError
from cgc.metrics.bootstrap import Interval, interval, paired_interval
from cgc.report.score_files import Floats, Key, ScoreFile, row_name
from cgc.report.text import aligned

LESS_IS_BETTER = ("deletion", "consistency")
_FIRST = ("correct", "confidence", "ch", "pg", "spg", "insertion", "deletion")  # the order of the table
_OVER_CLASSES = ("pg",)  # the mean over classes of their means, as the pointing game is defined
_NOT_SCORES = ("zero_map", "all_difficult", "tolerance", "height", "width")
_TRIVIAL = ("uniform_", "gaussian_", "random_")
# Functions of images, regions and settings alone: where they differ, the files do not compare.
_SETTINGS = ("height", "width", "tolerance", "uniform_ch", "gaussian_ch")
_PERCENT = (*_FIRST, "top5", "cosine")  # scores in [0, 1]; others are shown as they are
_EQUAL = 1e-6  # differences of rounding: neither a gain nor a loss
_NAMED = 10


@dataclass(frozen=True)
class Difference:
    """One score: its means over the rows that count in both files, B − A, and the shares of rows that change."""

    column: str
    rows: int
    a: float
    b: float
    change: Interval
    gained: float
    lost: float


@dataclass(frozen=True)
class Change:
    """One row and its score in both files."""

    key: Key
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """Everything that is said of two files. ``outcomes``: rows by whether A and B are right, None without top-1."""

    a: ScoreFile
    b: ScoreFile
    rows: int
    draws: int
    differences: tuple[Difference, ...]
    outcomes: Mapping[str, int] | None
    gains: tuple[Change, ...]
    losses: tuple[Change, ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    notes: tuple[str, ...]


def compare(a: ScoreFile, b: ScoreFile, *, top: int = 5, draws: int = 1000) -> Comparison:
    """Match rows by path and class and compare every score that both files have.

    Intervals are percentile bootstraps over images of the paired difference; ``draws`` 0 leaves them out.

    Raises InputError if the files have no row or no score in common.
    """
    place = {key: i for i, key in enumerate(b.keys)}
    pairs = [(i, place[key]) for i, key in enumerate(a.keys) if key in place]
    if not pairs:
        raise InputError(f"{a.path} and {b.path} have no row (path and class) in common")
    rows_a, rows_b = (np.array(rows) for rows in zip(*pairs, strict=True))
    keys = [a.keys[i] for i in rows_a]
    shared = [name for name in a.columns if name in b.columns]
    scores = [n for n in shared if n not in _NOT_SCORES and not n.startswith(_TRIVIAL)]
    values = {name: (a.columns[name][rows_a], b.columns[name][rows_b]) for name in shared}
    numbers = _numbers([path for path, _ in keys]), _numbers([name for _, name in keys])
    found = (
        _difference(name, *values[name], *numbers, draws)
        for name in (*(n for n in _FIRST if n in scores), *(n for n in scores if n not in _FIRST))
    )
    differences = tuple(each for each in found if each is not None)
    if not differences:
        raise InputError(f"{a.path} and {b.path} have no score in common")
    changes = _changes(keys, *values["ch"]) if "ch" in values else []
    return Comparison(
        a,
        b,
        rows=len(keys),
        draws=draws,
        differences=differences,
        outcomes=_outcomes(*values["correct"]) if "correct" in values else None,
        gains=tuple(each for each in changes[:top] if each.b - each.a > _EQUAL),
        losses=tuple(each for each in changes[::-1][:top] if each.b - each.a < -_EQUAL),
        only_a=tuple(key for key in a.keys if key not in place),
        only_b=tuple(sorted(set(b.keys) - set(a.keys), key=place.__getitem__)),
        notes=tuple(_notes(values)),
    )


def _numbers(names: Sequence[str]) -> npt.NDArray[np.int64]:
    place: dict[str, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in names])


def _difference(
    column: str,
    a_n: Floats,
    b_n: Floats,
    images_n: npt.NDArray[np.int64],
    classes_n: npt.NDArray[np.int64],
    draws: int,
) -> Difference | None:
    counts = np.isfinite(a_n) & np.isfinite(b_n)
    if not counts.any():
        return None
    a_n, b_n, images_n = a_n[counts], b_n[counts], images_n[counts]
    classes = classes_n[counts] if column in _OVER_CLASSES else None
    a, b = (interval(each, classes_n=classes, draws=0).estimate for each in (a_n, b_n))
    change = paired_interval(a_n, b_n, groups_n=images_n, classes_n=classes, draws=draws)
    better_n = (a_n - b_n) if column in LESS_IS_BETTER else (b_n - a_n)
    gained, lost = float((better_n > _EQUAL).mean()), float((better_n < -_EQUAL).mean())
    return Difference(column, int(counts.sum()), a, b, change, gained, lost)


def _outcomes(a_n: Floats, b_n: Floats) -> Mapping[str, int] | None:
    counts = np.isfinite(a_n) & np.isfinite(b_n)
    if not counts.any():
        return None
    a, b = a_n[counts] > 0.5, b_n[counts] > 0.5
    cases = {"both right": a & b, "fixed": ~a & b, "broken": a & ~b, "both wrong": ~a & ~b}
    return {name: int(rows.sum()) for name, rows in cases.items()}


def _changes(keys: Sequence[Key], a_n: Floats, b_n: Floats) -> list[Change]:
    """The rows that count in both files, from the largest gain to the largest loss."""
    change_n = b_n - a_n
    order = np.argsort(-change_n, kind="stable")
    return [Change(keys[i], float(a_n[i]), float(b_n[i])) for i in order if np.isfinite(change_n[i])]


def _notes(values: Mapping[str, tuple[Floats, Floats]]) -> list[str]:
    lines = []
    for name in (name for name in _SETTINGS if name in values):
        a_n, b_n = values[name]
        differing = int((np.abs(a_n - b_n) > _EQUAL * np.maximum(1, np.abs(a_n))).sum())
        if differing:
            lines.append(
                f"{name} differs in {differing} of {len(a_n)} rows: other images, regions or settings, so that "
                "scores of the heatmaps do not compare"
            )
    zero = [int(np.nansum(column)) for column in values.get("zero_map", ())]
    if any(zero):
        lines.append(f"zero maps: {zero[0]} in A, {zero[1]} in B")
    return lines


def text(found: Comparison) -> str:
    """The comparison for a reader: differences, outcomes, extremes, rows left out."""
    parts = [f"A  {found.a.path}\nB  {found.b.path}\n{_rows(found.rows)} in both", _table(found)]
    less = [each.column for each in found.differences if each.column in LESS_IS_BETTER]
    parts.append(
        f"gained, lost: rows where B is better, worse{' (less is better: ' + ', '.join(less) + ')' if less else ''}"
    )
    if found.outcomes is not None:
        total = sum(found.outcomes.values())
        rows = [(name, str(n), f"{100 * n / total:.2f} %") for name, n in found.outcomes.items()]
        parts.append(aligned([("top-1", "rows", "share"), *rows]))
    for title, changes in (("largest gains in CH", found.gains), ("largest losses in CH", found.losses)):
        if changes:
            shown = [
                (row_name(c.key), f"{100 * c.a:.2f}", f"{100 * c.b:.2f}", f"{100 * (c.b - c.a):+.2f}")
                for c in changes
            ]
            parts.append(aligned([(title, "A", "B", "B − A"), *shown]))
    notes = list(found.notes)
    for name, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            notes.append(f"only in {name}: {_rows(len(keys))}")
            notes += [f"  {row_name(key)}" for key in keys[:_NAMED]]
            notes += [f"  and {len(keys) - _NAMED} more"] if len(keys) > _NAMED else []
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _table(found: Comparison) -> str:
    interval_title = ("95 % interval",) if found.draws else ()
    rows = [("score (%)", "A", "B", "B − A", *interval_title, "gained", "lost", "rows")]
    for each in found.differences:
        percent = each.column in _PERCENT
        scale, form = (100, ".2f") if percent else (1, ".4g")
        change = each.change
        ends = f"[{scale * change.low:+{form}}, {scale * change.high:+{form}}]"
        rows.append(
            (
                "top-1" if each.column == "correct" else each.column + ("" if percent else " (not in %)"),
                *(f"{scale * value:{form}}" for value in (each.a, each.b)),
                f"{scale * change.estimate:+{form}}",
                *((ends,) if found.draws else ()),
                *(f"{100 * share:.1f} %" for share in (each.gained, each.lost)),
                str(each.rows),
            )
        )
    return aligned(rows)


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything the text shows, unrounded; scores in the files' units, ``high`` and ``low`` of B − A."""
    return {
        "a": str(found.a.path),
        "b": str(found.b.path),
        "rows": found.rows,
        "scores": {
            each.column: {
                "a": each.a,
                "b": each.b,
                "difference": each.change.estimate,
                "low": each.change.low,
                "high": each.change.high,
                "gained": each.gained,
                "lost": each.lost,
                "rows": each.rows,
            }
            for each in found.differences
        },
        "outcomes": found.outcomes,
        "largest_gains": [_change(c) for c in found.gains],
        "largest_losses": [_change(c) for c in found.losses],
        "only_in_a": [list(key) for key in found.only_a],
        "only_in_b": [list(key) for key in found.only_b],
        "notes": list(found.notes),
    }


def _change(change: Change) -> dict[str, Any]:
    return {"path": change.key[0], "class": change.key[1], "a": change.a, "b": change.b}
