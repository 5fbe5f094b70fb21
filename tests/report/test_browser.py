"""The report in a real browser: Chromium, headless, with a script of the test's own added to the page.

Skipped where there is no Chromium. What the page does is written into the document, which ``--dump-dom`` prints.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgc.report.overlays import heatmap_overlay
from tests.data.images import photograph
from tests.report.report_pages import BOTH_RIGHT, BOTH_WRONG, BROKEN, BY_GAIN, FIXED, MAP, ROWS, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: the report's page is not tried in a browser"
)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
# Before everything else: errors and refused requests are collected.
_WATCH = """<script>window.problems = [];
addEventListener("error", (e) => problems.push(String(e.message || e.target.outerHTML)), true);
addEventListener("unhandledrejection", (e) => problems.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => problems.push(e.blockedURI));
const told = console.error; console.error = (...all) => { problems.push(all.join(" ")); told(...all); };
</script>"""
_HELP = """<script>
const $ = (id) => document.getElementById(id);
const choose = (id, value) => {
  $(id).value = value;
  $(id).dispatchEvent(new Event("input", { bubbles: true }));
  $(id).dispatchEvent(new Event("change", { bubbles: true }));
};
const visible = () => [...document.querySelectorAll(".card:not([hidden])")].map((c) => Number(c.dataset.card));
const press = (key) => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const models = () => [...document.querySelectorAll(".card:not([hidden]) .model")]
  .filter((f) => getComputedStyle(f).display !== "none").map((f) => f.dataset.model);
