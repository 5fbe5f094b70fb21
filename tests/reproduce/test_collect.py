"""Scores of the runs beside the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgc.reproduce import collect
from cgc.reproduce import plan as plans
from cgc.reproduce.plan import Plan
from cgc.reproduce.scale import TINY
from tests.reproduce.test_plan import a_plan, record, write

GC = ("resnet18-gc",)


def finish(plan: Plan, top1: float, scores: dict[str, tuple[float, float, float]]) -> Plan:
    """The files that a finished plan leaves, with these numbers in all of its rows."""
    for job in plan.jobs:
        record(job)
        if job.kind == "train":
            write(job.product, {"completed": True, "val_top1": top1})
        elif job.kind == "evaluate":
            assert job.after is not None
            write(job.after, "")
            content = {
                "scores": {name: {"model": value} for name, (value, _, _) in scores.items()},
                "intervals": {name: [low, high] for name, (_, low, high) in scores.items()},
            }
            if "top1" in scores:
                content["top1"] = scores["top1"][0]
            write(job.product, content)
    return plan


SCORES = {"ch": (0.5773, 0.57, 0.58), "pg": (0.8, 0.79, 0.81), "spg": (0.66, 0.65, 0.67)}


def test_measured_beside_published(tmp_path: Path) -> None:
    plan = finish(a_plan(tmp_path, "gc-imagenet", GC), 67.0, SCORES)
    entries = {entry.score: entry for entry in collect.collect(plan)}
    assert list(entries) == ["top-1", "PG", "SPG", "CH"]
    assert {name: entry.published for name, entry in entries.items()} == plan.rows[0].published
    differences = {name: entry.difference for name, entry in entries.items()}
    assert differences == pytest.approx({"top-1": 67.0 - 67.74, "PG": 0, "SPG": 66 - 65.85, "CH": 0})
    (ch,) = entries["CH"].measured
    assert (ch.low, ch.high) == pytest.approx((57, 58))
    assert entries["top-1"].measured[0].low is None, "validation gives no interval"
    shown = collect.terminal(plan, list(entries.values()))
    assert "-0.74" in shown
    assert "[57.00, 58.00]" in shown
    assert "comparable" not in shown


def test_at_the_tiny_scale_there_is_no_difference(tmp_path: Path) -> None:
    plan = finish(a_plan(tmp_path, "gc-imagenet", GC, scale=TINY), 67.0, SCORES)
    entries = collect.write(plan, plan.work)
    assert all(entry.difference is None and entry.published for entry in entries)
    text = (plan.work / "table.md").read_text()
    assert "NOT comparable" in text
    assert "57.73" in text
    content = json.loads((plan.work / "table.json").read_text())
    assert (content["scale"], content["comparable"]) == ("tiny", False)
    assert "NOT comparable" in collect.terminal(plan, entries)


def test_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, top1 in ((0, 60.0), (1, 70.0)):
        finish(a_plan(tmp_path, "gc-imagenet", GC, seeds=[seed]), top1, SCORES)
    plan = a_plan(tmp_path, "gc-imagenet", GC, seeds=[0, 1])
    entry = collect.collect(plan)[0]
    assert entry.mean == 65.0
    assert entry.difference == pytest.approx(65 - 67.74)
    assert [each.seed for each in entry.measured] == [0, 1]
    shown = collect.markdown(plan, [entry])
    assert "65.00 | 7.07 (2)" in shown


def test_what_has_not_run_is_a_gap(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, "gc-imagenet", GC)
    entries = collect.collect(plan)
    assert [entry.measured for entry in entries] == [[]] * 4
    assert all(entry.mean is None and entry.difference is None for entry in entries)
    assert "| – |" in collect.markdown(plan, entries)
    finish(plan, 67.0, {**SCORES, "ch": (float("nan"), 0, 0)})
    plan.jobs[-1].product.write_text(
        json.dumps({"scores": {"ch": {"model": None}}, "intervals": {"ch": None}})
    )
    assert [len(entry.measured) for entry in collect.collect(plan)] == [1, 0, 0, 0]


def test_rows_of_an_earlier_run_stay_in_the_table(tmp_path: Path) -> None:
    first = finish(a_plan(tmp_path, "gc-imagenet", ("resnet50-gmp",)), 70.0, SCORES)
    collect.write(first, first.work)
    second = finish(a_plan(tmp_path, "gc-imagenet", GC), 67.0, SCORES)
    both = collect.write(second, second.work)
    assert [entry.row for entry in both] == ["resnet18-gc"] * 4 + ["resnet50-gmp"] * 4, "in the table's order"
    assert both[4:] == collect.collect(first)[4:]
    assert collect.write(second, second.work) == both
    other = a_plan(tmp_path, "gc-imagenet", ("resnet18-gmp",), extra=["--amp", "bf16"])
    assert {entry.row for entry in collect.collect(other)} == {"resnet18-gmp"}, "of other settings"
    (second.work / "table.json").write_text('{"scale": "full", "extra": [], "entries": [{"row": "a"}]}')
    assert {entry.row for entry in collect.collect(second)} == {"resnet18-gc"}, "of another form"


def test_top1_of_unrel_is_the_evaluators(tmp_path: Path) -> None:
    plan = finish(
        a_plan(tmp_path, "unrel", ("cgc",)), 75.0, {"ch": (0.7, 0.6, 0.8), "top1": (0.38, 0.3, 0.4)}
    )
    found = {entry.score: entry for entry in collect.collect(plan)}
    assert found["top-1"].mean == pytest.approx(38)
    assert found["top-1"].difference == pytest.approx(38 - 38.25)
    plan.jobs[-1].product.unlink()
    assert collect.collect(plan)[0].measured == [], "never ImageNet's in its place"


def test_scores_left_out_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "find_spec", lambda name: None if name == "captum" else object())
    plan = a_plan(tmp_path, "explainers", ("gc",), extra=["--amp", "bf16"])
    said = collect.remarks(plan)
    assert "guided-backprop: not scored, the package captum is not installed" in said
    assert "every training with --amp bf16 (ours)" in said
    assert not any("layercam" in line for line in said)
