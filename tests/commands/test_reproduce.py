"""`python -m cgc reproduce`: what it lists and shows, how it refuses, and runs of whole tables at the tiny scale."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgc.commands import reproduce
from cgc.commands.reproduce_script import main as run_script
from cgc.commands.reproduce_script import program
from cgc.errors import InputError
from cgc.reproduce.chain import Interrupted
from cgc.reproduce.plan import Job
from cgc.reproduce.tables import TABLES
from tests.commands.runs import error_line, rows, signal_after
from tests.data.images import save_photograph

ROOT = Path(__file__).parents[2]
TINY = ["--scale", "tiny", "--device", "cpu", "--per-class", "4", "--held-out", "2"]


def test_list_names_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["list"]) == 0
    said = capsys.readouterr().out
    for name, table in TABLES.items():
        assert f"{table.title}; {len(table.rows)} rows" in next(
            line for line in said.splitlines() if line.startswith(f"{name} ")
        )


@pytest.mark.parametrize("name", TABLES)
def test_show_says_everything(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["show", name]) == 0
    said = capsys.readouterr().out
    table = TABLES[name]
    for need in table.inputs:
        assert need.what in said
    for row in table.rows:
        assert f"  {row.name}: {row.title}" in said
        for score, value in row.published.items():
            assert f"{score} {value:g}" in said
            assert row.source in said
        assert all(line in said for line in row.training.ours if not row.pretrained)
    predicted = [float(line.split()[1]) for line in said.splitlines() if line.startswith("    predicted")]
    assert len(predicted) == sum(not row.pretrained for row in table.rows)
    assert all(hours >= 0 for hours in predicted)
    assert "prediction, not a measurement: 1 × NVIDIA H200" in said


def test_show_at_the_tiny_scale_predicts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["show", "cgc-imagenet", "--scale", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "resnet_tiny" in said
    assert "predict" not in said


def test_hours_are_those_of_the_model_of_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/performance.md has 32.0 hours of CGC and 10.8 of the baseline, by the same model."""
    assert reproduce.main(["show", "cgc-imagenet"]) == 0
    said = capsys.readouterr().out
    assert "predicted   32.0 GPU hours" in said
    assert "predicted   10.8 GPU hours" in said
    assert reproduce.main(["show", "cgc-imagenet", "--decode-ms", "200"]) == 0
    assert "predicted   32.0 GPU hours" not in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    try:
        status = reproduce.main([str(word) for word in words])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else -1
    assert status == 2
    return error_line(capsys.readouterr().err)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", tmp_path / "file"
    file.touch()
    run = ["run", "gc-imagenet", "--out", out]
    assert "no table 'gc'" in refused(capsys, "show", "gc")
    assert "needs --data DIR: ImageNet" in refused(capsys, *run)
    assert "DATA: no file or folder" in refused(capsys, *run, "--data", tmp_path / "nowhere")
    assert "no row 'vgg'" in refused(capsys, *run, "--data", tmp_path, "--rows", "vgg")
    few = ["run", "cgc-1pct", "--out", out, "--data", tmp_path]
    assert "needs --with SWAV=PATH" in refused(capsys, *few)
    assert "--with SWAV:" in refused(capsys, *few, "--with", "SWAV")
    assert "--with X=y:" in refused(capsys, *few, "--with", "X=y")
    assert "SWAV: no file or folder" in refused(capsys, *few, "--with", f"SWAV={tmp_path / 'nowhere'}")
    assert "CARS: no file or folder" in refused(
        capsys, "run", "cgc-finegrained", "--rows", "cars-cgc", "--out", out, "--data", tmp_path
    )
    assert "required" in refused(capsys, "run", "gc-imagenet")
    assert "--seeds" in refused(capsys, *run, "--data", tmp_path, "--seeds", "0")
    assert not out.exists()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").touch()
    assert reproduce.main(["run", "cgc-imagenet", "--out", str(tmp_path / "out"), *TINY]) == 1
    error_line(capsys.readouterr().err, "failed")


