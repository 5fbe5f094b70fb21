"""What a run writes to be read: JSON, CSV, TensorBoard."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cgc.engine.records import RunRecorder, versions, write_json


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_json_is_strict_and_plain(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(
        path, {"path": Path("a/b"), "nan": float("nan"), "inside": {1: (1, 2.5, None, True)}, "text": "é"}
    )

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "path": "a/b",
        "nan": None,
        "inside": {"1": [1, 2.5, None, True]},
        "text": "é",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_json_has_no_infinity(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "out.json", {"value": value})
    assert "Infinity" not in (tmp_path / "out.json").read_text()


def test_rows_survive_a_crash_after_any_epoch_and_may_gain_columns(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path, tmp_path / "log", {"lr": 0.1})
    recorder.epoch({"epoch": 1, "loss": 2.0})
    assert table(tmp_path) == [{"epoch": "1", "loss": "2.0"}]
    recorder.epoch({"epoch": 2, "loss": 1.0, "extra": 3})
    assert table(tmp_path) == [
        {"epoch": "1", "loss": "2.0", "extra": ""},
        {"epoch": "2", "loss": "1.0", "extra": "3"},
    ]
    recorder.close()
    arguments = json.loads((tmp_path / "args.json").read_text())
    assert arguments["lr"] == 0.1
    assert arguments["versions"] == versions()


@pytest.mark.parametrize("first", [0, 1, 2, 3, 7])
def test_rows_of_epochs_that_are_run_again_are_dropped(tmp_path: Path, first: int) -> None:
    earlier = RunRecorder(tmp_path, tmp_path / "log", {})
    for epoch in (1, 2, 3):
        earlier.epoch({"epoch": epoch, "loss": epoch / 3})
    earlier.close()
    later = RunRecorder(tmp_path, tmp_path / "log", {}, first_epoch=first)
    later.epoch({"epoch": first + 1, "loss": 9.0})
    later.close()
    kept = [str(epoch) for epoch in (1, 2, 3) if epoch <= first]
    assert [row["epoch"] for row in table(tmp_path)] == [*kept, str(first + 1)]
    assert [float(row["loss"]) for row in table(tmp_path)] == [*(int(k) / 3 for k in kept), 9.0]


def test_tensorboard_gets_scalars_and_panels_but_no_text(tmp_path: Path) -> None:
    pictures = iter([np.zeros((4, 6, 3), np.uint8), None])
    recorder = RunRecorder(tmp_path, tmp_path / "log", {}, panels=lambda: next(pictures))
    recorder.step(5, {"loss": 0.5})
    recorder.epoch({"epoch": 1, "loss": 0.25, "note": "text"})
    recorder.epoch({"epoch": 2, "loss": 0.125, "note": "text"})
    recorder.close()
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(5, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("epoch/loss")] == [(1, 0.25), (2, 0.125)]
    assert set(events.Tags()["scalars"]) == {"step/loss", "epoch/loss"}
    (panel,) = events.Images("heatmaps")
    assert (panel.step, panel.width, panel.height) == (1, 6, 4)


def test_the_last_word(tmp_path: Path) -> None:
    recorder = RunRecorder(tmp_path, tmp_path / "log", {})
    recorder.result({"completed": True})
    recorder.close()
    assert json.loads((tmp_path / "result.json").read_text()) == {"completed": True, "versions": versions()}
