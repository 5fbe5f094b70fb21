"""Members of archives as files below a folder: each one whole or not there, those that are there are kept."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cgc.data.annotations import inside_folder
from cgc.data.prepare.archives import Member, chunks, members, read_member
from cgc.data.saliency_files import write_whole
from cgc.errors import InputError, RunError

Place = Callable[[str], "str | None"]  # member's name -> path below the folder, or None to leave it out
Progress = Callable[..., Any]  # a bar, made as tqdm is
_WORTH_ASKING = 64 << 20  # bytes of a file for which the free space is looked at


class Extracted(NamedTuple):
    """Files of one archive: how many were written now, how many were there, how many were not wanted."""

    written: int
    kept: int
    left_out: int


def extract(
    archive: Path,
    out: Path,
    place: Place,
    progress: Progress,
    *,
    nested: bool = False,
    change: Callable[[str, bytes], bytes] | None = None,
) -> Extracted:
    """Write the members that ``place`` wants. A file that is there with the member's size is kept.

    ``change``: makes of (path below ``out``, bytes) the bytes that are written, for small files; such a file is kept
    whatever its size.

    Raises:
        InputError: see :func:`members`; or none of the members is wanted.
        RunError: a file cannot be written.
    """
    written = kept = left_out = 0
    total = archive.stat().st_size if archive.is_file() else None
    with progress(total=total, unit="B", unit_scale=True, desc=archive.name) as bar:
        for member in members(archive, nested=nested):
            relative = place(member.name)
            bar.update(max(0, member.read_so_far - bar.n))
            if relative is None:
                left_out += 1
                continue
            assert inside_folder(relative), relative
            target = out / relative
            if _is_there(target, None if change else member.size):
                kept += 1
                continue
            _write(archive, member, target, None if change is None else partial(change, relative))
            written += 1
        if total is not None:
            bar.update(max(0, total - bar.n))
    if not written + kept:
        raise InputError(
            f"{archive}: none of its {left_out} files is one that {archive.name} should hold; it is another archive"
        )
    return Extracted(written, kept, left_out)


def need_room(out: Path, needed: int) -> None:
    """Raises InputError if the disk of ``out`` lacks ``needed`` bytes beside what the folder holds already."""
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free and needed - _size_below(out) > free:
        raise InputError(
            f"{out}: unpacking needs {needed / 1e6:,.0f} MB at least, and {free / 1e6:,.0f} MB are free there"
        )


def give_file(source: Path, target: Path) -> None:
    """Let ``target`` be the same file as ``source``, or a copy where the disk knows no hard links.

    Raises RunError.
    """
    try:
        wanted = source.stat()
        if _is_there(target, wanted.st_size):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.unlink(missing_ok=True)
            os.link(source, target)
        except OSError:
            write_whole(target, lambda unfinished: shutil.copyfile(source, unfinished))
    except OSError as error:
        raise RunError(f"{error.filename or target}: {error.strerror or error}") from error


def _is_there(target: Path, size: int | None) -> bool:
    try:
        found = os.lstat(target)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (size is None or found.st_size == size)


def _write(archive: Path, member: Member, target: Path, change: Callable[[bytes], bytes] | None) -> None:
    def fill(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            if change is not None:
                file.write(change(read_member(archive, member)))
                return
            for piece in chunks(archive, member):
                file.write(piece)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.size > _WORTH_ASKING and member.size > shutil.disk_usage(target.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_whole(target, fill)
    except OSError as error:
        raise RunError(f"{target}: {error.strerror or error}; the same command goes on from here") from error


def _size_below(folder: Path) -> int:
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            total += os.lstat(os.path.join(here, name)).st_size
    return total
