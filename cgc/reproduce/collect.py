"""What the runs of a table found, beside what was published."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cgc.engine.records import versions, write_json
from cgc.report.text import aligned
from cgc.reproduce.model import Row
from cgc.reproduce.plan import Plan, is_pretrained, read_json
from cgc.reproduce.scale import FULL, TINY

NOT_COMPARABLE = (
    "tiny scale: small network, small images, few epochs, other data; these numbers are NOT comparable with the "
    "published ones"
)


@dataclass(frozen=True)
class Measured:
    """One score in per cent; the interval is the evaluator's, over images."""

    seed: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Entry:
    """A score of a row over its seeds, beside the published one. ``difference``: None where they are not comparable."""

    row: str
    title: str
    score: str
    measured: Sequence[Measured]
    published: float | None
    source: str
    difference: float | None

    @property
    def mean(self) -> float | None:
        return statistics.fmean(each.value for each in self.measured) if self.measured else None


def collect(plan: Plan) -> list[Entry]:
    """Every score of the plan's rows; ``measured`` is empty where a job has not run yet.

    Beside them those of other rows that an earlier run of the same scale and extra words wrote into ``table.json``; all
    in the table's order.
    """
    before = _written(plan)
    here = {row.name for row in plan.rows}
    found: list[Entry] = []
    for row in plan.table.rows:
        found += _entries(plan, row) if row.name in here else before.get(row.name, [])
    return found


def _written(plan: Plan) -> dict[str, list[Entry]]:
    """By row; empty where there is no table, or one of other settings or of an older form."""
    content = read_json(plan.work / "table.json") or {}
    if (content.get("scale"), content.get("extra")) != (plan.settings.scale, list(plan.settings.extra)):
        return {}
    found: dict[str, list[Entry]] = {}
    try:
        for each in content["entries"]:
            measured = [Measured(**one) for one in each["measured"]]
            fields = {name: value for name, value in each.items() if name not in ("measured", "mean")}
            found.setdefault(each["row"], []).append(Entry(measured=measured, **fields))
    except (KeyError, TypeError):
        return {}
    return found


def _entries(plan: Plan, row: Row) -> list[Entry]:
    found: dict[str, list[Measured]] = {}
    for seed in plan.seeds:
        for score, each in _scores(plan, row, seed).items():
            found.setdefault(score, []).extend([] if each is None else [each])
    entries = []
    for score, measured in found.items():
        published = row.published.get(score)
        difference = None
        if published is not None and measured and plan.settings.scale == FULL:
            difference = statistics.fmean(each.value for each in measured) - published
        source = row.source if published is not None else ""
        entries.append(Entry(row.name, row.title, score, measured, published, source, difference))
    return entries


def _scores(plan: Plan, row: Row, seed: int) -> dict[str, Measured | None]:
    """By title; those of the evaluations go before a figure of the training's validation of the same title."""
    found: dict[str, Measured | None] = {}
    if not is_pretrained(row, plan.settings.scale):
        job = plan.training(row.training, seed)
        content = read_json(job.product) if job.is_done() else None
        for title, name in row.training.scores.items():
            value = (content or {}).get(name)
            found[title] = Measured(seed, float(value)) if isinstance(value, (int, float)) else None
    for evaluation in plan.runnable(row):
        evaluated = plan.evaluation(row, evaluation, seed)
        content = read_json(evaluated.product) if evaluated.is_done() else None
        for title, metric in evaluation.scores.items():
            found[title] = None if content is None else _metric(content, metric, seed)
    return found


def _metric(content: Mapping[str, Any], metric: str, seed: int) -> Measured | None:
    """A metric of the evaluator's summary, in per cent."""
    if metric in ("top1", "top5"):
        value = content.get(metric)
    else:
        value = content.get("scores", {}).get(metric, {}).get("model")
    low, high = content.get("intervals", {}).get(metric) or (None, None)
    if value is None:
        return None
    return Measured(seed, *(None if each is None else 100 * each for each in (value, low, high)))  # type: ignore[arg-type]


def write(plan: Plan, folder: Path) -> list[Entry]:
    """``table.json`` and ``table.md`` in the folder, each replaced as a whole; returns what they hold."""
    entries = collect(plan)
    content = {
        "table": plan.table.name,
        "title": plan.table.title,
        "scale": plan.settings.scale,
        "comparable": plan.settings.scale == FULL,
        "entries": [{**asdict(entry), "mean": entry.mean} for entry in entries],
        "commands": {job.title: list(job.words) for job in plan.jobs},
        "extra": list(plan.settings.extra),
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", content)
    partial = folder / ".table.md.partial"
    partial.write_text(markdown(plan, entries) + "\n", encoding="utf-8")
    partial.replace(folder / "table.md")
    return entries


def _cells(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    several = any(len(entry.measured) > 1 for entry in entries)
    spread = "± over seeds" if several else "95 % interval"
    rows: list[tuple[str, ...]] = [
        ("row", "score (%)", "measured", spread, "published", "difference", "source")
    ]
    for entry in entries:
        mean, published = entry.mean, entry.published
        rows.append(
            (
                entry.title,
                entry.score,
                "–" if mean is None else f"{mean:.2f}",
                _spread(entry.measured),
                "unpublished" if published is None else f"{published:.2f}",
                "" if entry.difference is None else f"{entry.difference:+.2f}",
                entry.source,
            )
        )
    return rows


def _spread(measured: Sequence[Measured]) -> str:
    if len(measured) > 1:
        return f"{statistics.stdev(each.value for each in measured):.2f} ({len(measured)})"
    if not measured or measured[0].low is None or measured[0].high is None:
        return ""
    low, high = measured[0].low, measured[0].high
    return f"[{low:.2f}, {high:.2f}]" if math.isfinite(low) and math.isfinite(high) else ""


def remarks(plan: Plan) -> list[str]:
    """What a reader of the numbers must know."""
    scale = [NOT_COMPARABLE] if plan.settings.scale == TINY else []
    left_out = [
        f"{evaluation.name}: not scored, the package {evaluation.needs} is not installed"
        for evaluation in {e.name: e for row in plan.rows for e in row.evaluations}.values()
        if all(evaluation not in plan.runnable(row) for row in plan.rows)
    ]
    extra = [f"every training with {' '.join(plan.settings.extra)} (ours)"] if plan.settings.extra else []
    return [*scale, *plan.table.remarks, *left_out, *extra]


def markdown(plan: Plan, entries: Sequence[Entry]) -> str:
    """The table for a document."""
    head, *rows = _cells(entries)
    lines = [
        f"# {plan.table.name}: {plan.table.title}",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"* {each}" for each in remarks(plan))])


def terminal(plan: Plan, entries: Sequence[Entry]) -> str:
    """The table for a terminal, without the sources."""
    rows = [row[:-1] for row in _cells(entries)]
    return "\n".join([aligned(rows), "", *(f"note: {each}" for each in remarks(plan))])
