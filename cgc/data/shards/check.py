"""Shards held against their index."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cgc.data.decode import UnreadableImage, decode_data
from cgc.data.shards.index import ShardIndex
from cgc.data.shards.scan import ScannedShard, scan_shard


@dataclass(frozen=True)
class ShardCheck:
    """Called with a shard's number: a line for everything about it that is not as the index says.

    ``decode``: also for each image that cannot be decoded. Raises InputError for a file that cannot be read.
    """

    folder: Path
    index: ShardIndex
    decode: bool = False

    def __call__(self, number: int) -> list[str]:
        index = self.index
        shard = index.shards[number]
        path = self.folder / shard.name
        if not path.exists():
            return [f"{path}: no such shard"]
        found = scan_shard(path)
        if found.shard.bytes != shard.bytes or (shard.sha256 and found.shard.sha256 != shard.sha256):
            return [f"{path}: not the bytes that the index lists (SHA-256)", *found.problems]
        first = sum(before.samples for before in index.shards[:number])
        listed = slice(first, first + shard.samples)
        names = [index.names[i] for i in range(listed.start, listed.stop)]
        fields = ["offset", "size", "label"] + ["crc"] * index.checksums
        if names != found.names or (found.records[fields] != index.records[listed][fields]).any():
            return [f"{path}: other images than the index lists"]
        return [*found.problems, *(_damaged(path, found) if self.decode else [])]


def _damaged(path: Path, found: ScannedShard) -> list[str]:
    places = zip(found.names, found.records["offset"].tolist(), found.records["size"].tolist(), strict=True)
    with path.open("rb") as file:
        lines = [_problem(file.fileno(), offset, size, path / name) for name, offset, size in places]
    return [line for line in lines if line]


def _problem(file: int, offset: int, size: int, path: Path) -> str:
    try:
        decode_data(os.pread(file, size, offset), path)
    except UnreadableImage as error:
        return str(error)
    return ""
