"""The report's table: every score of every model, trivial maps beside it, and the difference to the first model."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from cgc.errors import InputError
from cgc.report.comparison import LESS_IS_BETTER, Comparison, Difference, compare
from cgc.report.html.charts import interval_bar
from cgc.report.html.content import SCORES, TRIVIAL, Model

_HEAD = ("score (%)", "model", "", "95 % interval", *(title for _, title in TRIVIAL), "rows")


def differences(models: Sequence[Model], draws: int = 1000) -> list[Comparison | None]:
    """Each model against the first one; None for the first, and where two have no row or score in common."""
    return [None, *(_compared(models[0], model, draws) for model in models[1:])]


def _compared(first: Model, other: Model, draws: int) -> Comparison | None:
    try:
        return compare(first.scores, other.scores, top=0, draws=draws)
    except InputError:
        return None


def summary_table(models: Sequence[Model], compared: Sequence[Comparison | None]) -> str:
    """One body per score, one line per model."""
    several = len(models) > 1
    extra = (f"− {models[0].name}", "95 % interval", "gained", "lost") if several else ()
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in (*_HEAD, *extra))
    bodies = []
    for key, column, title in SCORES:
        lines = [
            _line(key, title, m, model, _difference(compared[m], column) if several else None, several)
            for m, model in enumerate(models)
            if _estimates(model, key) is not None
        ]
        if lines:
            bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Scores"><table><thead><tr>'
        f"{head}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _difference(found: Comparison | None, column: str) -> Difference | None:
    return next((d for d in found.differences if d.column == column), None) if found is not None else None


def _estimates(model: Model, key: str) -> dict[str, Any] | None:
    """``model`` and the trivial maps in [0, 1], ``interval`` and ``rows``; None where there is no such score."""
    summary = model.summary
    values = {"model": summary.get(key)} if key == "top1" else summary.get("scores", {}).get(key)
    if not isinstance(values, dict) or values.get("model") is None:
        return None
    return {
        **values,
        "interval": summary.get("intervals", {}).get(key),
        "rows": summary.get("counted", {}).get(key, ""),
    }


def _line(key: str, title: str, m: int, model: Model, change: Difference | None, several: bool) -> str:
    found = _estimates(model, key)
    assert found is not None
    percent = key != "consistency"
    scale, form = (100, ".2f") if percent else (1, ".3f")
    value, ends = found["model"], found["interval"]
    trivial = [found.get(name) for name, _ in TRIVIAL]
    low, high = ends or (value, value)
    bar = interval_bar(m, value, low, high, [t for t in trivial if t is not None]) if percent else ""
    less = " (less is better)" if key in LESS_IS_BETTER else ""
    cells = [
        f'<th scope="row">{escape(title + less + ("" if percent else ", not in %"))}</th>',
        f'<td><b class="name m{m % 8}">{escape(model.name)}</b></td>',
        f'<td class="value"><span>{scale * value:{form}}</span>{bar}</td>',
        f"<td>{_ends(ends, scale, form)}</td>",
        *(_trivial(each, value, scale, form, key in LESS_IS_BETTER) for each in trivial),
        f"<td>{escape(str(found['rows']))}</td>",
    ]
    if several:
        cells += _change(change, scale, form)
    return f"<tr>{''.join(cells)}</tr>"


def _ends(ends: Sequence[float] | None, scale: int, form: str) -> str:
    return "" if ends is None else f"[{scale * ends[0]:{form}}, {scale * ends[1]:{form}}]"


def _trivial(value: float | None, model: float, scale: int, form: str, less: bool) -> str:
    """A map that knows nothing; told in words where it is at least as good as the model."""
    if value is None:
        return "<td></td>"
    beats = value <= model if less else value >= model
    note = ' <span class="warn" title="a map that knows nothing of the image is as good">≥ model</span>'
    note = note.replace("≥", "≤") if less else note
    return f"<td>{scale * value:{form}}{note if beats else ''}</td>"


def _change(change: Difference | None, scale: int, form: str) -> list[str]:
    if change is None:
        return ["<td></td>"] * 4
    each = change.change
    clear = "" if each.low <= 0 <= each.high else ' class="clear"'
    return [
        f"<td{clear}>{scale * each.estimate:+{form}}</td>",
        f"<td>[{scale * each.low:+{form}}, {scale * each.high:+{form}}]</td>",
        f"<td>{100 * change.gained:.1f} %</td>",
        f"<td>{100 * change.lost:.1f} %</td>",
    ]


def outcome_table(models: Sequence[Model], compared: Sequence[Comparison | None]) -> str:
    """Rows by whether the first model and another are right; empty without top-1."""
    lines = []
    for m, found in enumerate(compared):
        if found is not None and found.outcomes is not None:
            total = sum(found.outcomes.values())
            cells = "".join(f"<td>{n} ({100 * n / total:.1f} %)</td>" for n in found.outcomes.values())
            lines.append(f'<tr><th scope="row">{escape(models[m].name)}</th>{cells}</tr>')
            titles = list(found.outcomes)
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{escape(t)}</th>' for t in (f"against {models[0].name}", *titles))
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="scroll"><table class="plain">{body}</table></div>'


def notes(models: Sequence[Model], compared: Sequence[Comparison | None]) -> list[str]:
    """What a reader must know of the numbers: settings, zero maps, what was left out."""
    lines = []
    for model in models:
        s = model.summary
        settings = s.get("settings", {})
        how = f"{settings.get('explainer', 'gradcam')} ({settings.get('weighting', 'elementwise')})"
        skipped = sum(map(len, s.get("skipped", {}).values()))
        lines.append(
            f"{model.name}: {settings.get('checkpoint') or model.scores.path}; {s.get('layout', '?')}, "
            f"{s.get('images')} images, {s.get('rows')} rows, shorter side {settings.get('input_resize', '?')} px, "
            f"{how} of the label; zero maps {s.get('zero_maps', 0)}, skipped {skipped}"
        )
        lines += [f"{model.name}: {note}" for note in s.get("notes", ())]
    for m, found in enumerate(compared):
        if found is not None:
            lines += [
                f"{models[m].name} against {models[0].name} (B against A): {note}" for note in found.notes
            ]
    if len(models) > 1:
        lines.append("differences are paired, row by row; intervals: percentile bootstrap over images, 95 %")
        lines += [
            f"{models[m].name} has no row or score in common with {models[0].name}"
            for m, found in enumerate(compared)
            if m and found is None
        ]
    return lines
