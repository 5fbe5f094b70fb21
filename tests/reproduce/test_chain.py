"""Running jobs: what is skipped, what a failure says, and how signals reach a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgc.errors import RunError
from cgc.reproduce import chain
from cgc.reproduce.chain import Interrupted, command_line, last_line, run_plan, run_process
from cgc.reproduce.plan import Job, Plan
from tests.reproduce.test_plan import a_plan, write


def make(job: Job, log: Path) -> int:
    """Stands for every program: leaves what a finished one leaves."""
    log.write_text("some words\n")
    if job.kind == "train":
        write(job.product, {"completed": True, "val_top1": 50.0})
        write(job.folder / "checkpoint_090.pth.tar", "")
    else:
        write(job.product, {"scores": {"ch": {"model": 0.5}}, "intervals": {"ch": [0.4, 0.6]}})
    return 0


def run(plan: Plan, execute: Callable[[Job, Path], int]) -> tuple[list[str], int]:
    """What was said, and how often scores were collected."""
    said: list[str] = []
    collected: list[None] = []
    run_plan(plan, said.append, lambda: collected.append(None), execute)
    return said, len(collected)


def test_everything_runs_once_in_order(tmp_path: Path) -> None:
    plan, seen = a_plan(tmp_path, rows=("baseline", "cgc")), []

    def execute(job: Job, log: Path) -> int:
        seen.append(job)
        return make(job, log)

    said, collected = run(plan, execute)
    assert seen == plan.jobs
    assert collected == 4
    assert [line.partition(" ")[0] for line in said] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    again, _ = run(plan, lambda job, log: pytest.fail(f"{job.title} ran again"))
    assert all(line.endswith("done already") for line in again)


def test_scores_are_made_anew_after_the_training(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, rows=("cgc",))
    run(plan, make)
    training, evaluation = plan.jobs
    for path in training.folder.iterdir():
        path.unlink()
    training.record.unlink(missing_ok=True)
    os.utime(evaluation.product, (1, 1))
    seen = []

    def execute(job: Job, log: Path) -> int:
        seen.append(job.kind)
        return make(job, log)

    run(plan, execute)
    assert seen == ["train", "evaluate"]


def test_a_failure_names_its_log_and_is_taken_up_again(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, rows=("baseline", "cgc"))

    def fails(job: Job, log: Path) -> int:
        if job is plan.jobs[2]:
            log.write_text("epoch 1\n\nerror: no space\n")
            return 3
        return make(job, log)

    with pytest.raises(RunError) as failure:
        run(plan, fails)
    assert "status 3: error: no space" in str(failure.value)
    assert str(plan.jobs[2].log) in str(failure.value)
    seen = []

    def execute(job: Job, log: Path) -> int:
        seen.append(job)
        return make(job, log)

    run(plan, execute)
    assert seen == plan.jobs[2:]


def test_a_program_that_leaves_nothing_has_failed(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, rows=("cgc",))
    with pytest.raises(RunError, match="ended with status 0"):
        run(plan, lambda job, log: 0)


def test_what_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripts = command_line(["train_eval_cgc.py", "D"])
    assert scripts == [sys.executable, str(chain.ROOT / "train_eval_cgc.py"), "D"]
    assert command_line(["cgc", "evaluate"]) == [sys.executable, "-m", "cgc", "evaluate"]
    several = command_line(["cgc", "evaluate"], 3)
    assert several[1:] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=3",
        "-m",
        "cgc",
        "evaluate",
    ]
    monkeypatch.setattr(chain, "ROOT", tmp_path)  # an installed package has no scripts beside it
    assert command_line(["train_eval_cgc.py", "D"])[1:] == [
        "-m", "cgc.commands.reproduce_script", "train_eval_cgc.py", "D",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "last"),
    [("", ""), ("a\nb\n\n", "b"), ("10%\r20%\r", "20%"), ("é" * 5000 + "\nend", "end")],
)
def test_the_last_line_of_a_log(tmp_path: Path, text: str, last: str) -> None:
    path = tmp_path / "log"
    path.write_text(text, newline="")
    assert last_line(path) == last


SAVES = """
import os, signal, sys, time
def save(number, frame):
    came.append(number)
    print("saving", len(came), flush=True)
came = []
signal.signal(signal.SIGINT, save); signal.signal(signal.SIGTERM, save)
print("session", os.getsid(0), "ready", flush=True)
while not came: time.sleep(0.01)
time.sleep(0.3)
sys.exit(128 + came[0] if len(came) == 1 else 99)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_reaches_the_process_once_and_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    job = a_plan(tmp_path, rows=("cgc",)).jobs[0]
    job.folder.mkdir(parents=True)
    script = tmp_path / "program.py"
    script.write_text(SAVES)
    monkeypatch.setattr(chain, "command_line", lambda words, processes: [sys.executable, str(script)])

    def when_ready() -> None:
        for _ in range(500):
            if job.log.is_file() and "ready" in job.log.read_text():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.02)

    before = signal.getsignal(number)
    thread = threading.Thread(target=when_ready)
    thread.start()
    with pytest.raises(Interrupted) as stop:
        run_process(job, job.log)
    thread.join()
    assert stop.value.exit_status == 128 + number
    text = job.log.read_text()
    assert text.count("saving") == 1
    # A terminal signals all of its session: this one is reached through us alone.
    assert int(text.split("session ")[1].split()[0]) != os.getsid(0)
    assert signal.getsignal(number) == before


def test_a_process_says_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = a_plan(tmp_path, rows=("cgc",)).jobs[0]
    job.folder.mkdir(parents=True)
    ends = "import os, sys; print(os.environ['PYTHONPATH']); sys.exit('no such thing')"
    monkeypatch.setattr(chain, "command_line", lambda words, processes: [sys.executable, "-c", ends])
    assert run_process(job, job.log) == 1
    text = job.log.read_text()
    assert text.startswith("$ ")
    assert last_line(job.log) == "no such thing"
    assert str(chain.ROOT) in text


def test_no_process_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = a_plan(tmp_path, rows=("cgc",)).jobs[0]
    job.folder.mkdir(parents=True)
    started = []
    popen = subprocess.Popen

    def kept(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[0]

    def unreadable(log: Path) -> str:
        raise OSError(5, "Input/output error", str(log))

    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(chain, "command_line", lambda words, processes: sleeps)
    monkeypatch.setattr(chain.subprocess, "Popen", kept)
    monkeypatch.setattr(chain, "last_line", unreadable)
    with pytest.raises(OSError, match="Input/output"):
        run_process(job, job.log)
    assert started[0].poll() is not None


def test_the_record_is_plain(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, rows=("cgc",))
    run(plan, make)
    content = json.loads(plan.jobs[0].record.read_text())
    assert content["finished"] is True
    assert content["words"][0] == "train_eval_cgc.py"