def test_a_dry_run_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["run", "sgc-1pct", "--out", str(out), "--scale", "tiny", "--num-gpus", "2", "--dry-run"]
    assert reproduce.main([*words, "--", "--amp", "bf16"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert not out.exists()
    assert said[0] == "# prepare labels"
    trainings = [line for line in said if "train_" in line]
    assert len(trainings) == 2
    for line in trainings:
        assert line.startswith("torchrun --standalone --nproc_per_node=2 train_")
        assert line.endswith("--amp bf16")


@pytest.mark.parametrize("word", [["--resume", "x.pth"], ["--resume=x.pth"]])
def test_what_trainings_go_on_from_is_not_for_the_user_to_say(
    word: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        reproduce.main(["run", "cgc-imagenet", "--out", str(tmp_path), "--scale", "tiny", "--", *word])
    assert end.value.code == 2
    assert "--resume after --" in capsys.readouterr().err


def in_process(job: Job, log: Path) -> int:
    """Every program as a function, for tests that have no time to start processes."""
    script, *rest = job.words
    log.touch()
    if script != "cgc":
        return program(script)(rest)
    from cgc.__main__ import main

    return main(rest)


def table_of(out: Path, name: str) -> list[dict[str, Any]]:
    content = json.loads((out / name / "table.json").read_text())
    assert content["comparable"] is False
    found = content["entries"]
    assert isinstance(found, list)
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, plain_panels: None) -> None:
    monkeypatch.setattr(reproduce, "run_process", in_process)


def stopping_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Callable[[Job, Path], int]:
    """SIGINT in a training's step, handed on as a process would hand it on."""
    signal_after(monkeypatch, steps)

    def execute(job: Job, log: Path) -> int:
        status = in_process(job, log)
        if status == 130:
            raise Interrupted(signal.SIGINT)
        return status

    return execute


def test_a_table_stopped_in_the_middle_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """24 images in batches of 8: three steps an epoch; the second training is stopped in its second epoch."""
    small = [*TINY, "--rows", "baseline", "cgc", "--", "-b", "8", "--epochs", "2", "--image-size", "32"]
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(reproduce, "run_process", stopping_after(patch, 6 + 4))
        assert reproduce.main(["run", "cgc-imagenet", "--out", str(parts), *small]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [entry["mean"] is None for entry in table_of(parts, "cgc-imagenet")] == [False, False, True, True]
    assert reproduce.main(["run", "cgc-imagenet", "--out", str(parts), *small]) == 0
    said = capsys.readouterr().out
    assert "[1/4] train imagenet-resnet50-baseline, seed 0: done already" in said
    assert "[3/4] train imagenet-resnet50-cgc, seed 0: goes on, " in said
    alone = [word for word in small if word != "baseline"]
    assert reproduce.main(["run", "cgc-imagenet", "--out", str(whole), *alone]) == 0
    assert table_of(parts, "cgc-imagenet")[2:] == table_of(whole, "cgc-imagenet")
    run = "runs/imagenet-resnet50-cgc-seed0"
    assert rows(parts / run) == rows(whole / run)
    capsys.readouterr()
    monkeypatch.setattr(reproduce, "run_process", lambda job, log: pytest.fail(job.title))
    assert reproduce.main(["run", "cgc-imagenet", "--out", str(parts), *small]) == 0
    said = capsys.readouterr().out
    assert said.count("done already") == 4
    assert "NOT comparable" in said
    entries = {(e["row"], e["score"]): e for e in table_of(parts, "cgc-imagenet")}
    published = entries["cgc", "CH"]
    assert (published["published"], published["difference"]) == (71.75, None)
    low, high = (published["measured"][0][side] for side in ("low", "high"))
    assert low <= published["mean"] <= high
    assert "made by another command" in refused(
        capsys, "run", "cgc-imagenet", "--out", parts, *small, "--lr", "0.3"
    )


def test_a_step_that_fails_ends_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(job: Job, log: Path) -> int:
        log.write_text("failed: out of memory\n")
        return 1

    monkeypatch.setattr(reproduce, "run_process", fails)
    assert reproduce.main(["run", "cgc-imagenet", "--out", str(tmp_path), *TINY]) == 1
    said = error_line(capsys.readouterr().err, "failed")
    assert "out of memory" in said
    assert str(tmp_path / "runs" / "imagenet-resnet50-baseline-seed0" / "train.log") in said


def test_scripts_of_an_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    for table in TABLES.values():
        for row in table.rows:
            for command in (row.training, *row.evaluations):
                script = command.line.split()[0]
                assert script == "cgc" or callable(program(script))
    with pytest.raises(InputError):
        program("nothing.py")
    assert run_script([]) == 2
    with pytest.raises(SystemExit) as ended:
        run_script(["train_gcam_grid_consistency.py", "--help"])
    assert ended.value.code == 0
    assert "usage: train_gcam_grid_consistency.py" in capsys.readouterr().out


def own_data(root: Path) -> Path:
    """A user's folder: two classes, and boxes beside the validation images."""
    for k in range(40):
        save_photograph(root / "train" / ("cat", "dog")[k % 2] / f"{k}.png", 70, 64, k)
    for k in range(8):
        name = ("cat", "dog")[k % 2]
        save_photograph(root / "val" / name / f"v{k}.png", 70, 64, 100 + k)
        box = "<xmin>5</xmin><ymin>5</ymin><xmax>50</xmax><ymax>50</ymax>"
        (root / "annotation").mkdir(exist_ok=True)
        (root / "annotation" / f"v{k}.xml").write_text(
            f"<annotation><size><width>70</width><height>64</height></size><object><name>{name}</name>"
            f"<bndbox>{box}</bndbox></object></annotation>"
        )
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_table_runs_at_the_tiny_scale(
    name: str, tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    small = [*TINY, "--", "-b", "8", "--epochs", "1"]
    assert reproduce.main(["run", name, "--out", str(out), *small]) == 0
    entries = table_of(out, name)
    assert {entry["row"] for entry in entries} == {row.name for row in TABLES[name].rows}
    for entry in entries:
        assert entry["measured"], f"{entry['row']}: no {entry['score']}"
        assert 0 <= entry["mean"] <= 100
    assert (out / name / "table.md").read_text().count("| ") > len(entries)


@pytest.mark.slow
def test_own_images_at_the_tiny_scale(tmp_path: Path, quick: None) -> None:
    data, out = own_data(tmp_path / "data"), tmp_path / "out"
    words = [
        "run",
        "sgc-imagenet100",
        "--data",
        str(data),
        "--out",
        str(out),
        "--scale",
        "tiny",
        "--device",
        "cpu",
    ]
    assert reproduce.main([*words, "--rows", "resnet18-sgc", "--", "--epochs", "1", "-b", "8"]) == 0
    assert all(entry["measured"] for entry in table_of(out, "sgc-imagenet100"))


@pytest.mark.slow
def test_as_processes_stopped_by_a_signal(tmp_path: Path) -> None:
    """The command as users start it: SIGINT to it alone, in the middle of a training; the same command then ends it."""
    words = [sys.executable, "-m", "cgc", "reproduce", "run", "cgc-imagenet", "--rows", "cgc"]
    words += ["--out", str(tmp_path / "out"), *TINY, "--", "-b", "2", "--epochs", "5"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    run = tmp_path / "out" / "runs" / "imagenet-resnet50-cgc-seed0"
    for _ in range(3000):
        if (run / "checkpoint_001.pth.tar").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said + (run / "train.log").read_text()
    assert not json.loads((run / "result.json").read_text())["completed"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 0: goes on, " in done.stdout
    assert "resuming " in (run / "train.log").read_text()
    assert json.loads((run / "result.json").read_text())["completed"]
