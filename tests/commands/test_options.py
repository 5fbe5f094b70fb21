"""How commands end: one line and a status for what is not a bug, a traceback for what is."""

from __future__ import annotations

import argparse
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cgc.__main__ import main
from cgc.commands.options import Parser, fraction, positive_float, positive_int, run_command, seed
from cgc.errors import InputError, RunError
from tests.commands.runs import error_line


def ending(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("no folder at x"), 2, "error: no folder at x"),
        (RunError("the loss is no finite number"), 1, "failed: the loss is no finite number"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "a smaller -b"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "a smaller -b"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), 1, "fewer -j"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "error: aaa: File name too long"),
        (OSError(28, "No space left on device", "metrics.csv"), 1, "No space left on device"),
    ],
)
def test_what_is_no_bug_ends_in_one_line(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(ending(error)) == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize("bug", [RuntimeError("shapes do not match"), ValueError("x"), KeyError("y")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        run_command(ending(bug))


@pytest.mark.parametrize(
    "words",
    [["train", "LONG"], ["evaluate", "LONG", "DATA", "--metrics", "top1"], ["evaluate", __file__, "LONG"]],
)
def test_a_name_longer_than_file_systems_have(
    words: list[str], training_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Path.is_file and its like fail of it instead of saying no."""
    places = {"LONG": "a" * 300, "DATA": str(training_data)}
    assert main([places.get(word, word) for word in words]) == 2
    assert places["LONG"] in error_line(capsys.readouterr().err)


def test_success_is_passed_on() -> None:
    assert run_command(lambda: 0) == 0


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--n", type=positive_int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--n", "0"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --n: 0 is not at least 1")


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (positive_int, ["0", "-1"], ["1"]),
        (positive_float, ["0", "nan", "inf", "-1"], ["1e-9"]),
        (fraction, ["1", "-0.1", "nan"], ["0", "0.99"]),
        (seed, ["-1", str(2**63)], ["0", str(2**63 - 1)]),
    ],
)
def test_ranges(kind: Callable[[str], float], wrong: list[str], right: list[str]) -> None:
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)
    for text in right:
        value = kind(text)
        assert value == type(value)(text)
