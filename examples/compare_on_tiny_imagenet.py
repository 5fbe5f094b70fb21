#!/usr/bin/env python
"""Training methods side by side on tiny-imagenet (or a part of it): train, evaluate; a table, a chart, a picture.

    python examples/compare_on_tiny_imagenet.py DATA --out runs/tin10 --epochs 8 --seeds 5
    python examples/compare_on_tiny_imagenet.py DATA --labels 10 --out runs/tin10-few --epochs 40 --seeds 3

The first compares the baseline, the L2 ablation and CGC; the second all methods on a tenth of the labels, one of them
with the other images as unlabelled ones. Runs the published scripts once for every method and seed; what is finished
already is not run again. The table gives mean and spread (standard deviation) over the seeds of the last checkpoints,
never of the best ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIZE = 64
RECIPE = ["-a", "resnet_tiny", "--image-size", str(SIZE), "--resize-size", str(SIZE), "-b", "64", "-j", "0"]
RECIPE += ["--schedule", "onecycle", "--wd", "5e-4"]
UNLABELLED = "UNLABELLED"  # stands for the folder of images without labels


@dataclass(frozen=True)
class Row:
    """One method: how the table calls it, what it looks like in the chart, and how it is trained."""

    title: str
    colour: str
    corners: int  # of its sign in the chart, so that rows differ not by colour alone
    options: Sequence[str] = ()
    script: str = "train_eval_cgc.py"


ALL_LABELS: Mapping[str, Row] = {
    "baseline": Row("baseline, one view", "#000000", 4, ["--method", "baseline"]),
    "views3": Row("three views alone", "#56b4e9", 3, ["--lambda", "0"]),
    "l2": Row("L2 ablation", "#e69f00", 5, ["--method", "l2", "--lambda", "2048"]),
    "cgc-published": Row("CGC as published", "#d55e00", 6, ["--map-floor", "0"]),
    "cgc": Row("CGC (default)", "#009e73", 30),
}
FEW_LABELS: Mapping[str, Row] = {
    "baseline": Row("baseline", "#000000", 4, ["--method", "baseline"]),
    "cgc": Row("CGC", "#009e73", 30),
    "cgc-unlabelled": Row("CGC + unlabelled", "#56b4e9", 3, ["--unlabeled", UNLABELLED]),
    "gc": Row("GC", "#e69f00", 5, script="train_gcam_grid_consistency.py"),
    "sgc": Row("SGC, box masks", "#d55e00", 6, ["--saliency", "boxes", "--lr", "0.1"], "train_eval_sgc.py"),
}
COLUMNS = {
    "top-1": ("eval", lambda e: 100 * e["top1"]),
    "CH": ("eval", lambda e: 100 * e["scores"]["ch"]["model"]),
    "SPG": ("eval", lambda e: 100 * e["scores"]["spg"]["model"]),
    "PG": ("eval", lambda e: 100 * e["scores"]["pg"]["model"]),
    "zero maps": ("eval", lambda e: e["zero_maps"]),
    "consistency": ("result", lambda r: r["val_consistency"]),
    "cosine": ("result", lambda r: r["val_cosine"]),
    "largest gradient": ("metrics", lambda rows: max(float(row["train_grad_norm_max"]) for row in rows)),
}


def few_labels(data: Path, percent: int, seed: int, out: Path) -> Path:
    """A folder of links to a share of the training images of each class; its ``unlabeled`` holds all of them."""
    folder = out / f"labels-{seed}"
    if not folder.exists():
        draw = [sys.executable, "-m", "cgc", "label-subset", data.resolve(), "--percent", percent]
        draw += ["--seed", seed, "--out", folder.resolve(), "--links"]
        subprocess.run([str(word) for word in draw], check=True, cwd=ROOT)
    return folder


def run(train_on: Path, data: Path, folder: Path, row: Row, seed: int, epochs: int) -> None:
    """Train and evaluate one model unless that is done."""
    options = [str(train_on / "unlabeled") if word == UNLABELLED else word for word in row.options]
    train = [sys.executable, ROOT / row.script, train_on, *RECIPE, *options]
    train += ["--epochs", str(epochs), "--seed", str(seed), "--save_dir", folder]
    checkpoint = folder / f"checkpoint_{epochs:03d}.pth.tar"
    if not checkpoint.exists():
        subprocess.run([str(word) for word in train], check=True)
    if not (folder / "eval.json").exists():
        score = [
            sys.executable,
            ROOT / "evaluate_gradcam_energy_inside_bbox.py",
            data,
            "--resume",
            checkpoint,
        ]
        score += ["--input_resize", SIZE, "-b", "64", "-j", "0", "--out", folder / "eval.json"]
        subprocess.run([str(word) for word in score], check=True)


def read(folder: Path) -> dict[str, Any]:
    """The records of one finished run."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        "eval": json.loads((folder / "eval.json").read_text()),
        "result": json.loads((folder / "result.json").read_text()),
        "metrics": rows,
    }


