"""A work that runs in a process of its own, whose C library hands freed memory back, as it does by default."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

import common
import torch

Work = Callable[[], object]


class Elsewhere:
    """Called, it runs the other process's work; ``seconds`` is how long the last call took there."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self.seconds = pipe, 0.0

    def __call__(self) -> None:
        self._pipe.send(True)
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise RuntimeError(answer)
        self.seconds = answer


@contextlib.contextmanager
def elsewhere(make: Callable[[], Work]) -> Iterator[Elsewhere]:
    """``make`` (picklable) is called in the other process, which has as many threads and the same clock as this one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    same = (torch.get_num_threads(), common.Clock.is_of_this_process())
    process = context.Process(target=_serve, args=(make, theirs, *same), daemon=True)
    process.start()
    theirs.close()  # so that the end of the other process ends a wait for its answer
    try:
        yield Elsewhere(ours)
    finally:
        ours.close()
        process.join()


def _serve(make: Callable[[], Work], pipe: Connection, threads: int, cpu_time: bool) -> None:
    torch.set_num_threads(threads)
    common.Clock.of_this_process(cpu_time)
    made: list[Work] = []

    def answer() -> float | str:
        try:
            if not made:
                made.append(make())
            return common.seconds(made[0])
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with contextlib.suppress(EOFError):
        while pipe.recv():
            pipe.send(answer())
