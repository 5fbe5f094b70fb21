"""Files changed at random, a few of every kind; `python -m tests.reliability.fuzz` takes as many as one likes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cgc.errors import InputError
from tests.reliability import fuzz, fuzz_watch
from tests.reliability.fuzz import TARGETS, in_process, run_target
from tests.reliability.fuzz_changes import Target, mutated
from tests.reliability.fuzz_watch import try_input

_FEW, _MANY = 60, 600


def needs_its_package(name: str) -> None:
    if name == "unrel-mat":  # MATLAB files
        pytest.importorskip("scipy")


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(name: str, tmp_path: Path) -> None:
    needs_its_package(name)
    found = run_target(TARGETS[name], range(_FEW), 0, tmp_path)
    assert found.failures == []
    assert found.accepted > 0
    assert found.refused > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out_of_many(name: str) -> None:
    needs_its_package(name)
    found = in_process(TARGETS[name], range(_FEW, _FEW + _MANY), 0)
    assert found.failures == []
    assert found.inputs == _MANY


def test_an_input_is_had_again_by_its_number(tmp_path: Path) -> None:
    target = TARGETS["coco"]
    seeds = target.seeds(tmp_path)
    inputs = [mutated(target, seeds, 3, number) for number in range(200)]
    assert inputs == [mutated(target, target.seeds(tmp_path), 3, number) for number in range(200)]
    assert inputs[: len(seeds)] == seeds
    assert len(set(inputs)) > 150
    assert inputs[10:] != [mutated(target, seeds, 4, number) for number in range(10, 200)]


def toy(call: Callable[[Path, bytes], object]) -> Target:
    return Target("toy", lambda folder: [b"valid"], call, (InputError,))


def _raises(error: BaseException) -> Callable[[Path, bytes], object]:
    def call(folder: Path, data: bytes) -> object:
        raise error

    return call


_OUTSIDE = Path(__file__).anchor + "outside-of-all"
# What a reader might do, and what is said of it.
_WRONG: dict[str, Callable[[Path, bytes], object]] = {
    "KeyError": _raises(KeyError("x")),
    "MemoryError": _raises(MemoryError()),
    "several lines": _raises(InputError("a\nb")),
    "open": lambda folder, data: Path("/etc/passwd").read_bytes(),
    "open '": lambda folder, data: (folder / "../beside").open("w"),
    "os.listdir": lambda folder, data: os.listdir("/"),
    "os.remove": lambda folder, data: os.remove(_OUTSIDE),
    "subprocess.Popen": lambda folder, data: subprocess.run(["true"], check=True),
    "os.system": lambda folder, data: os.system("true"),
    "socket.": lambda folder, data: socket.create_connection(("127.0.0.1", 9)),
}


@pytest.mark.parametrize("said", _WRONG)
def test_what_a_reader_must_not_do_is_seen(said: str, tmp_path: Path) -> None:
    accepted, wrong, _ = try_input(toy(_WRONG[said]), tmp_path, b"")
    assert not accepted
    assert wrong is not None
    assert said in wrong
    assert not (tmp_path.parent / "beside").exists()


def test_a_reader_may_work_in_its_folder_and_refuse(tmp_path: Path) -> None:
    write = toy(lambda folder, data: (folder / "a").write_bytes(data))
    assert try_input(write, tmp_path, b"x") == (True, None, "")
    assert try_input(toy(_raises(InputError("no"))), tmp_path, b"x") == (False, None, "no")
    Path("/etc/passwd").read_bytes()  # the watch is over
    found = run_target(toy(_raises(InputError("no"))), range(3), 0, tmp_path)
    assert (found.refused, found.failed, found.failures[0].number) == (2, 1, 0)
    assert "a valid file was refused: no" in found.failures[0].what


def test_a_reader_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(folder: Path, data: bytes) -> None:
        try:
            while True:
                pass
        except Exception as error:
            raise InputError("swallowed") from error

    monkeypatch.setattr(fuzz_watch, "SECONDS", 0.05)
    _, wrong, _ = try_input(toy(wait), tmp_path, b"")
    assert wrong is not None
    assert "TooSlow" in wrong


def _dies(folder: Path, data: bytes) -> None:
    if data != b"valid":
        os.kill(os.getpid(), signal.SIGKILL)


def _hangs(folder: Path, data: bytes) -> None:
    if data != b"valid":
        time.sleep(60)


@pytest.mark.parametrize(("call", "said"), [(_dies, "the process died (-9)"), (_hangs, "hangs")])
def test_an_input_that_ends_the_process_is_named(
    call: Callable[[Path, bytes], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SILENT", 0.5)
    found = in_process(toy(call), range(2), 0)
    assert (found.accepted, found.failed, found.failures[0].number) == (1, 1, 1)
    assert said in found.failures[0].what
    assert found.failures[0].data == mutated(toy(call), [b"valid"], 0, 1)


def test_memory_has_a_limit() -> None:
    def take(folder: Path, data: bytes) -> None:
        np.zeros(3 * fuzz.MEMORY // 2, dtype=np.uint8)

    (failure,) = in_process(toy(take), range(1), 0).failures
    assert "MemoryError" in failure.what
