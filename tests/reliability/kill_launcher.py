"""The processes of a run as torchrun starts them, but watched and killed from outside."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cgc.commands import train, training_run  # noqa: F401  # imported once, for all processes
from tests.reliability.killed import JOINED, OPTIONS, Shared, slow_down, watch


class Launcher:
    """Starts processes that have imported everything already, which takes longer than the training.

    They are forked, but from a process that does nothing else: each of them ends as any program does.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, request: dict[str, Any]) -> int:
        """Start a process with the arguments of `_train`; its number."""
        process = self._ask(request)
        assert process  # signals to 0 would reach this process
        return process

    def status(self, process: int) -> int | None:
        """With what it ended, once; None while it is there."""
        return self._ask(process)

    def _ask(self, request: dict[str, Any] | int) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer


def _answer_requests() -> dict[str, Any]:
    """The launcher's side. Returns in the processes that it starts, with their request."""
    for line in sys.stdin:
        request = json.loads(line)
        if isinstance(request, dict):
            answer: int | None = os.fork()
            if not answer:
                return request
        else:
            ended, status = os.waitpid(request, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        print(json.dumps(answer), flush=True)
    sys.exit()


def _train(words: list[str], environment: dict[str, str], shared: str, log: str, slowly: bool) -> int:
    """One process of a run. Its log is locked for as long as it, or a process that it started, is there."""
    output = os.open(log, os.O_WRONLY)
    fcntl.flock(output, fcntl.LOCK_EX)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    notes = Shared(Path(shared))
    watch(notes)
    if slowly:
        slow_down(notes)
    join: Callable[..., None] = torch.distributed.init_process_group

    def note_joining(*arguments: Any) -> None:
        join(*arguments)
        notes.put(JOINED, 1)

    torch.distributed.init_process_group = note_joining  # type: ignore[assignment]
    return train.main(words)


class Group:
    """A run of ``size`` processes."""

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        size: int,
        name: str,
        *,
        workers: int = 0,
        slowly: bool = False,
    ) -> None:
        self._launcher = launcher
        beside = [folder.with_name(f"{folder.name}-{name}{rank}") for rank in range(size)]
        self.logs = [path.with_suffix(".log") for path in beside]
        for log in self.logs:
            log.touch()
        self.shared = [Shared(path.with_suffix(".shared")) for path in beside]
        self._statuses: dict[int, int] = {}
        common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        words = [str(folder.parent / "data"), *OPTIONS, "--save_dir", str(folder)]
        words += ["-j", str(workers), "-b", str(2 * size)]
        self._processes = [
            launcher.start(
                {
                    "words": words,
                    "environment": {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    "shared": str(path.with_suffix(".shared")),
                    "log": str(path.with_suffix(".log")),
                    "slowly": slowly,
                }
            )
            for rank, path in enumerate(beside)
        ]

    def status(self, rank: int) -> int | None:
        """With what a process ended; None while it is there."""
        if rank not in self._statuses:
            status = self._launcher.status(self._processes[rank])
            if status is None:
                return None
            self._statuses[rank] = status
        return self._statuses[rank]

    def ended(self) -> bool:
        return all(self.status(rank) is not None for rank in range(len(self._processes)))

    def kill(self, ranks: Sequence[int]) -> None:
        for rank in ranks:
            if self.status(rank) is None:
                os.kill(self._processes[rank], signal.SIGKILL)

    def wait(self, happened: Callable[[], bool], seconds: float = 600.0) -> bool:
        """Wait until it happened, all have ended or time is up; whether it happened."""
        until(lambda: happened() or self.ended(), seconds)
        return happened()

    def most(self, place: int) -> int:
        return max(each.get(place) for each in self.shared)

    def said(self, rank: int) -> str:
        return self.logs[rank].read_text()

    def alive(self, rank: int) -> bool:
        """Whether a process is there, or one that it started."""
        with self.logs[rank].open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


def until(happened: Callable[[], bool], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port: int = place.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(_train(**_answer_requests()))
