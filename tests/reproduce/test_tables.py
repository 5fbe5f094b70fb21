"""The tables say what was published, and every command of theirs is one that its program takes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cgc.__main__ import COMMANDS
from cgc.commands import evaluate_options, evaluate_presets, extract_negatives, train_options, train_presets
from cgc.commands.reproduce_script import NEGATIVES
from cgc.errors import InputError
from cgc.reproduce.model import TOP1, Row
from cgc.reproduce.plan import Job, Plan, Settings
from cgc.reproduce.scale import FULL, SCALES, TINY
from cgc.reproduce.tables import TABLES, table_called

ROOT = Path(__file__).parents[2]
TRAINING = {preset.prog: preset for preset in train_presets.PRESETS.values()}
EVALUATION = {preset.prog: preset for preset in evaluate_presets.PRESETS.values()}

# As the project's sources state them: README of GC, benchmark page of CGC, RISE's paper.
GC = """
alexnet-baseline 56.51/72.80/53.45/45.78   alexnet-gc 56.16/73.70/61.15/48.10
resnet18-baseline 69.43/79.80/60.50/54.36  resnet18-gc 67.74/80.00/65.85/57.73
resnet18-gmp 69.08/79.30/66.66/62.89       resnet18-gmp-gc 69.02/79.60/68.74/65.35
resnet50-baseline 76.13/80.00/60.95/54.78  resnet50-gc 74.40/80.30/65.26/59.42
resnet50-gmp 74.63/79.80/66.29/54.23       resnet50-gmp-gc 74.14/79.60/69.51/59.70
"""
OTHERS = {
    ("cgc-imagenet", "cgc"): {"CH": 71.75},
    ("cgc-finegrained", "cub-cgc"): {"top-1": 81.49},
    ("cgc-finegrained", "aircraft-cgc"): {"top-1": 85.72},
    ("cgc-finegrained", "cars-cgc"): {"top-1": 90.28},
    ("cgc-finegrained", "flowers-cgc"): {"top-1": 96.18},
    ("unrel", "cgc"): {"CH": 74.2, "top-1": 38.25},
    ("iauc", "rise"): {"insertion": 100 * 0.7719, "deletion": 100 * 0.1048},
}


def plan_of(name: str, scale: str = FULL, **settings: Any) -> Plan:
    table = TABLES[name]
    inputs = {need.name: f"/in/{need.name.lower()}" for need in table.inputs} | {"DATA": "/in/data"}
    return Plan(table, table.rows, [3], Settings(Path("/out"), inputs, scale, **settings))


def parsed(job: Job) -> Any:
    """What the program itself makes of a job's words; a wrong option would end the test."""
    script, *rest = job.words
    if script == "cgc":
        module = importlib.import_module(COMMANDS[rest[0]][0])
        if rest[0] == "evaluate":
            return evaluate_options.parse(rest[1:], evaluate_presets.PRESETS["evaluate"])
        return module.build_parser().parse_args(rest[1:])
    assert (ROOT / script).is_file()
    if script in TRAINING:
        return train_options.parse(rest, TRAINING[script])
    if script in EVALUATION:
        return evaluate_options.parse(rest, EVALUATION[script])
    assert script == NEGATIVES
    return extract_negatives.build_parser().parse_args(rest)


def rows() -> list[Any]:
    return [pytest.param(t, row, id=f"{t}-{row.name}") for t in TABLES for row in TABLES[t].rows]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TABLES)
def test_every_command_is_one_that_its_program_takes(name: str, scale: str) -> None:
    plan = plan_of(name, scale, workers=2, device="cpu", gpus=1)
    known = {need.name for need in plan.table.inputs} | {"WORK", "RUN", "SEED", "MODEL"}
    for job in plan.jobs:
        parsed(job)
        left = [word for word in job.words if word.partition("/")[0] in known]
        assert not left, f"not filled in: {left}"


@pytest.mark.parametrize("name", TABLES)
def test_what_is_made_is_where_the_next_command_looks(name: str) -> None:
    """Trainings write where the engine waits for them, evaluations score what they left."""
    plan = plan_of(name)
    trained: dict[Path, Any] = {}
    for job in plan.jobs:
        options = parsed(job)
        if job.kind == "train":
            assert options.save_dir == job.folder
            assert options.seed == 3
            trained[job.folder] = options
        elif job.kind == "evaluate":
            assert options.out == job.product
            if options.checkpoint is None:
                assert options.pretrained
                continue
            assert options.checkpoint == job.after
            training = trained[options.checkpoint.parent]
            assert options.checkpoint.name == f"checkpoint_{training.epochs:03d}.pth.tar"
            assert (options.arch, options.maxpool) == (training.arch, training.maxpool)
        else:
            assert job.product.is_relative_to(plan.work)


