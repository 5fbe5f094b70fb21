"""`python -m cgc report RUN… --data DATA`: one HTML file that shows where models look, and how good that is."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgc.commands import evaluate
from cgc.commands.evaluate_options import Options, metric_list, parse
from cgc.commands.evaluate_presets import PRESETS
from cgc.commands.options import Parser, non_negative_int, positive_int, run_command
from cgc.commands.run_folders import find_checkpoint, short_names
from cgc.data.boxes import BOXED_DATASETS, BoxedImage, BoxedImages
from cgc.data.decode import UnreadableImage, decode_rgb
from cgc.data.specs import DATASETS
from cgc.errors import InputError, RunError
from cgc.explainers import EXPLAINERS
from cgc.explainers.stored import MapProblem, StoredMaps
from cgc.report.html.content import Card, Model, read_curves, read_predictions, read_summary, said
from cgc.report.html.page import write_page
from cgc.report.score_files import Key, read_scores

_PRESET = PRESETS["evaluate"]
# Handed on to the evaluation as they are.
_PASSED = (
    "arch",
    "dataset",
    "split",
    "year",
    "regions",
    "classes",
    "class_map",
    "explainer",
    "weighting",
    "device",
)


@dataclass(frozen=True)
class _Evaluated:
    """A model, the place of its rows, and its maps where there are any."""

    model: Model
    rows: dict[Key, int]
    maps: StoredMaps | None


def main(argv: Sequence[str] | None = None) -> int:
    """Write a report; 0, or 2 for input that cannot be used, 1 for a run that failed (one line on stderr)."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc report",
        description="One self-contained HTML file: scores with intervals beside trivial maps, paired differences to "
        "the first model, classes, training curves, and a gallery of heatmaps to filter and sort.",
    )
    add = parser.add_argument
    what = "run folder, checkpoint, or the scores.json of `python -m cgc evaluate … --out … --save-maps …`"
    add("inputs", type=Path, nargs="+", metavar="RUN", help=what)
    add("--data", type=Path, required=True, help="folder with images and annotations, as for evaluate")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE.html", help="(%(default)s)")
    add(
        "--images", type=non_negative_int, default=120, metavar="N", help="shown, evenly spread (%(default)s)"
    )
    add("--title", help="(Where the models look)", default="Where the models look")
    add("--names", nargs="+", metavar="NAME", help="what to call the models (their folders' names)")
    add("--draws", type=non_negative_int, default=1000, metavar="N", help="resamples for intervals (1000)")
    kept = "keep the scores and maps of what is evaluated here, for another report"
    add("--save-scores", type=Path, metavar="DIR", help=kept)
    _add_evaluation(parser.add_argument_group("evaluating checkpoints, as in python -m cgc evaluate"))
    return parser