const focused = () => {
  const card = document.activeElement.closest(".card");
  return card && Number(card.dataset.card);
};
const heat = () => Number(getComputedStyle(document.querySelector(".map")).opacity);
const tell = (found) => {
  found.problems = problems;
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
  document.body.append(out);
};
</script>"""


def chromium(folder: Path, page: Path, *more: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    profile = folder / "profile"
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def tried(folder: Path, report: Path, script: str) -> dict[str, object]:
    """What a script finds out in the page: it calls ``tell`` with an object."""
    text = report.read_text(encoding="utf-8")
    policy = text.index("<meta http-equiv")
    page = folder / "tried.html"
    text = text[:policy] + _WATCH + text[policy:]
    page.write_text(text.replace("</body>", f"{_HELP}<script>{script}</script></body>"), encoding="utf-8")
    run = chromium(folder, page, "--dump-dom")
    found = re.search(r'<pre id="found">([^<]*)</pre>', run.stdout)
    assert found, f"the script did not end: {run.stderr[-2000:]}"
    result = json.loads(base64.b64decode(found[1]))
    assert result.pop("problems") == []
    return result


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("report"))


@pytest.fixture
def look(tmp_path, report):
    return functools.partial(tried, tmp_path, report)


def test_filters_and_order(look):
    found = look("""
      const found = { all: visible(), count: $("count").value, outcome: {}, order: {} };
      for (const name of ["fixed", "broken", "both right", "both wrong"]) {
        choose("outcome", name); found.outcome[name] = visible();
      }
      choose("outcome", "");
      choose("class", "=bee"); found.bees = visible(); found.beeCount = $("count").value;
      choose("outcome", "fixed"); found.fixedBees = visible();
      choose("outcome", ""); choose("class", "");
      for (const name of ["h+", "h-", "f+", "H-"]) { choose("order", name); found.order[name] = visible(); }
      choose("order", ""); found.again = visible();
      choose("from", "1"); choose("to", "0"); choose("outcome", "fixed"); found.turned = visible();
      found.classes = [...$("class").options].map((o) => o.textContent);
      tell(found);
    """)
    everything = list(range(len(ROWS)))
    assert found["all"] == found["again"] == everything
    assert found["count"] == "6 of 6 images"
    assert found["outcome"] == {
        "fixed": FIXED,
        "broken": BROKEN,
        "both right": BOTH_RIGHT,
        "both wrong": BOTH_WRONG,
    }
    assert found["bees"] == [1, 4, 5]
    assert found["beeCount"] == "3 of 6 images"
    assert found["fixedBees"] == [4]
    assert found["order"]["h+"] == BY_GAIN
    assert found["order"]["h-"] == [1, 5, 2, 4, 0, 3]
    assert found["order"]["f+"] == [0, 2, 4, 5, 3, 1]
    assert found["order"]["H-"] == [1, 3, 2, 4, 0, 5]
    assert found["turned"] == BROKEN
    assert "<script>alert('class')</script> & \"x\"" in found["classes"]


def test_toggle_opacity_boxes_and_keys(look):
    found = look("""
      const found = { both: new Set(models()).size, heat: heat() };
      $("next").click(); found.first = [...new Set(models())];
      press("m"); found.second = [...new Set(models())];
      press("m"); found.third = [...new Set(models())];
      press("s"); found.side = [...new Set(models())].length;
      choose("opacity", "0.2"); found.low = heat();
      press("+"); found.more = heat();
      press("0"); found.none = heat(); press("0"); found.back = heat();
      const box = () => getComputedStyle(document.querySelector(".card .region")).display;
      found.box = box(); press("b"); found.noBox = box(); press("b");
      press("j"); found.j = focused(); press("ArrowRight"); found.right = focused(); press("k"); found.k = focused();
      press("z"); found.large = document.activeElement.classList.contains("large");
      press("Enter"); found.small = document.activeElement.classList.contains("large");
      choose("outcome", "both right"); document.activeElement.blur();
      for (let i = 0; i < 3; i++) press("j");
      found.last = focused();
      press("?"); found.help = $("keys").open;
      press("c"); found.classHasFocus = document.activeElement.id;
      press("b"); found.typing = $("boxes").checked;
      tell(found);
    """)
    assert (found["both"], found["first"], found["second"], found["third"]) == (2, ["0"], ["1"], ["0"])
    assert found["side"] == 2
    assert (found["heat"], found["low"]) == (0.75, 0.2)
    assert found["more"] == pytest.approx(0.3)
    assert (found["none"], found["back"]) == (0, pytest.approx(0.3))
    assert found["box"] != "none"
    assert found["noBox"] == "none"
    assert (found["j"], found["right"], found["k"]) == (0, 1, 0)
    assert (found["large"], found["small"]) == (True, False)
    assert found["last"] == BOTH_RIGHT[-1]
    assert found["help"] is True
    assert found["classHasFocus"] == "class"
    assert found["typing"] is True  # keys in a control are the control's


def test_one_model_alone(tmp_path):
    report = write_report(tmp_path, count=1)
    found = tried(
        tmp_path,
        report,
        """const found = {}; choose("outcome", "wrong"); found.wrong = visible();
        choose("outcome", ""); choose("order", "F-"); found.order = visible(); press("m"); press("s");
        found.models = [...new Set(models())]; tell(found);""",
    )
    assert found == {"wrong": [0, 3, 4], "order": [3, 0, 4, 2, 1, 5], "models": ["0"]}


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(tmp_path, report, width):
    """The table scrolls in its own frame; the page does not scroll sideways. A frame sets the width of the view."""
    inner = tmp_path / "inner.html"
    inner.write_text(
        report.read_text(encoding="utf-8").replace(
            "</body>",
            "<script>parent.postMessage([document.documentElement.scrollWidth, innerWidth], '*')</script></body>",
        ),
        encoding="utf-8",
    )
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<script>addEventListener('message', (e) => { document.title = 'x';"
        "document.body.insertAdjacentHTML('beforeend', `<p id=found>${e.data}</p>`) })</script>"
        f'<body><iframe src="inner.html" width="{width}" height="700" style="border:0"></iframe></body>'
    )
    run = chromium(tmp_path, outer, "--dump-dom", "--virtual-time-budget=5000", "--window-size=1400,900")
    found = re.search(r"<p id=\"found\">(\d+),(\d+)</p>", run.stdout)
    assert found, run.stderr[-2000:]
    assert int(found[1]) <= int(found[2]) == width


def test_the_browser_draws_the_overlay_that_the_project_draws(tmp_path, report):
    """Colours and cover of the SVG filter against :func:`heatmap_overlay`, on the first card, without its boxes."""
    side = 320
    text = report.read_text(encoding="utf-8").replace(
        "</body>",
        f"""<style>body > *:not(.defs):not(.cards) {{ display: none !important }} body {{ padding: 0; margin: 0 }}
        .region, .card:not(#card-0), h3, .photo, .model[data-model="1"], figcaption {{ display: none !important }}
        .cards, .panels {{ display: block; margin: 0 }} .card {{ padding: 0; border: 0 }}
        .card .panels figure {{ width: {side}px; max-width: none; }} .frame {{ border-radius: 0 }}</style></body>""",
    )
    page, shot = tmp_path / "one.html", tmp_path / "one.png"
    page.write_text(text, encoding="utf-8")
    chromium(tmp_path, page, f"--screenshot={shot}", f"--window-size={side},{side}")
    drawn = np.asarray(Image.open(shot).convert("RGB").crop((0, 0, side, side))).astype(float)
    photo = photograph(40, 40, 0).resize((side, side), Image.Resampling.BILINEAR)
    expected = np.asarray(heatmap_overlay(photo, MAP)).astype(float)
    # The photograph is a JPEG there, and its grey has other weights: the colours must agree, not every pixel.
    assert np.abs(drawn - expected).mean() < 6
    turned = np.asarray(heatmap_overlay(photo, MAP.flip(1))).astype(float)
    assert np.abs(drawn - turned).mean() > 15
