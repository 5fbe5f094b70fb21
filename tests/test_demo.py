"""The demonstration, at the smallest size: what it writes, and that its numbers are the evaluator's."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cgc import demo
from cgc.commands import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    arguments = ["--out", str(out), "--epochs", "1", "--per-class", "4", "--held-out", "3", "--device", "cpu"]
    assert demo.main(arguments) == 0
    return out


def test_table_holds_the_models_and_the_maps_that_know_nothing(folder: Path) -> None:
    lines = (folder / "table.txt").read_text().splitlines()
    assert [line.split("  ")[0].strip() for line in lines[1:6]] == [
        "baseline",
        "three views",
        "cgc",
        "uniform map",
        "centre Gaussian",
    ]
    for column in ("top-1", "CH", "SPG", "PG", "consistency", "seconds"):
        assert column in lines[0]


def test_numbers_are_those_of_the_evaluator(folder: Path, tmp_path: Path) -> None:
    figures = json.loads((folder / "result.json").read_text())
    for method in demo.METHODS:
        out = tmp_path / f"{method}.json"
        checkpoint = folder / "runs" / method.replace(" ", "-") / "checkpoint_001.pth.tar"
        arguments = [str(folder / "data" / "eval"), "--classes", str(folder / "data" / "train"), "-j", "0"]
        arguments += ["--resume", str(checkpoint), "--input_resize", str(demo.SIZE), "--out", str(out)]
        assert evaluate.main([*arguments, "--device", "cpu"], preset="energy") == 0
        scores = json.loads(out.read_text())
        assert scores["images"] == 18
        assert scores["top1"] == figures[method]["top1"]
        for metric in ("ch", "spg", "pg"):
            assert scores["scores"][metric]["model"] == pytest.approx(figures[method][metric], abs=1e-6)


def test_models_begin_with_the_same_weights_and_batches(folder: Path) -> None:
    arguments = [json.loads((folder / "runs" / m / "args.json").read_text()) for m in ("three-views", "cgc")]
    differing = {key for key in arguments[0] if arguments[0][key] != arguments[1][key]}
    assert differing == {"weight", "save_dir"}


def test_picture_shows_a_dozen_images_under_all_models(folder: Path) -> None:
    pixels = np.asarray(Image.open(folder / "heatmaps.png").convert("RGB"))
    assert pixels.shape[1] > 6 * 150
    assert pixels.shape[0] > 2 * 4 * 150
    assert pixels.std() > 20


def test_a_second_demo_in_the_folder_starts_afresh(folder: Path) -> None:
    before = (folder / "data" / "shapes.json").stat().st_mtime_ns
    first = torch.load(folder / "runs" / "cgc" / "checkpoint_001.pth.tar", weights_only=True)
    arguments = ["--out", str(folder), "--epochs", "1", "--per-class", "4", "--held-out", "3"]
    assert demo.main([*arguments, "--device", "cpu"]) == 0
    second = torch.load(folder / "runs" / "cgc" / "checkpoint_001.pth.tar", weights_only=True)
    assert (folder / "data" / "shapes.json").stat().st_mtime_ns == before
    assert all(torch.equal(w, second["state_dict"][k]) for k, w in first["state_dict"].items())
    with (folder / "runs" / "cgc" / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1"]


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("precious")
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert str(tmp_path / "data") in capsys.readouterr().err
    assert (tmp_path / "data" / "thesis.txt").read_text() == "precious"


def test_the_report_shows_the_numbers_of_the_table(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    figures = json.loads((folder / "result.json").read_text())
    for method in demo.METHODS:
        assert f">{method}<" in page
        assert f"{100 * figures[method]['ch']:.1f}" in page
