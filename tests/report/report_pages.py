"""A small report of two made-up models, without any network: the pages that the tests look at."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from cgc.report.html.content import Card, Model, read_predictions, said
from cgc.report.html.page import write_page
from cgc.report.score_files import read_scores
from tests.data.images import photograph

NASTY = "<script>alert('class')</script> & \"x\""
# class, right under A and B, confidence A and B, CH A and B; None: no score
ROWS = (
    ("ant", 0, 1, 0.30, 0.90, 0.20, 0.80),
    ("bee", 1, 0, 0.80, 0.40, 0.70, 0.30),
    ("ant", 1, 1, 0.60, 0.70, 0.50, 0.55),
    (NASTY, 0, 0, 0.20, 0.10, None, 0.40),
    ("bee", 0, 1, 0.45, 0.50, 0.10, 0.60),
    ("bee", 1, 1, 0.99, 0.95, 0.90, 0.90),
)
FIXED, BROKEN, BOTH_RIGHT, BOTH_WRONG = [0, 4], [1], [2, 5], [3]
BY_GAIN = [0, 4, 2, 5, 1, 3]  # of CH; the row without a score last
MAP = torch.tensor([[0.0, 1.0], [2.0, 4.0]])


def image_name(row: int) -> str:
    return f"val/{row}<b>.png"


def scored_model(folder: Path, name: str, which: int) -> Model:
    """The model's CSV as an evaluation writes it, read back."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{which}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", "prediction", "correct", "confidence", "ch"])
        for i, (label, *values) in enumerate(ROWS):
            right, confidence, ch = values[which], values[2 + which], values[4 + which]
            said_class = label if right else "wasp"
            writer.writerow([image_name(i), label, said_class, right, confidence, "" if ch is None else ch])
    top1 = sum(row[1 + which] for row in ROWS) / len(ROWS)
    summary = {
        "settings": {"checkpoint": f"runs/{which}/model.pth.tar", "input_resize": 64},
        "layout": "voc",
        "images": len(ROWS),
        "rows": len(ROWS),
        "zero_maps": 0,
        "notes": [],
        "skipped": {},
        "top1": top1,
        "scores": {"ch": {"model": 0.5 + which / 10, "uniform": 0.4, "gaussian": 0.55, "random": 0.3}},
        "intervals": {"top1": [0.1, 0.9], "ch": [0.45, 0.65]},
        "counted": {"top1": len(ROWS), "ch": len(ROWS) - 1},
    }
    curves = {"val_top1": [10.0, 20.0 + which, 35.5], "lr": [0.1, 0.1, 0.1]}
    return Model(name, read_scores(path), summary, read_predictions(path), curves)


def cards(models: list[Model], side: int = 40) -> list[Card]:
    found = []
    for i, (label, *_) in enumerate(ROWS):
        boxes = np.array([[4, 5, 19, 24]])
        mask = None
        if i == 2:
            mask = np.zeros((side, side), dtype=bool)
            mask[10:30, 12:28] = True
        maps = [MAP, None if i == 3 else MAP.flip(1)]
        told = tuple(said(model, i, map_hw) for model, map_hw in zip(models, maps, strict=False))
        found.append(Card(image_name(i), label, photograph(side, side, i), boxes, mask, told))
    return found


def write_report(folder: Path, count: int = 2) -> Path:
    """A page of the first ``count`` models."""
    models = [scored_model(folder / "scores", name, i) for i, name in enumerate(("plain <i>", "CGC"))][:count]
    path = folder / "report.html"
    titles = {"ant": "ant, a small one"}
    assert write_page(path, models, cards(models), title="Two & <models>", titles=titles, draws=50) == len(
        ROWS
    )
    return path
