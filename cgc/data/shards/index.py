"""The index of a folder of shards: which samples lie where.

`index.json` names the classes and the shards, with their numbers of samples, sizes and SHA-256, and has a SHA-256 of
itself (an index without one is taken as it is, one that was changed since is not); `index.bin` beside it
has one record per sample (`RECORD`), shard after shard, then the names of the samples, a zero byte after each. The
arrays of 1.28 million samples take about 70 MB, and forked workers share them.

An index may come from anywhere. Everything in it is checked against what the rest of it says before it is used, and
nothing of it is run: no pickle, no compression, sizes known before memory is taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgc.data.folders import PathTable
from cgc.errors import InputError

INDEX, RECORDS, MAKING = "index.json", "index.bin", "making.json"
FORMAT, VERSION = "cgc-shards", 1
# Where the image's bytes are in its shard, its class (-1: none) and its CRC-32 (0 without `checksums`).
RECORD = np.dtype([("offset", "<i8"), ("size", "<i8"), ("label", "<i4"), ("crc", "<u4")])
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.tar")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNSAFE_NAMES = re.compile(rb"(?:^|[\0/])\.\.[\0/]|(?:^|\0)[\0/]|[\x01-\x1f\x7f\\]")
_UNSAFE_PARTS = (b"\0/", b"\0\0", b"/../", b"\0../", b"/..\0", b"\0..\0", b"\\")
_CONTROL = bytes(range(1, 32)) + b"\x7f"
_LARGEST_IMAGE = 1 << 31


@dataclass(frozen=True)
class Shard:
    """A tar file. ``sha256`` is empty where nobody has read all of it."""

    name: str
    samples: int
    bytes: int
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Samples lie one after the other, shard by shard. ``made``: by what, if `make-shards` made them."""

    shards: tuple[Shard, ...]
    classes: tuple[str, ...]  # none where there are no labels
    records: NDArray[np.void]  # (n,) of RECORD
    names: PathTable
    checksums: bool
    made: str = ""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def shard_of(self) -> NDArray[np.int32]:
        """(n,) the position of each sample's shard."""
        counts = [shard.samples for shard in self.shards]
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)


def write_index(folder: Path, index: ShardIndex) -> None:
    """Both files, the JSON last and by a rename: where it is, all is there. Raises OSError."""
    data = index.records.tobytes() + index.names.to_bytes()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(index.classes),
        "checksums": index.checksums,
        "made": index.made,
        "records": {"file": RECORDS, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "shards": [vars(shard) for shard in index.shards],
    }
    write_whole(folder / RECORDS, data)
    write_whole(folder / INDEX, json.dumps({**content, "sha256": _digest_of(content)}, indent=1).encode())


def _digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of everything else in an `index.json`, however it is set out."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """A file that is either as it was or complete. Raises OSError."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_index(folder: Path, said: str | None = None) -> ShardIndex:
    """The index of a folder, checked. ``said``: what to call the folder. Raises InputError."""
    said = said or str(folder)
    try:
        head = read_head((folder / INDEX).read_bytes(), f"{said}/{INDEX}")
        data = (folder / RECORDS).read_bytes()
    except OSError as error:
        raise InputError(f"{said}: {error.strerror}: {Path(error.filename or '').name}") from error
    return head.with_records(data, f"{said}/{RECORDS}")


