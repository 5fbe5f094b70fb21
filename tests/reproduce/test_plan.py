"""What a run would do: which jobs, what they share, and which of them are done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cgc.commands.run_folders import AUTO
from cgc.commands.train_options import parse
from cgc.commands.train_presets import PRESETS
from cgc.errors import InputError
from cgc.reproduce import plan as plans
from cgc.reproduce.model import Row, Table
from cgc.reproduce.plan import Job, Plan, Settings, filled_in, inputs_of
from cgc.reproduce.scale import FULL, TINY, tiny_words
from cgc.reproduce.tables import TABLES


def a_plan(out: Path, table: str = "cgc-imagenet", rows: tuple[str, ...] = (), **options: Any) -> Plan:
    chosen = TABLES[table]
    seeds = options.pop("seeds", [0])
    inputs = {need.name: str(out / "in" / need.name) for need in chosen.inputs}
    wanted = [row for row in chosen.rows if not rows or row.name in rows]
    return Plan(chosen, wanted, seeds, Settings(out, inputs, **options))


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def record(job: Job, *, finished: bool = True, words: list[str] | None = None) -> None:
    write(job.record, {"words": job.same_work() if words is None else words, "finished": finished})


def test_rows_of_all_tables_share_a_training(tmp_path: Path) -> None:
    folders = {
        table: {job.folder for job in a_plan(tmp_path, table, ("cgc",)).jobs if job.kind == "train"}
        for table in ("cgc-imagenet", "iauc", "unrel", "explainers")
    }
    assert len(set.union(*folders.values())) == 1
    iauc = a_plan(tmp_path, "iauc", scale=TINY)
    trained = [job.folder.name for job in iauc.jobs if job.kind == "train"]
    assert trained == ["imagenet-resnet50-baseline-seed0", "imagenet-resnet50-cgc-seed0"], (
        "rise's is baseline's"
    )


def test_a_row_of_published_weights_trains_nothing_at_full_scale(tmp_path: Path) -> None:
    (job,) = a_plan(tmp_path, "iauc", ("rise",)).jobs
    assert job.kind == "evaluate"
    assert "--pretrained" in job.words
    assert "--resume" not in job.words
    assert [job.kind for job in a_plan(tmp_path, "iauc", ("rise",), scale=TINY).jobs] == ["train", "evaluate"]


def test_all_rows_of_a_seed_come_before_the_next_seed(tmp_path: Path) -> None:
    jobs = a_plan(tmp_path, rows=("baseline", "cgc"), seeds=[0, 1]).jobs
    assert [job.title.rpartition(" ")[2] for job in jobs] == ["0"] * 4 + ["1"] * 4
    assert len({job.folder for job in jobs}) == 8


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        (None, []),
        (1, ["--negatives", "local", "--accumulate", "4"]),
        (2, ["--negatives", "local", "--accumulate", "2"]),
        (4, ["--negatives", "local"]),
        (8, []),
        (3, []),
    ],
)
def test_the_published_parts_of_a_batch_are_kept(tmp_path: Path, gpus: int | None, words: list[str]) -> None:
    jobs = a_plan(tmp_path, rows=("baseline", "cgc"), gpus=gpus).jobs
    plain, contrast = (job for job in jobs if job.kind == "train")
    added = [word for word in contrast.words if word in ("--negatives", "--accumulate", "local", "2", "4")]
    assert added == words
    assert "--negatives" not in plain.words
    assert {job.processes for job in jobs} == {max(gpus or 1, 1)}


def test_words_are_filled_in_once_and_paths_with_them() -> None:
    places = {"DATA": "/the DATA/x", "WORK": "DATA"}
    assert filled_in(["DATA", "WORK/a", "DATABASE", "x/DATA"], places) == (
        "/the DATA/x", "DATA/a", "DATABASE", "x/DATA",
    )  # fmt: skip


def test_tiny_words_leave_out_what_speaks_of_the_published_data() -> None:
    words = tiny_words(
        ["train_eval_cgc.py", "D", "--dataset", "cub", "--pretrained", "--lr", "0.01"], "--lr 3"
    )
    assert words[:4] == ["train_eval_cgc.py", "D", "--lr", "0.01"]
    assert words[-2:] == ["--lr", "3"]
    assert "--dataset" not in words
    assert "--dataset" in tiny_words(["cgc", "evaluate", "D", "--dataset", "unrel"], "")


def test_inputs_are_those_that_the_rows_name() -> None:
    def names(table: Table, *rows: str, scale: str = FULL) -> list[str]:
        return [each.name for each in inputs_of(table, _rows(table, rows), scale)]

    assert names(TABLES["cgc-finegrained"], "cars-cgc") == ["CARS"]
    assert names(TABLES["cgc-1pct"], "cgc") == ["DATA", "SWAV", "LIST"]
    assert names(TABLES["cgc-1pct"], "cgc", scale=TINY) == ["DATA", "SWAV"]


def _rows(table: Table, names: tuple[str, ...]) -> list[Row]:
    return [row for row in table.rows if row.name in names]


def test_a_training_is_done_when_its_result_says_so(tmp_path: Path) -> None:
    job = a_plan(tmp_path, rows=("cgc",)).jobs[0]
    assert not job.is_done()
    record(job, finished=False)
    for content, done in (({"completed": False}, False), ({"completed": True}, True), ([], False)):
        write(job.product, content)
        assert job.is_done() == done
    job.product.write_text('{"completed": tr')
    assert not job.is_done()


def test_a_training_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    job = a_plan(tmp_path, "cgc-1pct", ("baseline",)).jobs[1]
    assert job.kind == "train"
    assert "--new-head" in job.words
    options = parse(job.words[1:], PRESETS["cgc"])
    assert (options.init, options.resume) == (tmp_path / "in" / "SWAV", AUTO)
    assert not job.has_begun()
    write(job.folder / "args.json", {})
    assert not job.has_begun()
    (job.folder / "checkpoint_001_step000004.pth.tar").touch()
    assert job.has_begun()


def test_an_evaluation_is_done_when_it_is_younger_than_its_checkpoint(tmp_path: Path) -> None:
    job = a_plan(tmp_path, rows=("cgc",)).jobs[1]
    assert job.kind == "evaluate"
    assert job.after is not None
    write(job.product, {})
    record(job)
    assert not job.is_done(), "there is no checkpoint"
    write(job.after, {})
    for checkpoint, done in ((1, True), (3, False), (2, True)):
        os.utime(job.after, (checkpoint, checkpoint))
        os.utime(job.product, (2, 2))
        assert job.is_done() == done
    record(job, words=["something else"])
    assert not job.is_done(), "scores of another command are made anew"


def test_a_preparation_is_done_when_it_ended(tmp_path: Path) -> None:
    job = a_plan(tmp_path, "sgc-imagenet100").jobs[0]
    assert job.kind == "prepare"
    job.product.mkdir(parents=True)
    record(job, finished=False)
    assert not job.is_done()
    record(job)
    assert job.is_done()
    job.product.rmdir()
    assert not job.is_done()
    labels = a_plan(tmp_path, "cgc-1pct").jobs[0]
    assert not labels.is_done()
    labels.product.mkdir(parents=True)
    assert labels.is_done(), "it takes its name when it is complete, perhaps just before a crash"


def test_what_another_command_made_is_refused(tmp_path: Path) -> None:
    job = a_plan(tmp_path, rows=("cgc",)).jobs[0]
    record(job)
    assert not a_plan(tmp_path, rows=("cgc",), scale=TINY).jobs[0].is_done(), "a try that left nothing"
    (job.folder / "checkpoint_001.pth.tar").touch()
    for options in ({"workers": 3}, {"device": "cpu"}, {"gpus": 0}, {"gpus": 1}, {"gpus": 4}):
        assert not a_plan(tmp_path, rows=("cgc",), **options).jobs[0].is_done(), "the machine may be another"
    for options in ({"scale": TINY}, {"extra": ["--amp", "bf16"]}):
        with pytest.raises(InputError, match="made by another command"):
            a_plan(tmp_path, rows=("cgc",), **options).jobs[0].is_done()


def test_scores_whose_package_is_missing_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        return None if name in ("captum", "pycocotools") else object()

    monkeypatch.setattr(plans, "find_spec", missing)
    names = [job.name for job in a_plan(tmp_path, "explainers", ("gc",)).jobs]
    assert "layercam" in names
    assert "guided-backprop" not in names
    assert [job.kind for job in a_plan(tmp_path, "gc-coco", ("gc",)).jobs] == ["prepare", "train"]
    tiny = [job.name for job in a_plan(tmp_path, "gc-coco", ("gc",), scale=TINY).jobs]
    assert tiny == ["negatives", "train", "masks", "stochastic"], "its regions are boxes"
