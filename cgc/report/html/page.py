"""The page: tables, charts and gallery put together, written as it goes, so that memory holds one image at a time.

Its content security policy forbids every request; what the script needs stands in one JSON element.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from cgc.report.html.charts import class_chart, curve_charts, legend
from cgc.report.html.content import Card, Model
from cgc.report.html.gallery import card_html, heat_filter
from cgc.report.html.tables import differences, notes, outcome_table, summary_table
from cgc.report.text import TITLES

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
OUTCOMES = ("fixed", "broken", "both right", "both wrong")
_KEYS = (
    ("j or →, k or ←", "next, previous image"),
    ("m", "one model after the other; Shift+m: backwards"),
    ("s", "models side by side, or one"),
    ("b", "boxes on or off"),
    ("+ and −", "opacity of the heatmaps"),
    ("0", "photographs alone, and back"),
    ("z or Enter", "this image large, or small again"),
    ("c", "to the choice of the class"),
    ("?", "this list"),
)


def write_page(
    path: Path,
    models: Sequence[Model],
    cards: Iterable[Card],
    *,
    title: str,
    titles: Mapping[str, str] | None = None,
    draws: int = 1000,
) -> int:
    """Write the report; the number of cards in it. ``titles``: what to call classes, where that is not their name.

    Raises OSError if the file cannot be written.
    """
    named = dict(titles or {})
    names = [model.name for model in models]
    facts: list[dict[str, Any]] = []
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(_head(title, models, named, draws))
        for number, card in enumerate(cards):
            file.write(card_html(card, number, names, named))
            facts.append(_facts(card))
        data = {"models": names, "titles": named, "cards": facts, "outcomes": OUTCOMES}
        file.write(f'</div>\n<script type="application/json" id="data">{script_json(data)}</script>\n')
        file.write(f"<script>{_asset('report.js')}</script>\n</body>\n</html>\n")
    return len(facts)


def script_json(content: object) -> str:
    """JSON that cannot end the element that it stands in, nor open a comment there.

    >>> script_json("</script>")
    '"\\\\u003c/script>"'
    """
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _facts(card: Card) -> dict[str, Any]:
    """What filters and sorting need; a list has an entry per model."""
    return {
        "c": card.class_name,
        "o": [each.correct for each in card.said],
        "f": [each.confidence for each in card.said],
        "h": [each.ch for each in card.said],
    }


def _asset(name: str) -> str:
    return (resources.files("cgc.report.html") / name).read_text(encoding="utf-8")


def _head(title: str, models: Sequence[Model], titles: Mapping[str, str], draws: int) -> str:
    """Everything before the cards."""
    compared = differences(models, draws)
    names = [model.name for model in models]
    marks = legend(names) if len(models) > 1 else ""
    charts = class_chart(models, "ch", TITLES["ch"], titles) + class_chart(
        models, "correct", TITLES["top1"], titles
    )
    curves = curve_charts(models)
    outcomes = outcome_table(models, compared)
    sections = [
        _section(
            "scores", "Scores", summary_table(models, compared) + outcomes + _list(notes(models, compared))
        ),
        _section("classes", "Classes", marks + f'<div class="charts">{charts}</div>') if charts else "",
        _section("training", "Training", marks + f'<div class="charts">{curves}</div>') if curves else "",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_asset('report.css')}</style>\n</head>\n<body>\n"
        f"{heat_filter()}<header><h1>{escape(title)}</h1></header>\n"
        f'<a class="skip" href="#cards">to the images</a>\n{"".join(sections)}'
        f'<section id="gallery"><h2>Images</h2>{_scale()}{_toolbar(names)}{_keys()}</section>\n'
        '<div id="cards" class="cards">\n'
    )


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{content}</section>\n'


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<details class="notes"><summary>How this was measured</summary><ul>{items}</ul></details>'


def _scale() -> str:
    return (
        '<p class="scale"><span>no weight</span><svg width="160" height="12" role="img" '
        'aria-label="Colours from dark to bright: from no weight to the largest of the map"><defs>'
        '<linearGradient id="grey"><stop stop-color="#000"/><stop offset="1" stop-color="#fff"/></linearGradient>'
        '</defs><rect width="160" height="12" fill="url(#grey)" style="filter:url(#heat)"/></svg>'
        "<span>largest weight of the map</span></p>"
    )


def _toolbar(names: Sequence[str]) -> str:
    """Controls, shown by the script that serves them."""
    options = "".join(f'<option value="{m}">{escape(name)}</option>' for m, name in enumerate(names))
    pair = (
        f'<label>from <select id="from">{options}</select></label><label>to <select id="to">{options}</select></label>'
        if len(names) > 1
        else '<select id="from" hidden><option value="0"></option></select>'
        '<select id="to" hidden><option value="0"></option></select>'
    )
    shown = (
        f'<label>show <select id="shown"><option value="all">all models side by side</option>{options}</select></label>'
        '<button type="button" id="next" title="next model (m)">next model</button>'
        if len(names) > 1
        else '<select id="shown" hidden><option value="all"></option></select>'
    )
    return (
        '<form id="toolbar" class="toolbar" hidden aria-label="Filter and order of the images">'
        f'{shown}<label>opacity <input id="opacity" type="range" min="0" max="1" step="0.05" value="0.75"></label>'
        '<label><input id="boxes" type="checkbox" checked> boxes</label>'
        f'{pair}<label>class <select id="class"><option value="">all</option></select></label>'
        '<label>outcome <select id="outcome"></select></label><label>order <select id="order"></select></label>'
        '<output id="count" aria-live="polite"></output></form>'
    )


def _keys() -> str:
    items = "".join(f"<dt>{escape(keys)}</dt><dd>{escape(what)}</dd>" for keys, what in _KEYS)
    return (
        f'<details id="keys" class="keys" hidden><summary>Keyboard (?)</summary><dl>{items}</dl></details>'
        "<noscript><p>Without scripts the images stand in the order of the data, with all heatmaps.</p></noscript>"
    )
