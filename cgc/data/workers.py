"""The processes that load: deaf to what a scheduler sends them, and ended by the one that started them."""

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import time
from typing import Any

import torch

__all__ = ["end_workers", "worker_options"]

_registered_in: set[int] = set()  # processes, by their number


def worker_options(workers: int) -> dict[str, Any]:
    """What a `DataLoader` of ours is given about its processes: how many, and how each one starts.

    They ignore Ctrl-C, SIGTERM and SIGUSR1, which reach a whole process group or job: the main process decides when its
    workers stop. But SIGTERM is also how a Python that leaves ends its daemons, and then it waits for them: with a
    loader's iterator still held by somebody (a notebook, an exception's traceback) it would wait for ever. So they are
    ended before that.
    """
    if workers and os.getpid() not in _registered_in:
        _registered_in.add(os.getpid())
        # Not atexit: a process started by multiprocessing leaves without it.
        multiprocessing.util.Finalize(None, end_workers, exitpriority=0)
    return {"num_workers": workers, "worker_init_fn": _start}


def end_workers() -> None:
    """End this process's daemonic children, as Python does when it leaves, those that ignore SIGTERM too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader would call their end a crash
    daemons = [child for child in multiprocessing.active_children() if child.daemon]
    for child in daemons:
        child.terminate()
    patience = time.monotonic() + 0.2
    for child in daemons:
        child.join(max(0.0, patience - time.monotonic()))
        child.kill()


def _start(worker: int) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    torch.set_num_threads(1)  # the workers are the parallelism
