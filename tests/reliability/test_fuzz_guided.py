"""The search guided by coverage: `python -m tests.reliability.fuzz_guided` finds what lies behind comparisons."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cgc.errors import InputError
from tests.reliability import fuzz, fuzz_guided
from tests.reliability.fuzz import TARGETS, run_target
from tests.reliability.fuzz_changes import Target
from tests.reliability.fuzz_guided import changed, guided, main

_SEED = b"a file of sixteen"


def _toy(call: Callable[[Path, bytes], object]) -> Target:
    return Target("toy", lambda folder: [_SEED], call, (InputError,))


def _nested(folder: Path, data: bytes) -> None:
    if len(data) < 12 or data[2:6] != b"\x8fQz\x07":
        return
    if data[8] == 255:
        raise KeyError("deep inside")


def _plain(data: bytes, most: int) -> bytes:
    return (data + b"!")[:most]


def test_without_atheris_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.chdir(tmp_path)
    assert main(["--target", "coco"]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err == "fuzz_guided needs atheris: python -m pip install atheris\n"
    assert list(tmp_path.iterdir()) == []


def test_both_kinds_of_change_are_made_and_none_is_too_long() -> None:
    target = TARGETS["pets"]
    seeds = [b"1 2 3\n", b"4 5 6\n"]
    made = [changed(target, seeds, _plain, b"7 8 9\n", 20, number) for number in range(200)]
    assert 60 < made.count(b"7 8 9\n!") < 140
    assert max(map(len, made)) == 20
    assert len(set(made)) > 50
    assert made[:50] == [changed(target, seeds, _plain, b"7 8 9\n", 20, number) for number in range(50)]


def test_checksums_are_put_right_in_half_of_the_inputs() -> None:
    target = Target("toy", lambda folder: [], _nested, (), repair=lambda data: b"right")
    made = [changed(target, [b"x"], _plain, bytes(300), 1000, number) for number in range(200)]
    assert 60 < made.count(b"right") < 140


def test_kept_inputs_are_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"ant\nbee\n")
    bad.write_bytes(b"ant\nant\n")
    assert main(["--target", "class-list", "--again", str(good), str(bad)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{good}: accepted"
    assert second.startswith(f"{bad}: refused: ")
    with pytest.raises(SystemExit, match="2"):
        main(["--again", str(good)])
    assert "--again needs one --target" in capsys.readouterr().err


@pytest.mark.slow
def test_what_lies_behind_two_comparisons_is_found(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    assert run_target(_toy(_nested), range(6000), 0, tmp_path / "random").failed == 0
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    found = guided(_toy(_nested), 6000, 0, corpus)
    assert "KeyError" in found.failures[0].what
    with pytest.raises(KeyError):
        _nested(tmp_path, found.failures[0].data)
    assert found.edges > found.seeds_edges > 0
    assert found.accepted > 0
    assert found.inputs == 6000
    assert any(path.read_bytes()[2:6] == b"\x8fQz\x07" for path in corpus.iterdir())  # kept after the first


def _dies(folder: Path, data: bytes) -> None:
    if data[:1] > b"a":
        os.kill(os.getpid(), signal.SIGKILL)


def _ends(folder: Path, data: bytes) -> None:
    if data[:1] > b"a":
        os._exit(0)


def _hangs(folder: Path, data: bytes) -> None:
    if data[:1] > b"a":
        time.sleep(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "said"), [(_dies, "the process died (-9)"), (_ends, "ended by itself"), (_hangs, "hangs")]
)
def test_an_input_that_ends_the_process_is_named(
    call: Callable[[Path, bytes], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("atheris")
    monkeypatch.setattr(fuzz, "SILENT", 1.0)
    monkeypatch.setattr(fuzz_guided, "_DEATHS", 2)
    found = guided(_toy(call), 100_000, 0, tmp_path)
    assert found.failed == len(found.failures) == 2  # the search went on after the first
    for failure in found.failures:
        assert said in failure.what
        assert failure.data[:1] > b"a"
    assert found.accepted > 0