def table(rows: Mapping[str, Row], out: Path) -> str:
    """Markdown: one row per method, mean ± standard deviation over its finished seeds."""
    lines = ["| method | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    trivial: dict[str, Any] | None = None
    for method, row in rows.items():
        finished = sorted(p.parent for p in out.glob(f"{method}-[0-9]*/eval.json"))
        if not finished:
            continue
        runs = [read(folder) for folder in finished]
        trivial = runs[-1]["eval"]["scores"]
        cells = []
        for source, figure in COLUMNS.values():
            values = [figure(each[source]) for each in runs]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        lines.append(f"| {row.title} | {len(runs)} | " + " | ".join(cells) + " |")
    if trivial is not None:
        for name, title in (("uniform", "uniform map"), ("gaussian", "centre Gaussian")):
            cells = [f"{100 * trivial[metric][name]:.2f}" for metric in ("ch", "spg", "pg")]
            lines.append(f"| {title} | | | " + " | ".join(cells) + " |" + " |" * (len(COLUMNS) - 4))
    return "\n".join(lines)


def chart(rows: Mapping[str, Row], out: Path, path: Path) -> None:
    """Content Heatmap against top-1, one dot per run."""
    from PIL import Image, ImageDraw, ImageFont

    dots = []
    for method in rows:
        for file in sorted(out.glob(f"{method}-[0-9]*/eval.json")):
            scores = json.loads(file.read_text())
            dots.append((method, 100 * scores["scores"]["ch"]["model"], 100 * scores["top1"]))
    low_x, high_x = min(d[1] for d in dots) // 2 * 2, max(d[1] for d in dots) // 2 * 2 + 2
    low_y, high_y = min(d[2] for d in dots) // 5 * 5, max(d[2] for d in dots) // 5 * 5 + 5
    width, height, left, bottom = 760, 470, 70, 50
    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - low_x) / (high_x - low_x), (y - low_y) / (high_y - low_y)
        return left + across * (width - left - 190), height - bottom - up * (height - bottom - 20)

    for x in range(int(low_x), int(high_x) + 1, 2):
        pen.line((*place(x, low_y), *place(x, high_y)), fill="#dddddd")
        pen.text((place(x, low_y)[0] - 8, height - bottom + 6), str(x), fill="black", font=font)
    for y in range(int(low_y), int(high_y) + 1, 5):
        pen.line((*place(low_x, y), *place(high_x, y)), fill="#dddddd")
        pen.text((left - 26, place(low_x, y)[1] - 8), str(y), fill="black", font=font)
    pen.text((left + 150, height - 24), "Content Heatmap (%)", fill="black", font=font)
    pen.text((left + 4, 2), "top-1 (%)", fill="black", font=font)
    for method, x, y in dots:
        row = rows[method]
        pen.regular_polygon((*place(x, y), 7), row.corners, fill=row.colour, outline="white")
    for line, method in enumerate(sorted({d[0] for d in dots}, key=list(rows).index)):
        row = rows[method]
        pen.regular_polygon((width - 170, 40 + 24 * line, 7), row.corners, fill=row.colour)
        pen.text((width - 155, 31 + 24 * line), row.title, fill="black", font=font)
    image.save(path)


def picture(rows: Mapping[str, Row], data: Path, out: Path, epochs: int, seed: int = 0) -> None:
    """A dozen validation images, evenly spread over the list, under the models of one seed."""
    from cgc.data.boxes import open_boxes
    from cgc.data.decode import decode_rgb
    from cgc.evaluation.options import EvaluationOptions
    from cgc.evaluation.run import evaluate
    from cgc.evaluation.subject import gradcam_subject
    from cgc.models.loading import load_model
    from cgc.modes import evaluating
    from cgc.report.overlays import comparison_picture

    found = open_boxes(data)
    by_class = sorted(range(len(found.images)), key=lambda i: found.images[i].label)
    shown = [found.images[i] for i in by_class[:: max(1, len(by_class) // 12)][:12]]
    maps: dict[str, list[Any]] = {}
    for method, row in rows.items():
        model = load_model(
            None, out / f"{method}-{seed}" / f"checkpoint_{epochs:03d}.pth.tar", len(found.classes)
        )
        kept: dict[int, Any] = {}
        with evaluating(model):
            evaluate(
                gradcam_subject(model),
                shown,
                EvaluationOptions(input_resize=SIZE),
                on_maps=lambda rows, maps, kept=kept: kept.update({rows[0].index: maps[0]}),
            )
        maps[row.title] = [kept[i] for i in range(len(shown))]
    images = [decode_rgb(image.path) for image in shown]
    names = [found.classes[image.label] for image in shown]
    comparison_picture(images, [image.boxes for image in shown], maps, names).save(out / "heatmaps.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=int, metavar="PERCENT", help="train on this share of the labels")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-imagenet"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=sorted({*ALL_LABELS, *FEW_LABELS}))
    options = parser.parse_args()
    known = FEW_LABELS if options.labels else ALL_LABELS
    rows = {name: row for name, row in known.items() if name in (options.methods or known)}
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(options.seeds):
        train_on = options.data
        if options.labels:
            train_on = few_labels(options.data, options.labels, seed, options.out)
        for method, row in rows.items():
            run(train_on, options.data, options.out / f"{method}-{seed}", row, seed, options.epochs)
    (options.out / "table.md").write_text(table(rows, options.out) + "\n")
    chart(rows, options.out, options.out / "chart.png")
    picture(rows, options.data, options.out, options.epochs)
    print(table(rows, options.out))


if __name__ == "__main__":
    main()