def _add_evaluation(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--metrics", type=metric_list, metavar="LIST", help="(ch,pg,spg,top1; of several labels f1)")
    add(
        "--input_resize",
        "--input-resize",
        type=positive_int,
        default=448,
        metavar="PX",
        help="shorter side (448)",
    )
    add("-b", "--batch-size", type=positive_int, default=16, metavar="N", help="images of one size (16)")
    add("-j", "--workers", type=non_negative_int, default=4, metavar="N", help="loading processes (4)")
    add("-a", "--arch", help="architecture, where a checkpoint does not tell")
    names = sorted({*DATASETS, *BOXED_DATASETS})
    add("--dataset", choices=names, metavar="NAME", help="layout of the data, where it cannot be told")
    add("--split", help="which annotated images, where there are several")
    add("--year", type=positive_int, help="which year, where there are several")
    add("--regions", choices=("boxes", "masks"), default="boxes", help="an object's region (boxes)")
    add("--classes", type=Path, metavar="PATH", help="class names in order: training folder or text file")
    add("--class-map", type=Path, metavar="FILE", help="the data's categories as ImageNet classes")
    add("--explainer", choices=tuple(EXPLAINERS), default=_PRESET.explainer, metavar="NAME", help="(gradcam)")
    add("--weighting", choices=("elementwise", "channel"), default=_PRESET.weighting, help="(elementwise)")
    add("--device", help="cpu, cuda, … (default: a GPU if there is one)")


def run(options: argparse.Namespace) -> int:
    """Evaluate what is not evaluated yet, and write the page.

    Raises:
        InputError: an input, the data or the output path cannot be used.
        RunError: an evaluation scored nothing, or the page could not be written.
    """
    out: Path = options.out
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: must be a file called .html in a folder that is there")
    if options.names is not None and len(options.names) != len(options.inputs):
        raise InputError(f"--names: {len(options.names)} names for {len(options.inputs)} models")
    inputs = [_input(path) for path in options.inputs]
    names = options.names or short_names(inputs)
    found = evaluate.open_rows(_evaluation(options, []))
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        folder: Path = options.save_scores or Path(scratch)
        models = [
            _load(_scored(path, options, folder / f"{i + 1}"), name, found, options.data)
            for i, (path, name) in enumerate(zip(inputs, names, strict=True))
        ]
        shown = _chosen(models, found, options.images, options.data)
        unfinished = out.with_name(out.name + ".part")
        try:
            count = write_page(
                unfinished,
                [each.model for each in models],
                _cards(models, shown, found),
                title=options.title,
                titles=_titles(options.data, found),
                draws=options.draws,
            )
            os.replace(unfinished, out)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise RunError(f"{out} cannot be written: {error.strerror}") from error
    print(f"written: {out} ({count} images, {out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _input(path: Path) -> Path:
    """A summary's JSON, or the file of a checkpoint. Raises InputError where there is neither."""
    if path.suffix.lower() in (".json", ".csv") and path.is_file():
        return path.with_suffix(".json")
    return find_checkpoint(path)


def _evaluation(options: argparse.Namespace, more: Sequence[str]) -> Options:
    """The options of an evaluation of ``options.data``; ``more`` are arguments before it."""
    arguments = ["--input_resize", options.input_resize, "-b", options.batch_size, "-j", options.workers]
    for name in _PASSED:
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", value]
    arguments += ["--bootstrap", options.draws]
    if options.metrics is not None:
        arguments += ["--metrics", ",".join(options.metrics)]
    return parse([*map(str, arguments), *more, "--", str(options.data)], _PRESET)


def _scored(path: Path, options: argparse.Namespace, place: Path) -> Path:
    """The summary of an input, evaluated now where it is a checkpoint."""
    if path.suffix.lower() == ".json":
        return path
    out = place.with_suffix(".json")
    print(f"evaluating {path} …", flush=True)
    more = ["--resume", str(path), "--out", str(out), "--save-maps", str(place)]
    evaluate.run(_evaluation(options, more), _PRESET)
    return out


def _load(path: Path, name: str, found: BoxedImages, data: Path) -> _Evaluated:
    summary = read_summary(path)
    scores = read_scores(path.with_suffix(".csv"))
    settings: Mapping[str, Any] = summary["settings"]
    checkpoint = settings.get("checkpoint")
    curves = read_curves(Path(checkpoint).parent / "metrics.csv") if checkpoint else {}
    model = Model(name, scores, summary, read_predictions(path.with_suffix(".csv")), curves)
    folder = _map_folder(path, settings)
    if folder is None:
        print(f"{path}: no maps (evaluate --save-maps keeps them), so none are shown", file=sys.stderr)
    classes = {*found.classes, *(image.category for image in found.images if image.category)}
    maps = StoredMaps(folder, data, stretch=True, classes=classes) if folder is not None else None
    return _Evaluated(model, {key: i for i, key in enumerate(scores.keys)}, maps)


def _map_folder(summary: Path, settings: Mapping[str, Any]) -> Path | None:
    """Where the maps are now: as they were named, or beside the summary."""
    for name in (settings.get("save_maps"), settings.get("maps")):
        for place in (Path(name), summary.parent / Path(name).name) if name else ():
            if place.is_dir():
                return place
    return None


def _key(image: BoxedImage, found: BoxedImages, data: Path) -> Key:
    """As the evaluation names a row in its CSV."""
    path = image.path.relative_to(data).as_posix() if image.path.is_relative_to(data) else str(image.path)
    texts = (path, found.name(image))
    path, name = (text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts)
    return path, name


def _chosen(
    models: Sequence[_Evaluated], found: BoxedImages, count: int, data: Path
) -> list[tuple[Key, BoxedImage]]:
    """``count`` rows that every model has, evenly spread over the data.

    Raises InputError where the score files are not of this data.
    """
    rows = [(_key(image, found, data), image) for image in found.images]
    known = [(key, image) for key, image in rows if all(key in each.rows for each in models)]
    if not known:
        raise InputError(f"--data {data}: not one of its images stands in the scores of every model")
    if count >= len(known):
        return known
    return [known[i] for i in np.linspace(0, len(known) - 1, count).round().astype(int).tolist()]


def _cards(
    models: Sequence[_Evaluated], shown: Sequence[tuple[Key, BoxedImage]], found: BoxedImages
) -> Iterator[Card]:
    """Cards as they are wanted, one image in memory; an image that cannot be read any more is left out and named."""
    for key, row in shown:
        try:
            image = decode_rgb(row.path)
            mask = row.mask.decode() if row.mask is not None else None
        except (UnreadableImage, ValueError, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        spoken = []
        for each in models:
            try:
                name = found.name(row)
                map_hw = each.maps.load(row.path, name, row.size) if each.maps is not None else None
            except MapProblem:
                map_hw = None
            spoken.append(said(each.model, each.rows[key], map_hw))
        yield Card(*key, image, row.boxes, mask, tuple(spoken))


def _titles(data: Path, found: BoxedImages) -> dict[str, str]:
    """Words for WordNet ids where the data brings them along, as tiny-imagenet does (``words.txt``)."""
    try:
        lines = (data / "words.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    first = {name: words[name].split(",")[0].strip() for name in found.classes if name in words}
    return {
        name: word if list(first.values()).count(word) == 1 else f"{word} ({name})"
        for name, word in first.items()
    }


if __name__ == "__main__":
    sys.exit(main())
