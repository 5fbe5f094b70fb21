"""Every image file of a folder opened once, by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from cgc.data.decode import UnreadableImage, decode_pixels, read_file
from cgc.data.folders import PathTable
from cgc.data.image_headers import header_size
from cgc.data.prepare.extraction import Progress
from cgc.data.workers import worker_options

_AT_ONCE = 32  # images that a process takes


def broken_images(paths: PathTable, *, fast: bool, workers: int, progress: Progress) -> list[str]:
    """``path: reason`` of every file that cannot be decoded; ``fast``: whose header cannot be read."""
    found: list[str] = []
    work = _Work(paths, fast)
    workers = min(
        workers, len(work), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers
    )
    chunks: Iterator[tuple[int, list[str]]] = iter(
        DataLoader(
            work,
            batch_size=None,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else it would draw from the global one
            **worker_options(workers),
        )
    )
    with progress(total=len(paths), unit="image", desc="headers" if fast else "decoding") as bar:
        for count, lines in chunks:
            found += lines
            bar.update(count)
    return found


def once_each(paths: Iterable[Path]) -> PathTable:
    """Paths without those that are the same file as one before (hard links); those that are not there are kept."""
    seen: set[tuple[int, int]] = set()
    kept: dict[str, None] = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            kept[os.fspath(path)] = None
            continue
        key = (status.st_dev, status.st_ino)
        if key not in seen:
            seen.add(key)
            kept[os.fspath(path)] = None
    return PathTable(list(kept))


class _Work(Dataset[Any]):
    def __init__(self, paths: PathTable, fast: bool) -> None:
        self.paths, self.fast = paths, fast

    def __len__(self) -> int:
        return -(-len(self.paths) // _AT_ONCE)

    def __getitem__(self, number: int) -> tuple[int, list[str]]:
        first = number * _AT_ONCE
        last = min(first + _AT_ONCE, len(self.paths))
        lines = [self._problem(Path(self.paths[k])) for k in range(first, last)]
        return last - first, [line for line in lines if line]

    def _problem(self, path: Path) -> str:
        if self.fast:
            size = header_size(path)
            return f"{path}: {size}" if isinstance(size, str) else ""
        try:
            decode_pixels(read_file(path), path)
        except UnreadableImage as error:
            return str(error)
        return ""


def _as_it_is(item: Any) -> Any:
    return item