@pytest.mark.parametrize("name", TABLES)
def test_the_tiny_scale_is_tiny_and_otherwise_the_same(name: str) -> None:
    tiny = {job.title: job for job in plan_of(name, TINY).jobs}
    for full in plan_of(name).jobs:
        assert full.title in tiny
        if full.kind != "train":
            continue
        one, other = parsed(full), parsed(tiny[full.title])
        kept = ("method", "weight", "temperature", "maxpool", "map_floor", "unlabelled", "saliency", "data")
        assert {k: getattr(one, k) for k in kept if k != "weight" or one.method != "l2"} == {
            k: getattr(other, k) for k in kept if k != "weight" or one.method != "l2"
        }
        assert (other.arch, other.image_size, other.pretrained) == ("resnet_tiny", 64, False)
        assert other.epochs <= 6
        assert other.dataset is None


def test_published_numbers() -> None:
    words = GC.split()
    stated = dict(zip(words[::2], words[1::2], strict=True))
    assert {row.name for row in TABLES["gc-imagenet"].rows} == set(stated)
    for row in TABLES["gc-imagenet"].rows:
        numbers = dict(
            zip(("top-1", "PG", "SPG", "CH"), map(float, stated[row.name].split("/")), strict=True)
        )
        assert row.published == numbers
        assert "GC" in row.source
    found = {(t, row.name): row.published for t in TABLES for row in TABLES[t].rows if row.published}
    found = {key: numbers for key, numbers in found.items() if key[0] != "gc-imagenet"}
    assert found.keys() == OTHERS.keys(), "all else is unpublished"
    for key, numbers in OTHERS.items():
        assert found[key] == pytest.approx(numbers)


@pytest.mark.parametrize(("name", "row"), rows())
def test_a_published_number_has_a_source_and_something_to_stand_beside(name: str, row: Row) -> None:
    assert bool(row.published) == bool(row.source)
    measured = {*row.training.scores, *(title for each in row.evaluations for title in each.scores)}
    assert set(row.published) <= measured
    assert name in TABLES


def training(table: str, row: str) -> Any:
    plan = plan_of(table)
    found = next(each for each in plan.rows if each.name == row)
    return parsed(plan.training(found.training, 0))


def test_published_options_of_cgc() -> None:
    found = training("cgc-imagenet", "cgc")
    assert (found.arch, found.batch_size, found.lr, found.momentum) == ("resnet50", 256, 0.1, 0.9)
    assert (found.weight_decay, found.epochs, found.schedule) == (1e-4, 90, "step")
    assert (found.method, found.weight, found.temperature, found.map_floor) == ("cgc", 0.5, 0.5, 0)
    assert training("cgc-imagenet", "cgc-floor").map_floor > 0


def test_published_options_of_one_percent() -> None:
    for table, row, weight in (("cgc-1pct", "cgc", 0.25), ("sgc-1pct", "sgc", 0.5)):
        found = training(table, row)
        assert (found.lr, found.lr_last_layer, found.momentum, found.weight_decay) == (0.02, 5, 0.9, 0)
        assert (found.decay_epochs, found.gamma, found.epochs, found.batch_size) == ([12, 16], 0.2, 50, 128)
        assert (found.weight, found.temperature, found.schedule) == (weight, 0.5, "multistep")
        assert found.unlabelled == Path(f"/out/{table}/labels/unlabeled")
        assert training(table, "baseline").unlabelled is None


def test_published_options_of_gc() -> None:
    for row in TABLES["gc-imagenet"].rows:
        found = training("gc-imagenet", row.name)
        assert (found.batch_size, found.lr, found.epochs) == (256, 0.1, 90)
        assert found.weight == (25 if row.name.endswith("gc") else 0)
        assert found.maxpool == ("gmp" in row.name)
    found = training("gc-coco", "gc")
    assert (found.weight, found.lr, found.weight_decay, found.epochs) == (1, 0.01, 5e-4, 36)
    assert (found.decay_epochs, found.multi_label) == ([24, 30], True)


@pytest.mark.parametrize(("arch", "batch"), [("resnet50", 192), ("resnet18", 256)])
def test_published_options_of_sgc(arch: str, batch: int) -> None:
    found = training("sgc-imagenet100", f"{arch}-sgc")
    assert (found.arch, found.batch_size, found.lr, found.epochs) == (arch, batch, 0.01, 200)
    assert (found.method, found.weight, found.temperature) == ("sgc", 0.5, 0.5)


def test_evaluations_see_images_as_published() -> None:
    sides = {"sgc-imagenet100": 224, "sgc-1pct": 224}
    for name in TABLES:
        for job in plan_of(name).jobs:
            if job.kind == "evaluate":
                assert parsed(job).input_resize == sides.get(name, 448)


def test_top1_is_that_of_validation_but_on_unrel() -> None:
    scored: dict[str, Sequence[Row]] = {name: TABLES[name].rows for name in TABLES}
    for name, found in scored.items():
        by_evaluator = any(TOP1 in each.scores for row in found for each in row.evaluations)
        assert by_evaluator == (name == "unrel")


def test_tables_that_share_a_training_share_its_command() -> None:
    lines: dict[str, str] = {}
    for name in TABLES:
        for row in TABLES[name].rows:
            assert lines.setdefault(row.training.name, row.training.line) == row.training.line
    assert len(lines) < sum(len(TABLES[name].rows) for name in TABLES)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(InputError, match="no table 'cgc'; there are: cgc-imagenet"):
        table_called("cgc")
