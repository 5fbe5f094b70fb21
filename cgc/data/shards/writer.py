"""Filling a folder with shards of an image list, so that a run that was broken off is taken up where it was.

The images are shuffled once, so that each shard holds a mixture of all classes, and cut into shards of nearly the same
number. A shard is written beside its place, read back from the disk, compared, and renamed; `making.json` lists those
that are done, with their SHA-256, until `index.json` takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cgc.data.decode import UnreadableImage, decode_data
from cgc.data.folders import ImageList, PathTable
from cgc.data.seeding import mix_seed
from cgc.data.shards.index import INDEX, MAKING, RECORDS, ShardIndex, read_index, write_index, write_whole
from cgc.data.shards.names import member_names
from cgc.data.shards.scan import ScannedShard, joined, scan_shard
from cgc.data.shards.tar import LABEL_SUFFIX
from cgc.errors import InputError

_ORDER = -3  # of mix_seed: no epoch's
_OURS = re.compile(r"\.?[A-Za-z0-9_-]+-\d{6}\.tar(\.part)?")


@dataclass(frozen=True)
class Done:
    """A shard that is there: what it holds, and a line for each image that was left out."""

    scanned: ScannedShard
    left_out: tuple[str, ...]


class ShardWriter:
    """Shards of ``images`` in ``folder``, called `PREFIX-000000.tar` and so on.

    Args:
        shards: how many; images are spread evenly.
        decode: leave out the images that cannot be decoded, not only those that cannot be read.

    Raises InputError for a folder that cannot be written, or that holds other things than these shards.
    """

    def __init__(
        self,
        folder: Path,
        images: ImageList,
        prefix: str,
        *,
        shards: int,
        seed: int = 0,
        decode: bool = False,
    ) -> None:
        self.folder, self.images, self.prefix, self.decode = folder, images, prefix, decode
        self.names = PathTable(member_names([images.paths[i] for i in range(len(images))]))
        generator = torch.Generator().manual_seed(mix_seed(seed, _ORDER))
        self._order = torch.randperm(len(images), generator=generator).numpy()
        self._bounds = np.linspace(0, len(images), shards + 1).round().astype(np.int64)
        self.made = self._digest()
        self._listed: dict[str, dict[str, Any]] = {}
        self.done: dict[int, Done] = {}
        self._claim()

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def name(self, number: int) -> str:
        return f"{self.prefix}-{number:06d}.tar"

    def members(self, number: int) -> NDArray[np.int64]:
        """Indices of a shard's images, in their order."""
        return self._order[self._bounds[number] : self._bounds[number + 1]]

    def make(self, number: int) -> tuple[Done, bool]:
        """Write a shard, or keep it if it is there and as it should be (True). Any process may do this.

        Raises OSError.
        """
        path = self.folder / self.name(number)
        listed = self._listed.get(path.name)
        if listed is not None and path.exists():
            scanned = scan_shard(path)
            if scanned.shard.sha256 == listed["sha256"] and not scanned.problems:
                return Done(scanned, tuple(map(str, listed.get("left_out", ())))), True
        partial = path.with_name(f".{path.name}.part")
        try:
            with partial.open("wb") as file:
                written, left_out = self._write(file, number)
                file.flush()
                os.fsync(file.fileno())
                with contextlib.suppress(AttributeError, OSError):  # so that it is read from the disk
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            scanned = scan_shard(partial)
            found = list(zip(scanned.names, *_columns(scanned), strict=True))
            if found != written or scanned.problems:
                raise OSError(0, "what was read back is not what was written", str(path))
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        shard = scanned.shard
        named = type(shard)(path.name, shard.samples, shard.bytes, shard.sha256)
        return Done(ScannedShard(named, scanned.records, scanned.names, []), tuple(left_out)), False

    def note(self, number: int, done: Done) -> None:
        """List a shard as done. Raises OSError."""
        self.done[number] = done
        shard = done.scanned.shard
        self._listed[shard.name] = {"sha256": shard.sha256, "left_out": list(done.left_out)}
        if not (self.folder / INDEX).exists():
            self._save()

    def finish(self) -> ShardIndex:
        """Write the index of all shards. Raises OSError; InputError where not one image could be read."""
        scanned = [self.done[number].scanned for number in range(len(self))]
        index = joined(scanned, str(self.folder), classes=self.images.classes or None, made=self.made)
        write_index(self.folder, index)
        (self.folder / MAKING).unlink(missing_ok=True)
        return index

    def _write(self, file: BinaryIO, number: int) -> tuple[list[tuple[str, int, int, int]], list[str]]:
        """(name, size, label, CRC-32) of what was written, and a line for each image that could not be."""
        written, left_out = [], []
        labelled = bool(self.images.classes)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for index in self.members(number).tolist():
                try:
                    data = self.images.read(index)
                    if not data:
                        raise UnreadableImage(self.images.path(index), "empty file")
                    if self.decode:
                        decode_data(data, self.images.path(index))
                except UnreadableImage as error:
                    left_out.append(str(error))
                    continue
                name, label = self.names[index], int(self.images.labels[index])
                _add(tar, name, data)
                if labelled:
                    _add(tar, f"{name.rpartition('.')[0]}.{LABEL_SUFFIX}", b"%d" % label)
                written.append((name, len(data), label, zlib.crc32(data)))
        return written, left_out

    def _digest(self) -> str:
        """Of everything that decides what lies in which shard, but for the images' bytes."""
        digest = hashlib.sha256(self.names.to_bytes())
        for part in (self.images.labels, self._order, self._bounds):
            digest.update(part.astype("<i8").tobytes())
        digest.update(json.dumps([self.prefix, self.decode, self.images.classes]).encode())
        return digest.hexdigest()

    def _claim(self) -> None:
        """Take the folder, with the shards of an earlier run of the same making."""
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = sorted(path.name for path in folder.iterdir())
            hidden = (f".{name}.part" for name in (INDEX, RECORDS, MAKING))
            known = {INDEX, RECORDS, MAKING, *hidden}
            others = [name for name in found if name not in known and not _OURS.fullmatch(name)]
            if others:
                raise InputError(f"{folder} holds something else ({others[0]}); choose another --out")
            made = self._read_listed(found)
            if made is None and any(name.endswith(".tar") for name in found):
                raise InputError(f"{folder} holds shards of unknown making; choose another --out")
            if made not in (None, self.made):
                raise InputError(
                    f"{folder} holds shards of other images, or made with another --seed or size; choose another --out"
                )
            for name in found:
                if name.endswith(".part"):
                    (folder / name).unlink()
            if INDEX not in found:
                self._save()
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror}") from error

    def _read_listed(self, found: Iterable[str]) -> str | None:
        if INDEX in found:
            index = read_index(self.folder)
            self._listed = {shard.name: {"sha256": shard.sha256} for shard in index.shards}
            return index.made or "unknown"
        if MAKING not in found:
            return None
        try:
            content = json.loads((self.folder / MAKING).read_text(encoding="utf-8"))
            self._listed = {
                str(name): {"sha256": str(entry["sha256"]), "left_out": list(entry.get("left_out", ()))}
                for name, entry in content["shards"].items()
            }
            return str(content["made"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{self.folder / MAKING}: not a list of finished shards") from error

    def _save(self) -> None:
        content = {"made": self.made, "shards": self._listed}
        write_whole(self.folder / MAKING, json.dumps(content).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _columns(scanned: ScannedShard) -> tuple[list[int], list[int], list[int]]:
    records = scanned.records
    return records["size"].tolist(), records["label"].tolist(), records["crc"].tolist()
