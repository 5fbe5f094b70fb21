"""Sizes of many image files, from their headers alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

_NO_FILE = "no such file"


class NoSize(NamedTuple):
    """Why a file has no size: a kind of trouble, and what it is."""

    reason: str
    what: str


def header_sizes(paths: Sequence[Path]) -> Iterator[tuple[int, int] | NoSize]:
    """(height, width) of each file in turn, several read at once because disks make us wait."""
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for path, size in zip(paths, pool.map(header_size, paths), strict=True):
            if not isinstance(size, str):
                yield size
            elif size == _NO_FILE:
                yield NoSize("image not on disk", str(path))
            else:
                yield NoSize("unreadable image", f"{path}: {size}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupted reader does not wait for the rest


def header_size(path: Path) -> tuple[int, int] | str:
    """(height, width) from the file's header, or what is wrong with it."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError:
        return _NO_FILE
    except Exception as error:  # Pillow raises many kinds for broken files
        return "not an image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
