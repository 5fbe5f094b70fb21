"""Checkpoints made to do harm: what they carry is not run, what they claim is not believed, nothing is fetched."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cgc.models.checkpoint_layouts import read_checkpoint
from cgc.models.loading import load_model
from tests.reliability.fuzz_watch import refusal


class Calls:
    """Pickled as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "function", [torch.save, torch.load, torch.hub.load, torch.jit.save, exec, os.system, open]
)
def test_nothing_that_a_checkpoint_calls_is_called(
    tmp_path: Path, function: Callable[..., Any], zipped: bool
) -> None:
    """Functions of torch are no safer than others: torch.save writes files, torch.load unpickles."""
    ran, path = tmp_path / "ran", tmp_path / "a.pth"
    arguments: dict[Any, tuple[Any, ...]] = {
        torch.save: (1, str(ran)),
        exec: (f"open({str(ran)!r}, 'w')",),
        os.system: (f"touch {ran}",),
    }
    call = Calls(function, *arguments.get(function, (str(ran), "w")))
    weights = {"state_dict": {"a.weight": torch.ones(2, 2)}, "epoch": [{"x": (call,)}]}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    assert "other than tensors and plain types" in refusal(tmp_path, lambda: read_checkpoint(path))
    assert not ran.exists()
    if function in (*arguments, open):  # what it would have done
        torch.load(path, weights_only=False)
        assert ran.exists()


def test_a_compiled_program_is_no_checkpoint(tmp_path: Path) -> None:
    """TorchScript: an archive with code beside its tensors."""
    path = tmp_path / "a.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)  # type: ignore[no-untyped-call]
    assert "is not a checkpoint" in refusal(tmp_path, lambda: read_checkpoint(path))


