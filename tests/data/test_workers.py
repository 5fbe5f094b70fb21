"""The loader's processes: no Python waits for them as it leaves."""

import subprocess
import sys

import pytest

LOADING = """
import builtins
from torch.utils.data import DataLoader
from cgc.data.workers import worker_options

def load():
    batches = iter(DataLoader(range(1000), **worker_options(1)))
    next(batches)
    builtins.kept = batches  # as a notebook or an exception's traceback keeps it
"""


@pytest.mark.parametrize(
    "leaving",
    [
        "load()",
        "import multiprocessing; p = multiprocessing.get_context('fork').Process(target=load)\n"
        "p.start(); p.join(); raise SystemExit(p.exitcode)",
    ],
    ids=["main process", "a process of multiprocessing"],
)
def test_a_kept_iterator_does_not_hold_up_the_end(leaving: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADING + leaving], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
