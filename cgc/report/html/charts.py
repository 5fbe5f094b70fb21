"""Charts as inline SVG: a dot per model and class, a line per model and epoch, an interval in a table's cell.

Every model has a colour of Okabe and Ito's palette, told apart under every common colour blindness, and a shape of its
own: the style sheet's classes m0 … m7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from cgc.metrics.bootstrap import Floats
from cgc.report.html.content import Model

_MOST_CLASSES = 40  # of more, those that gained and lost most
_ROW, _LEFT, _WIDTH = 20, 150, 300
_CURVES = (
    ("val_top1", "top-1 on held-out images (%)"),
    ("val_consistency", "consistency loss on held-out images (less is better)"),
    ("val_cosine", "cosine of the views' maps on held-out images"),
    ("train_cross_entropy", "cross-entropy in training"),
    ("train_loss", "whole loss in training"),
)


def marker(m: int, x: float, y: float, size: float = 4.5, title: str = "") -> str:
    """The shape of model m around a point: circle, square, triangle, diamond, and again."""
    s = size
    points = {
        1: ((-s, -s), (s, -s), (s, s), (-s, s)),
        2: ((0, -1.25 * s), (1.2 * s, s), (-1.2 * s, s)),
        3: ((0, -1.35 * s), (1.35 * s, 0), (0, 1.35 * s), (-1.35 * s, 0)),
    }
    inner = f"<title>{escape(title)}</title>" if title else ""
    style = f'class="mark m{m % 8}"'
    if m % 4 == 0:
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{s}">{inner}</circle>'
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points[m % 4])
    return f'<polygon {style} points="{corners}">{inner}</polygon>'


def legend(names: Sequence[str]) -> str:
    items = (
        f'<li><svg width="16" height="14" aria-hidden="true">{marker(m, 8, 7)}</svg> {escape(name)}</li>'
        for m, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def interval_bar(m: int, value: float, low: float, high: float, trivial: Sequence[float]) -> str:
    """A score in [0, 1] with its interval on a line from 0 to 100 %; short ticks where the trivial maps are."""

    def x(share: float) -> float:
        return 4 + 82 * min(max(share, 0.0), 1.0)

    ticks = "".join(f'<path class="tick" d="M{x(v):.1f} 2V14"/>' for v in trivial)
    return (
        f'<svg class="bar" width="90" height="16" aria-hidden="true"><path class="axis" d="M4 8H86"/>{ticks}'
        f'<path class="whisker m{m % 8}" d="M{x(low):.1f} 8H{x(high):.1f}"/>{marker(m, x(value), 8, 3.5)}</svg>'
    )


def class_means(model: Model, column: str) -> dict[str, float]:
    """Mean of a column over the rows of each class that count."""
    if column not in model.scores.columns:
        return {}
    values: Floats = model.scores.columns[column]
    found: dict[str, list[float]] = {}
    for (_, name), value in zip(model.scores.keys, values.tolist(), strict=True):
        if np.isfinite(value):
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(each)) for name, each in found.items()}


def class_chart(models: Sequence[Model], column: str, title: str, titles: Mapping[str, str]) -> str:
    """A line per class with a mark per model, from the largest gain of the last model over the first to the largest
    loss; empty where no model has the column.
    """
    means = [class_means(model, column) for model in models]
    names = [name for name in means[0] if all(name in each for each in means)]
    if not names:
        return ""
    gain = {name: means[-1][name] - means[0][name] if len(means) > 1 else means[0][name] for name in names}
    names.sort(key=lambda name: (-gain[name], name))
    note = ""
    if len(names) > _MOST_CLASSES:
        half = _MOST_CLASSES // 2
        note = f"{half} classes at either end of {len(names)}"
        names = names[:half] + names[-half:]
    height = _ROW * len(names) + 34
    lines = [_axis(height)]
    for i, name in enumerate(names):
        lines.append(_class_line(i, titles.get(name, name), [each[name] for each in means], models))
    label = f"{title} per class: " + "; ".join(
        f"{titles.get(n, n)} " + " ".join(f"{100 * each[n]:.0f}" for each in means)
        for n in names[:_MOST_CLASSES]
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)} (%){", " + note if note else ""}</figcaption>'
        f'<svg viewBox="0 0 {_LEFT + _WIDTH + 14} {height}" role="img" aria-label="{escape(label)}">'
        f"{''.join(lines)}</svg></figure>"
    )


def _axis(height: int) -> str:
    parts = []
    for percent in range(0, 101, 20):
        x = _LEFT + _WIDTH * percent / 100
        parts.append(
            f'<path class="grid" d="M{x:.0f} 4V{height - 24}"/>'
            f'<text x="{x:.0f}" y="{height - 8}" text-anchor="middle">{percent}</text>'
        )
    return "".join(parts)


def _class_line(i: int, name: str, values: Sequence[float], models: Sequence[Model]) -> str:
    y = _ROW * i + 14
    xs = [_LEFT + _WIDTH * min(max(value, 0.0), 1.0) for value in values]
    shown = name if len(name) <= 22 else f"{name[:21]}…"
    marks = "".join(
        marker(m, x, y, title=f"{models[m].name}, {name}: {100 * value:.1f} %")
        for m, (x, value) in enumerate(zip(xs, values, strict=True))
    )
    return (
        f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(shown)}</text>'
        f'<path class="link" d="M{min(xs):.1f} {y}H{max(xs):.1f}"/>{marks}'
    )


def curve_charts(models: Sequence[Model]) -> str:
    """A small chart per figure of metrics.csv that a model has; empty where there is none."""
    return "".join(
        _curve_chart(
            [(m, model) for m, model in enumerate(models) if len(model.curves.get(name, ())) > 1], name, title
        )
        for name, title in _CURVES
    )


def _curve_chart(models: Sequence[tuple[int, Model]], name: str, title: str) -> str:
    if not models:
        return ""
    series = {m: model.curves[name] for m, model in models}
    low, high = min(map(min, series.values())), max(map(max, series.values()))
    span, epochs = (high - low) or 1.0, max(map(len, series.values()))
    left, top, width, height = 44, 8, 300, 150

    def at(epoch: int, value: float) -> tuple[float, float]:
        return left + width * epoch / max(epochs - 1, 1), top + height * (1 - (value - low) / span)

    parts = []
    for share in (0, 0.5, 1):
        y = top + height * (1 - share)
        parts.append(
            f'<path class="grid" d="M{left} {y:.0f}H{left + width}"/>'
            f'<text x="{left - 5}" y="{y + 4:.0f}" text-anchor="end">{low + share * span:.3g}</text>'
        )
    for m, values in series.items():
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(e, v) for e, v in enumerate(values)))
        x, y = at(len(values) - 1, values[-1])
        parts.append(f'<polyline class="curve m{m % 8}" points="{points}"/>{marker(m, x, y)}')
    parts.append(
        f'<text x="{left}" y="{top + height + 16}">epoch 1</text>'
        f'<text x="{left + width}" y="{top + height + 16}" text-anchor="end">{epochs}</text>'
    )
    ends = "; ".join(f"{model.name} from {series[m][0]:.4g} to {series[m][-1]:.4g}" for m, model in models)
    return (
        f'<figure class="chart small"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {left + width + 12} {top + height + 22}" role="img" '
        f'aria-label="{escape(f"{title}: {ends}")}">{"".join(parts)}</svg></figure>'
    )