_ONE = torch.ones(1)
ODD: dict[str, tuple[Tensor, str]] = {
    "no values": (torch.empty(3, 4, device="meta"), "has no values"),
    "a petabyte": (_ONE.expand(1 << 20, 1 << 28), "repeats its numbers"),
    "8 bits": (torch.ones(2, 2).to(torch.float8_e4m3fn), "float8"),
    "complex": (torch.ones(2, 2, dtype=torch.complex64), "complex64"),
    "sparse": (torch.ones(2, 2).to_sparse(), "sparse"),
    "quantised": (torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "quantised"),
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_weights_are_refused(tmp_path: Path, kind: str) -> None:
    """Whoever counts or compares their numbers would fail, or take all memory."""
    weight, said = ODD[kind]
    torch.save({"conv1.weight": weight, "fc.weight": torch.ones(2, 2)}, tmp_path / "a.pth")
    message = refusal(tmp_path, lambda: read_checkpoint(tmp_path / "a.pth"))
    assert "conv1.weight" in message
    assert said in message


def _written(path: Path, pickled: bytes, *, old: bool) -> Path:
    """A file of torch's old or present format whose first pickle, after the protocol, is this."""
    if old:
        path.write_bytes(b"\x80\x02" + pickled)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02" + pickled)
            archive.writestr("a/version", b"3\n")
    return path


def _text(letters: bytes) -> bytes:
    return b"X" + len(letters).to_bytes(4, "little") + letters


# 10^30 words in thirty lists, which stay on the stack: torch knows no instruction to take one away.
_LAUGH = (
    b"]q\0" + _text(b"ha") + b"a" + b"".join(b"]q%c(" % (k + 1) + b"h%c" % k * 10 + b"e" for k in range(30))
)
# Pickles that torch refuses, and whose refusal takes it minutes, or all memory.
_ENDLESS = {
    "name": (b"cos\n" + b"GLOBAL " * 100_000 + b"\n.", "more than 500 letters"),
    "name that is no ASCII": (b"cos\n" + "é".encode() * 100_000 + b"\n.", "or a damaged one"),
    "text called": (_text(b"x" * 100_000) + b")R.", "calls something that is no type"),
    "text made": (_text(b"x" * 100_000) + b")\x81.", "calls something that is no type"),
    "text remembered and called": (_text(b"x" * 100_000) + b"q\0)h\0)R.", "calls something that is no type"),
    "list of lists called": (_LAUGH + b"h\x1e)R.", "calls something that is no type"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", _ENDLESS)
def test_what_takes_torch_without_end_to_refuse_is_refused_at_once(
    tmp_path: Path, kind: str, old: bool
) -> None:
    pickled, said = _ENDLESS[kind]
    path = _written(tmp_path / "a.pth", pickled, old=old)
    assert said in refusal(tmp_path, lambda: read_checkpoint(path))


def _behind_an_old_one(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b/data.pkl", b"\x80\x02}.")
    path.write_bytes(b"\x80\x02" + pickled + path.read_bytes())


def _in_capitals(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/DATA.PKL", b"\x80\x02" + pickled)
        archive.writestr("archive/version", b"3\n")


def _beside_another(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled)
        archive.writestr("a/version", b"3\n")
        archive.writestr("a/b/data.pkl", b"\x80\x02}.")


@pytest.mark.parametrize("write", [_behind_an_old_one, _in_capitals, _beside_another])
def test_what_is_looked_at_is_what_torch_reads(tmp_path: Path, write: Callable[[Path, bytes], None]) -> None:
    write(tmp_path / "a.pth", _text(b"x" * 100_000) + b")R.")
    said = refusal(tmp_path, lambda: read_checkpoint(tmp_path / "a.pth"))
    assert "calls something that is no type" in said or "or a damaged one" in said


def test_a_type_of_numbers_that_is_no_name_is_refused_at_once(tmp_path: Path) -> None:
    """NumPy would write it out."""
    pickled = _LAUGH + b"cnumpy\ndtype\nh\x1e\x85R."
    path = _written(tmp_path / "a.pth", pickled, old=False)
    assert "is not a checkpoint" in refusal(tmp_path, lambda: read_checkpoint(path))


@pytest.mark.parametrize("name", ["get", "items", "values"])
def test_a_dict_whose_methods_are_values_is_refused(tmp_path: Path, name: str) -> None:
    text = _text(name.encode())
    path = _written(tmp_path / "a.pth", b"ccollections\nOrderedDict\n)R}" + text + b"K\x01sb.", old=False)
    assert "other methods than its own" in refusal(tmp_path, lambda: read_checkpoint(path))


def test_names_that_are_no_text_are_not_repeated(tmp_path: Path) -> None:
    """A terminal would do what they say."""
    path, weights = tmp_path / "a.pth", {"a.weight": torch.ones(2, 2)}
    torch.save({"arch": "x\n\x1b[2J", "state_dict": weights}, path)
    assert read_checkpoint(path).arch is None
    assert "names no architecture" in refusal(tmp_path, lambda: load_model(None, path, 2))
    torch.save({"state_dict": {"a\n\x1b[2J": torch.ones(2, 2), **weights}}, path)
    assert r"'a\n\x1b[2J' is no name of a weight" in refusal(tmp_path, lambda: read_checkpoint(path))


def _laughs() -> list[Any]:
    """10^30 words, in thirty lists."""
    words: list[Any] = ["ha"]
    for _ in range(30):
        words = [words] * 10
    return words


def _deep() -> list[Any]:
    inner: list[Any] = []
    for _ in range(300):
        inner = [inner]
    return inner


def _circle() -> dict[str, Any]:
    inside: dict[str, Any] = {}
    inside["again"] = inside
    return inside


@pytest.mark.parametrize("make", [_laughs, _deep, _circle])
def test_lists_in_lists_without_end_are_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Whoever showed or compared them would not come to an end."""
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"a.weight": torch.ones(2, 2)}, "args": argparse.Namespace(x=make())}, path)
    assert "without end" in refusal(tmp_path, lambda: read_checkpoint(path))


def test_a_pickle_that_ends_in_a_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for number in (b"J\x01", b"G\x01", b"X\x01", b"M", b"\x8b\x01", b"\x8e\x01"):
        _written(path, number, old=False)
        refusal(tmp_path, lambda: read_checkpoint(path))


def test_an_archive_with_names_that_are_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/dätä.pkl", b"\x80\x02}.")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    assert "is damaged: " in refusal(tmp_path, lambda: read_checkpoint(path))


def test_weights_that_the_old_format_names_and_does_not_hold(tmp_path: Path) -> None:
    weight, path = torch.ones(2, 2), tmp_path / "a.pth"
    torch.save({"a.weight": weight}, path, _use_new_zipfile_serialization=False)
    name = str(weight.untyped_storage()._cdata).encode()
    assert path.read_bytes().count(name) == 2
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"x", 1))
    assert "or a damaged one" in refusal(tmp_path, lambda: read_checkpoint(path))


@pytest.mark.parametrize("with_checksums", [True, False])
def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, with_checksums: bool) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(30_000_000))
    assert path.stat().st_size < 50_000
    if not with_checksums:  # without them its records would not be looked at
        data = bytearray(path.read_bytes())
        for mark, place in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16)):
            at = data.find(mark)
            while at >= 0:
                data[at + place : at + place + 4] = bytes(4)
                at = data.find(mark, at + 4)
        path.write_bytes(data)
    assert "more than 20 times as many" in refusal(tmp_path, lambda: read_checkpoint(path))


@pytest.mark.parametrize(
    "arch", ["timm:hf-hub:someone/model", "timm:local-dir:/tmp/x", "hf-hub:x/y", "__init__", "../x"]
)
def test_the_architecture_that_a_file_names_is_not_fetched(tmp_path: Path, arch: str) -> None:
    pytest.importorskip("timm")
    torch.save({"arch": arch, "state_dict": {"a.weight": torch.ones(2, 2)}}, tmp_path / "a.pth")
    assert arch.partition(":")[2] in refusal(tmp_path, lambda: load_model(None, tmp_path / "a.pth", 2))
