"""Names and score files made to do harm in a report: they stay text, whatever they hold."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cgc.report.comparison import as_json, compare
from cgc.report.html.content import Model, read_predictions, read_summary
from cgc.report.html.page import write_page
from cgc.report.score_files import read_scores
from tests.reliability.fuzz_watch import refusal
from tests.report.report_pages import NASTY, cards
from tests.report.test_browser import pytestmark as needs_chromium
from tests.report.test_browser import tried

SCRIPT = "<script>ran()</script>"
IMAGE = '"><img src=x onerror=ran()>'
NAMES = [
    SCRIPT, IMAGE, "'><svg onload=ran()>", "</title>" + SCRIPT, "</style>" + SCRIPT, "--></script>" + SCRIPT, "<!--",
    '" onmouseover="ran()" autofocus onfocus="ran()', "javascript:ran()", "</option></select>" + SCRIPT,
    "&lt;script&gt;",
    NASTY,
]  # fmt: skip


class Elements(HTMLParser):
    """Every element, and the names of its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def summary(**changes: object) -> dict[str, object]:
    score = {"model": 0.5, "uniform": 0.4, "gaussian": None, "random": 0.3}
    return {
        "settings": {"checkpoint": IMAGE, "input_resize": SCRIPT, "explainer": SCRIPT, "weighting": IMAGE},
        "layout": SCRIPT, "images": IMAGE, "rows": SCRIPT, "zero_maps": SCRIPT, "notes": NAMES,
        "skipped": {SCRIPT: [IMAGE]},
        "top1": 0.5, "scores": {"ch": score, SCRIPT: score}, "counted": {"ch": 2}, "intervals": {"ch": [0.1, 0.6]},
    } | changes  # fmt: skip


def hostile_report(folder: Path, words: list[str]) -> Path:
    """A page whose every name is hostile: of classes, images, models, predictions, titles, and in the summary."""
    rows = ["path,class,prediction,correct,confidence,ch"]
    for number, word in enumerate(words):
        cell = '"' + word.replace('"', '""') + '"'
        rows.append(f"{cell},{cell},{cell},{number % 2},0.5,0.{number % 10}")
    (folder / "a.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(summary()))
    scores = read_scores(folder / "a.csv")
    found = read_summary(folder / "a.json")
    said = read_predictions(folder / "a.csv")
    models = [Model(word, scores, found, said, {"val_top1": [1.0, 2.0]}) for word in words[:2]]
    shown = [
        replace(
            card, path=word, class_name=word, said=tuple(replace(each, prediction=word) for each in card.said)
        )
        for card, word in zip(cards(models) * 2, words, strict=False)
    ]
    titles = dict(zip(words[6:], words, strict=False))
    assert write_page(folder / "page.html", models, shown, title=words[0], titles=titles, draws=5) == len(
        words
    )
    return folder / "page.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_report(tmp_path_factory.mktemp("report"), NAMES)


def test_no_name_becomes_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Elements(text)
    plain = Elements(
        hostile_report(page.parent, [f"name {number}" for number in range(len(NAMES))]).read_text()
    )
    assert found.tags.count("script") == 2
    assert sorted(found.tags) == sorted(plain.tags)
    assert found.attributes == plain.attributes
    assert not [name for name in found.attributes if name.startswith("on")]
    for start in ("<script>ran", "<img src=x", "<svg onload", "<!--"):
        assert start not in text


@needs_chromium
def test_no_name_runs_in_a_browser(page: Path, tmp_path: Path) -> None:
    hostile_report(page.parent, NAMES)
    watch = """<script>var ran = () => { window.problems.push("ran") };</script>"""
    copy = tmp_path / "page.html"
    copy.write_text(
        page.read_text(encoding="utf-8").replace("<title>", watch + "<title>", 1), encoding="utf-8"
    )
    found = tried(
        tmp_path,
        copy,
        """const found = { cards: visible().length, classes: $("class").options.length };
        for (const option of $("class").options) { choose("class", option.value); }
        choose("class", ""); choose("from", "1"); choose("to", "0"); press("m"); press("z"); press("?");
        found.scripts = document.scripts.length;
        found.images = document.querySelectorAll("img:not([src^=data])").length;
        found.handlers = document.querySelectorAll("[onerror], [onload], [onfocus], [onmouseover]").length;
        tell(found);""",
    )
    assert found["cards"] == len(NAMES)
    assert found["classes"] == len(NAMES) + 1
    assert (found["images"], found["handlers"]) == (0, 0)
    assert found["scripts"] == 2 + 4  # the page's, and those of this test


ODD_SUMMARIES: dict[str, dict[str, object]] = {
    "top1 is no number": {"top1": SCRIPT},
    "scores is no object": {"scores": [1]},
    "a score is no number": {"scores": {"ch": {"model": SCRIPT}}},
    "a score is no number ": {"scores": {"ch": 7}},
    "an interval is not two numbers": {"intervals": {"ch": [1]}},
    "an interval is not two numbers ": {"intervals": {"ch": [10**400, 1]}},
    "a count is no number": {"counted": {"ch": SCRIPT}},
    "no lists": {"skipped": {"x": 7}},
    "no lists ": {"notes": 7},
    "a path in the settings": {"settings": {"checkpoint": 7}},
    "a path in the settings ": {"settings": {"maps": "a\0b"}},
}


@pytest.mark.parametrize("said", ODD_SUMMARIES)
def test_a_summary_is_as_an_evaluation_writes_it(tmp_path: Path, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(summary(**ODD_SUMMARIES[said])))
    assert said.strip() in refusal(tmp_path, lambda: read_summary(path))
    path.write_text(json.dumps(summary()))
    assert read_summary(path) == summary()


def test_scores_beyond_all_measure_are_no_numbers(tmp_path: Path) -> None:
    """Their means would not be finite, and no JSON."""
    path = tmp_path / "a.csv"
    path.write_text("path,class,ch,other\na,b,1e308,1e308\nc,b,1e308,0\n")
    assert "line 2: ch is '1e308', not a number" in refusal(tmp_path, lambda: read_scores(path))
    path.write_text("path,class,ch,other\na,b,-1e99,1e308\nc,b,1e99,0\nd,b,1e99,0\n")
    scores = read_scores(path)
    assert list(scores.columns) == ["ch"]
    json.dumps(as_json(compare(scores, scores, draws=20)), allow_nan=False)


def test_a_count_in_the_table_stays_text(tmp_path: Path) -> None:
    """Also where a summary was not read from a file."""
    (tmp_path / "a.csv").write_text("path,class,ch\na,b,0.5\n")
    found = summary(counted={"ch": SCRIPT})
    write_page(
        tmp_path / "a.html", [Model("a", read_scores(tmp_path / "a.csv"), found, {})], [], title="x", draws=0
    )
    assert SCRIPT not in (tmp_path / "a.html").read_text()
