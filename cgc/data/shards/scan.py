"""Shards read from end to end: to index those that others made, and to check any."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgc.data.folders import PathTable
from cgc.data.shards.cache import file_digest
from cgc.data.shards.index import RECORD, Shard, ShardIndex
from cgc.data.shards.tar import Sample, scan
from cgc.errors import InputError

_MOST_CLASSES = 1 << 20


@dataclass(frozen=True, eq=False)
class ScannedShard:
    """A shard and its samples; `problems` has a line for each that is not used, and for a damaged end."""

    shard: Shard
    records: NDArray[np.void]
    names: list[str]
    problems: list[str]


def scan_shard(path: Path, *, whole: bool = True) -> ScannedShard:
    """What a shard holds; without ``whole`` by its headers alone, hence without checksums. Raises InputError."""
    try:
        with path.open("rb", buffering=0) as file:
            found = scan(file.fileno())
            size = os.fstat(file.fileno()).st_size
            problems = [f"{path}: {line}: left out" for line in found.left_out]
            if found.damage is not None:
                problems.append(
                    f"{path}: {found.damage}; the {len(found.samples)} images before that are used"
                )
            rows, names = [], []
            for sample in found.samples:
                label = _label(sample)
                if label is None:
                    problems.append(
                        f"{path}/{sample.name}: its class {sample.label!r:.40} is no number: left out"
                    )
                    continue
                crc = zlib.crc32(os.pread(file.fileno(), sample.size, sample.offset)) if whole else 0
                rows.append((sample.offset, sample.size, label, crc))
                names.append(sample.name)
        digest = file_digest(path) if whole else ""
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    return ScannedShard(
        Shard(path.name, len(rows), size, digest), np.array(rows, dtype=RECORD), names, problems
    )


def _label(sample: Sample) -> int | None:
    if sample.label is None:
        return -1
    text = sample.label.strip()
    return int(text) if text.isdigit() and len(text) < 8 and int(text) < _MOST_CLASSES else None


def shard_paths(folder: Path) -> list[Path]:
    """The tar files of a folder, by name."""
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def joined(
    scanned: Sequence[ScannedShard],
    said: str,
    *,
    classes: Sequence[str] | None = None,
    checksums: bool = True,
    made: str = "",
) -> ShardIndex:
    """The index of scanned shards. Classes are called by their numbers where no names are given.

    Raises InputError where there is no sample, only some have a class, or a class has no name.
    """
    records = np.concatenate([np.empty(0, RECORD), *(one.records for one in scanned)])
    names = [name for one in scanned for name in one.names]
    if not names:
        raise InputError(f"{said}: no images in its {len(scanned)} shards")
    lacking = int((records["label"] < 0).sum())
    if 0 < lacking < len(records):
        raise InputError(f"{said}: {lacking} of {len(records)} images have no class")
    highest = int(records["label"].max())
    if classes is None:
        classes = [str(number) for number in range(highest + 1)]
    elif highest >= len(classes):
        raise InputError(f"{said}: class {highest}, but there are {len(classes)} classes")
    table = PathTable(names)
    shards = tuple(one.shard for one in scanned)
    return ShardIndex(shards, () if lacking else tuple(classes), records, table, checksums, made)


def scan_folder(folder: Path, classes: Sequence[str] | None = None) -> tuple[ShardIndex, list[str]]:
    """The index of shards that have none, by their headers, and the problems found. Raises InputError."""
    scanned = [scan_shard(path, whole=False) for path in shard_paths(folder)]
    index = joined(scanned, str(folder), classes=classes, checksums=False)
    return index, [line for one in scanned for line in one.problems]
