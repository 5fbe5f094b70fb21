"""``python -m cgc demo``: from nothing to a table and a picture, offline.

Draws a small dataset whose backgrounds tempt (:mod:`cgc.data.shapes`), trains three models from the same initial
weights, and shows where they look on images that none has seen: a baseline, CGC, and between them the cross-entropy of
CGC's three views alone, which tells apart what more views and what consistency gives. Nothing here but the commands
that users have.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cgc.commands import report, train
from cgc.commands.options import Parser, non_negative_int, positive_int, run_command
from cgc.data.boxes import BoxedImages, open_boxes
from cgc.data.decode import decode_rgb
from cgc.data.shapes import write_shapes
from cgc.engine.records import write_json
from cgc.errors import InputError, RunError
from cgc.evaluation.options import LOCALISATION, EvaluationOptions
from cgc.evaluation.rows import Estimate, Row, Summary, summarise
from cgc.evaluation.run import evaluate
from cgc.evaluation.subject import gradcam_subject
from cgc.models.loading import load_model
from cgc.modes import evaluating
from cgc.report.overlays import comparison_picture
from cgc.report.text import aligned

METHODS = {
    "baseline": ["--method", "baseline"],
    "three views": ["--method", "cgc", "--lambda", "0"],
    "cgc": ["--method", "cgc"],
}
SIZE = 64
SHOWN = 12
_RECIPE = ["-a", "resnet_tiny", "--image-size", str(SIZE), "--resize-size", str(SIZE), "-b", "32", "-j", "0"]
_RECIPE += ["--schedule", "onecycle", "--lr", "0.1", "--wd", "5e-4"]


@dataclass
class Outcome:
    """One trained model: what it scored, how long it took, and its maps of the images shown."""

    summary: Summary
    record: dict[str, Any]
    maps: dict[int, Tensor] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; exit status as every command's."""
    parser = Parser(prog="python -m cgc demo", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (demo)")
    parser.add_argument("--epochs", type=positive_int, default=12, help="of each training (12)")
    parser.add_argument("--per-class", type=positive_int, default=200, help="training images per class (200)")
    parser.add_argument("--held-out", type=positive_int, default=50, help="held-out images per class (50)")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="(0)")
    parser.add_argument("--device", help="cpu, cuda, … (default: GPUs if there are any)")
    options = parser.parse_args(argv)
    return run_command(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    data = options.out / "data"
    print(f"drawing {data}: six shapes, each on a background that gives it away in training …", flush=True)
    write_shapes(
        data, train_per_class=options.per_class, val_per_class=options.held_out, size=SIZE, seed=options.seed
    )
    runs = options.out / "runs"
    shutil.rmtree(runs, ignore_errors=True)  # of an earlier demo: the dataset beside it is this command's
    found = open_boxes(data / "eval", classes=data / "train")
    step = max(1, len(found.images) // SHOWN)
    shown = list(range(0, len(found.images), step))[:SHOWN]
    outcomes = {}
    for method, chosen in METHODS.items():
        print(f"training {method} for {options.epochs} epochs …", flush=True)
        folder = runs / _folder(method)
        arguments = [str(data), *_RECIPE, *chosen, "--epochs", str(options.epochs)]
        arguments += ["--seed", str(options.seed), "--save_dir", str(folder)]
        arguments += ["--device", options.device] if options.device else []
        status = train.main(arguments)
        if status:
            raise RunError(f"training {method} ended with status {status}")
        outcomes[method] = score(found, folder, options.epochs, shown)
    text = table(outcomes)
    picture = options.out / "heatmaps.png"
    draw(found, shown, outcomes, picture)
    (options.out / "table.txt").write_text(text + "\n", encoding="utf-8")
    write_json(options.out / "result.json", {m: _figures(o) for m, o in outcomes.items()})
    page = write_report(data, runs, options)
    print(f"\n{text}\n\npicture: {picture}\nreport, for a browser: {page}")
    return 0


def write_report(data: Path, runs: Path, options: argparse.Namespace) -> Path:
    """What the table was made of, to look through: every held-out image under the three models."""
    page: Path = options.out / "report.html"
    checkpoints = [str(_checkpoint(runs / _folder(method), options.epochs)) for method in METHODS]
    words = [
        *checkpoints,
        "--names",
        *METHODS,
        "--data",
        str(data / "eval"),
        "--classes",
        str(data / "train"),
    ]
    words += ["--input_resize", str(SIZE), "-b", "50", "-j", "0", "--images", "100000", "--out", str(page)]
    words += ["--title", "Demonstration: where three models look"]
    words += ["--device", options.device] if options.device else []
    status = report.main(words)
    if status:
        raise RunError(f"the report ended with status {status}")
    return page


def _folder(method: str) -> str:
    return method.replace(" ", "-")


def _checkpoint(run_folder: Path, epochs: int) -> Path:
    return run_folder / f"checkpoint_{epochs:03d}.pth.tar"


def score(found: BoxedImages, run_folder: Path, epochs: int, shown: Sequence[int]) -> Outcome:
    """Score the last checkpoint on the held-out images, keeping the maps of those to be shown."""
    model = load_model(None, _checkpoint(run_folder, epochs), len(found.classes))
    kept: dict[int, Tensor] = {}

    def keep(rows: Sequence[Row], maps: Sequence[Tensor]) -> None:
        kept.update((row.index, map_hw) for row, map_hw in zip(rows, maps, strict=True) if row.index in shown)

    options = EvaluationOptions((*LOCALISATION, "top1"), input_resize=SIZE, batch_size=50)
    with evaluating(model):
        result = evaluate(gradcam_subject(model), found.images, options, on_maps=keep)
    if not result.rows:
        raise InputError(f"no held-out image of {found.layout} layout could be scored")
    record = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    summary = summarise(result.rows, found.images, options.metrics, num_classes=len(found.classes), draws=0)
    return Outcome(summary, record, kept)


def table(outcomes: dict[str, Outcome]) -> str:
    """One row per model, then the maps that know nothing, on the images that count for the last model."""
    rows: list[tuple[str, ...]] = [
        ("", "top-1", "CH", "SPG", "PG", "consistency", "cosine", "seconds", "zero maps")
    ]
    for method, outcome in outcomes.items():
        figures = _figures(outcome)
        scores = [_percent(figures[name]) for name in ("top1", "ch", "spg", "pg")]
        agreement = [f"{figures['consistency_loss']:.3f}", f"{figures['cosine']:.3f}"]
        rows.append((method, *scores, *agreement, f"{figures['seconds']:.0f}", str(figures["zero_maps"])))
    for name, title in (("uniform", "uniform map"), ("gaussian", "centre Gaussian")):
        last = list(outcomes.values())[-1].summary.scores
        scores = [_percent(_value(last[metric][name])) for metric in ("ch", "spg", "pg")]
        rows.append((title, "", *scores, "", "", "", ""))
    images = list(outcomes.values())[-1].summary.images
    return (
        f"{aligned(rows)}\n{images} held-out images; top-1, CH, SPG, PG in %, higher is better; "
        "consistency: CGC loss, lower is better; cosine: of the two maps, higher is better"
    )


def _figures(outcome: Outcome) -> dict[str, Any]:
    summary, record = outcome.summary, outcome.record
    return {
        **{metric: _value(summary.scores[metric]["model"]) for metric in ("top1", "ch", "spg", "pg")},
        "consistency_loss": record["val_consistency"],
        "cosine": record["val_cosine"],
        "seconds": record["seconds"],
        "zero_maps": summary.zero_maps,
        "images": summary.images,
    }


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def draw(found: BoxedImages, shown: Sequence[int], outcomes: dict[str, Outcome], path: Path) -> None:
    """A dozen held-out images, evenly spread over the list, under the models."""
    images = [decode_rgb(found.images[i].path) for i in shown]
    blank = torch.zeros(1, 1)
    comparison_picture(
        images,
        [found.images[i].boxes for i in shown],
        {method: [outcome.maps.get(i, blank) for i in shown] for method, outcome in outcomes.items()},
        [found.classes[found.images[i].label] for i in shown],
    ).save(path)


if __name__ == "__main__":
    sys.exit(main())
