"""An index is believed only where all of it fits together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgc.data.shards.index import INDEX, RECORD, RECORDS, read_index, write_index
from cgc.errors import InputError
from tests.data.shards.fixture import shards_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shards_of(tmp_path, images_per_class=4, shards=2)[1]


def _change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """As somebody does who also leaves out what would tell."""
    content = json.loads((folder / INDEX).read_text())
    del content["sha256"]
    change(content)
    (folder / INDEX).write_text(json.dumps(content))


def _records(folder: Path, data: bytes) -> None:
    """Other records, and the JSON made to agree with them."""
    (folder / RECORDS).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    _change(folder, lambda content: content["records"].update(bytes=len(data), sha256=digest))


def test_written_and_read_again(folder: Path, tmp_path: Path) -> None:
    index = read_index(folder)
    write_index(tmp_path, index)
    again = read_index(tmp_path)
    assert again.shards == index.shards
    assert (again.classes, again.made, again.checksums) == (index.classes, index.made, True)
    assert (again.records == index.records).all()
    assert [again.names[i] for i in range(8)] == [index.names[i] for i in range(8)]
    assert index.shard_of.tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(("old", "new"), [("ant", "any"), ('"made": "', '"made": "0'), ("true", "false")])
def test_a_changed_head_is_refused(folder: Path, old: str, new: str) -> None:
    """A class of another name would be noticed by nothing else."""
    text = (folder / INDEX).read_text()
    assert old in text
    (folder / INDEX).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match="changed since it was written"):
        read_index(folder)
    (folder / INDEX).write_text(json.dumps(json.loads(text), indent=7, sort_keys=True))  # set out otherwise
    read_index(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format="x"), "not an index"),
        (lambda c: c.update(version=2), "version 2"),
        (lambda c: c.pop("shards"), "lacks 'shards'"),
        (lambda c: c.update(shards=[]), "no shards"),
        (lambda c: c.update(shards={}), "no list"),
        (lambda c: c["shards"][0].update(name="../a.tar"), "no name of a shard"),
        (lambda c: c["shards"][0].update(name="/etc/a.tar"), "no name of a shard"),
        (lambda c: c["shards"][0].update(name=".lock.tar"), "no name of a shard"),
        (lambda c: c["shards"][0].update(name="a\n.tar"), "no name of a shard"),
        (lambda c: c["shards"][1].update(name="train-000000.tar"), "twice"),
        (lambda c: c["shards"][0].update(samples=-1), "no count"),
        (lambda c: c["shards"][0].update(samples=10**30), "no count"),
        (lambda c: c["shards"][0].update(samples=True), "no count"),
        (lambda c: c["shards"][0].update(samples=10**9), "too few for"),
        (lambda c: c["shards"][0].update(bytes="9"), "no count"),
        (lambda c: c["shards"][0].update(bytes=1000), "which its shard or the classes do not have"),
        (lambda c: c["shards"][0].update(sha256="x"), "no SHA-256"),
        (lambda c: c["shards"].append(7), "no dict"),
        (lambda c: c.update(classes=["ant"]), "the classes do not have"),
        (lambda c: c.update(classes=["ant", "ant"]), "class twice"),
        (lambda c: c.update(classes=[1, 2]), "no str"),
        (lambda c: c.update(checksums="no"), "no bool"),
        (lambda c: c["records"].update(file="../../etc/passwd"), "must lie in"),
        (lambda c: c["records"].update(bytes=3), "not the file that"),
    ],
)
def test_a_hostile_head_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    _change(folder, change)
    with pytest.raises(InputError, match=said) as error:
        read_index(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "9" * 5000, "null", "\ud800".encode("utf-8", "surrogatepass")]
)
def test_what_is_no_json_is_refused(folder: Path, text: str | bytes) -> None:
    (folder / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=INDEX):
        read_index(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", -1),
        ("offset", 2**62),
        ("size", -1),
        ("size", 2**62),
        ("size", 10**6),
        ("label", 2),
        ("label", -1),
    ],
)
def test_hostile_records_are_refused(folder: Path, field: str, value: int) -> None:
    data = (folder / RECORDS).read_bytes()
    records = np.frombuffer(data, RECORD, 8).copy()
    records[field][5] = value
    _records(folder, records.tobytes() + data[8 * RECORD.itemsize :])
    with pytest.raises(InputError, match="sample 5"):
        read_index(folder)


@pytest.mark.parametrize(
    "name", [b"../../a.jpg", b"x/../y.jpg", b"/a.jpg", b"a\n.jpg", b"..", b"", b"a\\b.jpg"]
)
@pytest.mark.parametrize("place", [0, 3, 7])
def test_hostile_names_are_refused(folder: Path, name: bytes, place: int) -> None:
    data = (folder / RECORDS).read_bytes()
    names = data[8 * RECORD.itemsize :].split(b"\0")[:-1]
    names[place] = name
    _records(folder, data[: 8 * RECORD.itemsize] + b"".join(each + b"\0" for each in names))
    with pytest.raises(InputError, match="leads out"):
        read_index(folder)


@pytest.mark.parametrize("more", [b"x\0", b"x", b"\0"])
def test_too_many_names_are_refused(folder: Path, more: bytes) -> None:
    _records(folder, (folder / RECORDS).read_bytes() + more)
    with pytest.raises(InputError, match=r"names of 8 samples|leads out"):
        read_index(folder)


def test_missing_records_are_named(folder: Path) -> None:
    (folder / RECORDS).unlink()
    with pytest.raises(InputError, match=RECORDS):
        read_index(folder)
