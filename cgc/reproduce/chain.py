"""Runs the jobs of a plan one after another as processes of their own, so that any of them can be taken up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

import cgc
from cgc.engine.records import write_json
from cgc.engine.runtime import STOP_SIGNALS
from cgc.errors import RunError
from cgc.reproduce.plan import Job, Plan

Execute = Callable[[Job, Path], int]  # a job and its log to an exit status

ROOT = Path(cgc.__file__).resolve().parents[1]
_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
_SHELL = 128  # shells and schedulers give this plus the signal's number


class Interrupted(Exception):
    """A signal ended the run between or inside jobs; what was running has saved what it could."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_status = _SHELL + number


def command_line(words: Sequence[str], processes: int = 1) -> list[str]:
    """What to start: the scripts of the checkout, or without one the same programs of the installed package."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    script = ROOT / words[0]
    if words[0] == "cgc":
        return [*start, "-m", *words]
    if script.is_file():
        return [*start, str(script), *words[1:]]
    return [*start, "-m", "cgc.commands.reproduce_script", *words]


def run_process(job: Job, log: Path) -> int:
    """Run a job with its output appended to the log; signals that come meanwhile are handed on to it.

    Raises Interrupted when such a signal has ended it.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    words = command_line(job.words, job.processes)
    with log.open("a", encoding="utf-8") as file:
        print(f"$ {' '.join(words)}", file=file, flush=True)
        # In a session of its own a Ctrl-C reaches it once, through us; a second one would cut short what it saves.
        with _Signals() as signals, _watched(log) as look:
            process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
            signals.go_to(process)
            try:
                while process.poll() is None:
                    look()
                    time.sleep(0.2)
            finally:  # a log that cannot be read any more must not leave it behind
                if process.poll() is None:
                    process.terminate()
                    process.wait()
    if signals.came and process.returncode != 0:
        raise Interrupted(signals.came[0])
    return process.returncode


class _Signals:
    """Inside the ``with`` block signals to us go to a process; those from before it was there, when it is there."""

    def __init__(self) -> None:
        self.came: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def go_to(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        for number in self.came:
            self._hand_on(number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.came.append(number)
        self._hand_on(number)

    def _hand_on(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            # torchrun hands on no other ones, and dies of SIGUSR1 without its processes.
            self._process.send_signal(number if number == signal.SIGINT else signal.SIGTERM)


@contextmanager
def _watched(log: Path) -> Iterator[Callable[[], None]]:
    """A line on the terminal with the time that went by and the last line of the log."""
    form = "{desc} {elapsed} {postfix}"
    with tqdm(desc="  running", bar_format=form, leave=False, disable=not sys.stderr.isatty()) as bar:
        yield lambda: bar.set_postfix_str(last_line(log)[:100])


def last_line(log: Path, most: int = 4000) -> str:
    """The end of a log; a progress bar redraws its line after a carriage return."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - most))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1] if lines else ""


def run_plan(plan: Plan, say: Callable[[str], None], collect: Callable[[], None], execute: Execute) -> None:
    """Run what is not done; ``collect`` is called after every training and evaluation.

    Raises:
        InputError: something was made by another command under ``--out``.
        RunError: a job failed; the message names its log.
        Interrupted: a signal ended it.
    """
    # All of them first, so that a wrong --out is found before any work.
    done = [job.is_done() for job in plan.jobs]
    for number, (job, finished) in enumerate(zip(plan.jobs, done, strict=True), start=1):
        where = f"[{number}/{len(plan.jobs)}] {job.title}"
        # Asked again: what the job is made from may have been made anew a moment ago.
        if finished and job.is_done():
            say(f"{where}: done already")
            continue
        say(f"{where}: {'goes on' if job.has_begun() else 'runs'}, {job.log}")
        run_job(job, execute)
        if job.kind != "prepare":
            collect()


def run_job(job: Job, execute: Execute) -> None:
    """One job; raises RunError that names its log where it fails or leaves nothing behind."""
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        write_json(job.record, {"words": job.same_work(), "finished": False})
        status = execute(job, job.log)
        if status == 0:
            write_json(job.record, {"words": job.same_work(), "finished": True})
    except OSError as error:
        raise RunError(f"{error.filename or job.folder}: {error.strerror}") from error
    if status != 0 or not job.is_done():
        said = last_line(job.log) if job.log.is_file() else ""
        raise RunError(
            f"{job.title} ended with status {status}: {said[:200]} (log: {job.log}); the same command goes on from here"
        )
