"""The report's page as text: complete, escaped, self-contained, and of the numbers it was given."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from cgc.report.html.charts import class_chart, class_means
from cgc.report.html.content import Said, read_curves, read_predictions
from cgc.report.html.gallery import _map_png, _outline_png, spoken
from cgc.report.html.page import script_json
from cgc.report.html.tables import differences, summary_table
from tests.report.report_pages import MAP, NASTY, ROWS, scored_model, write_report

_VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Elements with their attributes, texts of the elements, and whether every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def of(self, tag: str, name: str = "") -> list[dict[str, str | None]]:
        return [
            a for t, a in self.elements if t == tag and (not name or name in (a.get("class") or "").split())
        ]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("page")).read_text(encoding="utf-8")


def test_every_element_is_closed_and_there_is_a_card_per_row(text):
    page = Page(text)
    assert len(page.of("article", "card")) == len(ROWS)
    assert len(page.of("figure", "model")) == 2 * len(ROWS)
    assert len(page.of("img", "map")) == 2 * len(ROWS) - 1  # one model has no map of one row
    assert len(page.of("tbody")) == 3  # top-1, CH, outcomes
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_the_page_asks_for_nothing(text):
    """No address outside: every source is embedded, and the policy forbids the rest."""
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "action", "srcset", "data"):
            if name in attributes:
                assert re.match(r"data:image/|#", attributes[name] or ""), attributes
    assert not re.search(r"url\((?!data:|#)", text)
    assert "http://" not in text
    assert "https://" not in text
    policy = next(a for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_names_with_markup_stay_text(text):
    page = Page(text)
    assert len(page.of("script")) == 2  # the data and the page's own
    assert not page.of("b", "x")
    assert "<script>alert" not in text
    assert "<i>" not in text
    data = json.loads(page.texts["script"][0])
    assert data["cards"][3]["c"] == NASTY
    assert data["models"] == ["plain <i>", "CGC"]
    assert page.texts["title"][0] == page.texts["h1"][0] == "Two & <models>"
    assert any(NASTY in each for each in page.texts["h3"])
    assert script_json("<!-- </script>").count("<") == 0


def test_pictures_tell_what_they_show(text):
    page = Page(text)
    alts = [image["alt"] or "" for image in page.of("img", "map")]
    assert alts[0] == ("Heatmap of plain <i> for ant, a small one: says wasp (wrong), 30 % sure; CH 20.0 %")
    assert (
        alts[1] == "Heatmap of CGC for ant, a small one: says ant, a small one (right), 90 % sure; CH 80.0 %"
    )
    frames = [a for a in page.of("div", "frame") if a.get("role") == "img"]
    assert frames[0]["aria-label"] == "Photograph of ant, a small one, with 1 box"
    assert "outline of its mask" in (frames[2]["aria-label"] or "")
    for svg in page.of("svg"):
        assert "aria-hidden" in svg or svg.get("aria-label")


def test_a_map_is_stored_at_its_own_grid():
    stored = np.asarray(Image.open(io.BytesIO(_map_png(MAP))))
    assert stored.tolist() == [[0, 64, 128, 255][:2], [128, 255]]
    assert not np.asarray(Image.open(io.BytesIO(_map_png(torch.zeros(3, 2))))).any()
    large = Image.open(io.BytesIO(_map_png(torch.rand(200, 100))))
    assert large.size == (32, 64)


def test_the_outline_surrounds_the_mask():
    mask = np.zeros((50, 60), dtype=bool)
    mask[10:40, 20:50] = True
    rgba = np.asarray(Image.open(io.BytesIO(_outline_png(mask))).convert("RGBA"))
    drawn = rgba[..., 3] > 0
    assert drawn[10, 20:50].all()
    assert drawn[10:40, 49].all()
    assert not drawn[15:35, 25:45].any()
    assert not drawn[~mask].any()


def test_the_table_holds_scores_trivial_maps_and_paired_differences(tmp_path):
    models = [scored_model(tmp_path, name, i) for i, name in enumerate(("A", "B"))]
    compared = differences(models, draws=50)
    assert compared[0] is None
    ch = next(d for d in compared[1].differences if d.column == "ch")
    table = summary_table(models, compared)
    rows = re.findall(r"<tr>(.*?)</tr>", table)[1:]
    cells = [re.sub(r"<[^>]+>", " ", row).split() for row in rows]
    assert [row[0] for row in cells] == ["top-1", "top-1", "Content", "Content"]
    assert "60.00" in cells[3]
    assert "40.00" in cells[3]
    assert f"{100 * ch.change.estimate:+.2f}" in cells[3]
    assert f"{100 * ch.change.estimate:+.2f}" not in cells[2]
    # The centre Gaussian's 55 beats A's 50 and not B's 60.
    assert ["≥ model" in row for row in rows] == [False, False, True, False]


def test_class_means_leave_out_rows_without_a_score(tmp_path):
    model = scored_model(tmp_path, "A", 0)
    means = class_means(model, "ch")
    assert means == {"ant": pytest.approx(0.35), "bee": pytest.approx(1.7 / 3)}
    assert NASTY in class_means(model, "correct")
    chart = class_chart([model, scored_model(tmp_path, "B", 1)], "correct", "top-1", {})
    assert chart.count('class="link"') == 3
    assert "<script>" not in chart
    assert chart.index(">ant<") < chart.index(">bee<")  # gained a half; nothing
    assert class_chart([model], "insertion", "insertion", {}) == ""


def test_what_a_model_says_in_words():
    assert spoken(Said(None, None, 0.5, None, None), {}) == "confidence 50 %; CH not scored"
    assert (
        spoken(Said("a", True, 0.985, 1.0, None), {"a": "ant"}) == "says ant (right), 98 % sure; CH 100.0 %"
    )


def test_curves_are_the_columns_of_numbers(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,odd,gone\n1,2.5,x,\n2,1.5,1,nan\n")
    assert read_curves(path) == {"epoch": [1.0, 2.0], "loss": [2.5, 1.5]}
    assert read_curves(tmp_path / "none.csv") == {}


def test_predictions_by_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("path,class,prediction\na.png,007,12\nb.png,007,\n")
    assert read_predictions(path) == {("a.png", "007"): "12"}


def test_one_model_alone(tmp_path):
    page = Page(write_report(tmp_path, count=1).read_text(encoding="utf-8"))
    assert len(page.of("figure", "model")) == len(ROWS)
    assert "gained" not in page.texts["th"]


def test_the_photograph_is_stored_once(text):
    photos = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)
    assert len(photos) == len(set(photos)) == len(ROWS)
    assert Image.open(io.BytesIO(base64.b64decode(photos[0]))).size == (40, 40)