@dataclass(frozen=True)
class IndexHead:
    """What `index.json` says."""

    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    checksums: bool
    made: str
    records_bytes: int
    sha256: str

    def with_records(self, data: bytes, said: str) -> ShardIndex:
        """The whole index. Raises InputError where the records are not those that the head lists, or contradict it."""
        if len(data) != self.records_bytes or hashlib.sha256(data).hexdigest() != self.sha256:
            raise InputError(f"{said}: not the file that {INDEX} lists; copy both again")
        count = sum(shard.samples for shard in self.shards)
        if len(data) < count * RECORD.itemsize:
            raise InputError(f"{said}: {len(data)} bytes are too few for {count} samples")
        records = np.frombuffer(data, RECORD, count)
        names = data[count * RECORD.itemsize :]
        if names.count(0) != count or (names and names[-1]):
            raise InputError(f"{said}: {names.count(0)} names of {count} samples")
        unsafe = _UNSAFE_NAMES.search(names) if _may_be_unsafe(names) else None
        if unsafe is not None:
            first, last = names.rfind(0, 0, unsafe.start() + 1) + 1, names.find(0, unsafe.end())
            raise InputError(f"{said}: the name {os.fsdecode(names[first:last])!r} leads out of the shard")
        index = ShardIndex(
            self.shards, self.classes, records, PathTable.from_bytes(names), self.checksums, self.made
        )
        self._check_places(index, said)
        return index

    def _check_places(self, index: ShardIndex, said: str) -> None:
        records, sizes = index.records, np.array([shard.bytes for shard in self.shards], dtype=np.int64)
        offset, size, label = (records[name] for name in ("offset", "size", "label"))
        wrong = (offset < 0) | (size < 0) | (size > _LARGEST_IMAGE) | (offset > sizes[index.shard_of] - size)
        lowest = 0 if self.classes else -1
        wrong |= (label < lowest) | (label >= max(len(self.classes), 0))
        if wrong.any():
            first = int(wrong.argmax())
            raise InputError(
                f"{said}: sample {first} ({index.names[first]}) has offset {offset[first]}, size {size[first]} and "
                f"class {label[first]}, which its shard or the classes do not have"
            )


def _may_be_unsafe(names: bytes) -> bool:
    """What the regular expression finds, twenty times as fast where there is none."""
    padded = b"\0" + names
    return any(part in padded for part in _UNSAFE_PARTS) or len(names.translate(None, _CONTROL)) < len(names)


def read_head(text: bytes, said: str) -> IndexHead:
    """What an `index.json` says. Raises InputError for anything that is none."""
    try:
        content = json.loads(text)
        digest = _digest_of(content) if isinstance(content, dict) else ""
    except (ValueError, RecursionError) as error:
        raise InputError(f"{said}: not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{said}: not an index of shards")
    if content.get("version") != VERSION:
        raise InputError(f"{said}: version {str(content.get('version'))[:20]}, this program reads {VERSION}")
    if content.get("sha256", digest) != digest:
        raise InputError(f"{said}: damaged, or changed since it was written (SHA-256)")
    try:
        return _head(content)
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(f"{said}: {what[:200]}") from error


def _head(content: dict[str, Any]) -> IndexHead:
    shards = tuple(_shard(entry) for entry in _typed(content["shards"], list, "shards"))
    if not shards:
        raise ValueError("lists no shards")
    names = [shard.name for shard in shards]
    if len(set(names)) < len(names):
        raise ValueError("lists a shard twice")
    classes = tuple(_typed(name, str, "class") for name in _typed(content["classes"], list, "classes"))
    if len(set(classes)) < len(classes):
        raise ValueError("lists a class twice")
    records = _typed(content["records"], dict, "records")
    if records["file"] != RECORDS:
        raise ValueError(f"the records must lie in {RECORDS}")
    return IndexHead(
        shards,
        classes,
        _typed(content["checksums"], bool, "checksums"),
        _typed(content.get("made", ""), str, "made"),
        _count(records["bytes"], "bytes of the records"),
        _digest(records["sha256"]),
    )


def _shard(entry: Any) -> Shard:
    entry = _typed(entry, dict, "a shard")
    name = _typed(entry["name"], str, "name")
    if not _SHARD_NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no name of a shard")
    sha256 = entry["sha256"]
    return Shard(
        name,
        _count(entry["samples"], "samples"),
        _count(entry["bytes"], "bytes"),
        "" if sha256 == "" else _digest(sha256),
    )


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{what}: {str(value)[:40]!r} is no {kind.__name__}")
    return value


def _count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 50:
        raise ValueError(f"{what}: {str(value)[:40]!r} is no count")
    return value


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{str(value)[:40]!r} is no SHA-256")
    return value
