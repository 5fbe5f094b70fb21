"""Archives read member by member: tar in any compression, and zip. Nothing is written here.

Only regular files are handed out, by names that stay inside a folder. An archive that holds anything else (a link, a
device, a path to somewhere else) is refused where that is met: no dataset that is prepared here has such members.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from cgc.data.annotations import inside_folder, shown
from cgc.errors import InputError, RunError

_END = bytes(tarfile.BLOCKSIZE)  # a block of zeros ends a tar file
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_UNPACKERS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file, mode="rb")),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
)


@dataclass(frozen=True)
class Member:
    """A regular file of an archive. ``size`` in bytes; ``read_so_far``: bytes of the archive up to here."""

    name: str
    size: int
    read_so_far: int
    open: Callable[[], IO[bytes]]


def members(path: Path, *, nested: bool = False) -> Iterator[Member]:
    """The files in an archive, in its order; hidden ones (``._x``, ``__MACOSX``) are left out.

    ``nested``: files ending in ``.tar`` are themselves archives, whose members are given as ``<its name>/<member>``.

    Raises:
        InputError: no such file, no archive, one that is cut off or damaged, or a member that is refused.
        RunError: the disk could not be read.
    """
    with _said(path):
        file = path.open("rb")
    with file:
        with _said(path):
            start = file.read(6)
            file.seek(0)
        if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _zip_members(path, file)
            return
        unpacker = next((make for magic, make in _UNPACKERS if start.startswith(magic)), None)
        with _said(path):
            content = _Watched(unpacker(file) if unpacker else file)
        yield from _tar_members(path, content, file.tell, nested)
        with _said(path):
            while content.read(1 << 20):  # up to the checksum of what was compressed
                pass


def read_member(path: Path, member: Member, *, most: int = 256 << 20) -> bytes:
    """The bytes of a small file. Raises InputError for a damaged archive, or more bytes than ``most``."""
    if member.size > most:
        raise InputError(f"{path}: {member.name} has {member.size:,} bytes, more than such a file should")
    with _said(path), member.open() as file:
        return file.read()


def chunks(path: Path, member: Member) -> Iterator[bytes]:
    """The bytes of a file, a piece at a time. Raises InputError where the archive ends before the file does."""
    left = member.size
    with _said(path):
        file = member.open()
    with file:
        while True:
            with _said(path):
                piece = file.read(1 << 20)
                if not piece and left:
                    raise EOFError
            if not piece:
                return
            left -= len(piece)
            yield piece


def unpacked_size(path: Path) -> int:
    """Bytes that the content of an archive takes up: exact for zip, at least so many for compressed tar."""
    if zipfile.is_zipfile(path):
        with _said(path), zipfile.ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    with _said(path):
        return path.stat().st_size


class _Watched:
    """A file that tarfile reads, and what it read last."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        self.last = self._file.read(size)
        return self.last

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def seekable(self) -> bool:
        return True


def _tar_members(
    path: Path,
    content: _Watched,
    position: Callable[[], int],
    nested: bool,
    ends: tuple[bytes, ...] = (_END,),
) -> Iterator[Member]:
    """``ends``: what may be read last."""
    with _said(path):
        archive = tarfile.TarFile(fileobj=cast("IO[bytes]", content))
    with archive:
        entries = iter(archive)
        while True:
            with _said(path):
                info = next(entries, None)
                if info is None and content.last not in ends:  # tarfile takes a damaged header for the end
                    raise EOFError
            if info is None:
                return
            name = _checked(path, info.name)
            if info.isdir():
                continue
            if not info.isreg():
                raise InputError(
                    f"{path}: {shown(info.name)} is a link or a device, which is refused; unpacking stopped"
                )
            if _hidden(name):
                continue
            if not (nested and name.endswith(".tar")):
                yield Member(name, info.size, position(), _opener(archive, info))
                continue
            with _said(path):
                inner = _Watched(_opener(archive, info)())
            folder = PurePosixPath(name).stem
            for member in _tar_members(path, inner, position, False, (_END, b"")):
                yield Member(f"{folder}/{member.name}", member.size, member.read_so_far, member.open)


def _opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        file = archive.extractfile(info)
        assert file is not None  # it is a regular file
        return file

    return opened


def _zip_members(path: Path, file: IO[bytes]) -> Iterator[Member]:
    with _said(path):
        archive = zipfile.ZipFile(file)
    done = 0
    with archive:
        for info in archive.infolist():
            done += info.compress_size
            name = _checked(path, info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                raise InputError(
                    f"{path}: {shown(info.filename)} is a link or a device, which is refused; unpacking stopped"
                )
            if info.flag_bits & 1:
                raise InputError(f"{path}: {shown(info.filename)} is encrypted")
            if not _hidden(name):
                yield Member(name, info.file_size, done, lambda info=info: archive.open(info))  # type: ignore[misc]


def _checked(path: Path, name: str) -> str:
    # What Windows would take for a folder or a drive has no place in these archives either.
    if not inside_folder(name) or "\\" in name or name[1:2] == ":":
        raise InputError(f"{path}: {shown(name)} lies outside of the archive's folder, which is refused")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """What goes wrong while reading, in one line."""
    try:
        yield
    except (tarfile.ReadError, EOFError, zlib.error) as error:
        text = str(error)
        if isinstance(error, tarfile.ReadError) and "end of data" not in text:
            raise InputError(f"{path}: no archive that can be read (tar, tar.gz, zip), or damaged") from error
        raise InputError(f"{path}: the archive is cut off or damaged; get it again") from error
    except (*_DAMAGED, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: the archive is cut off or damaged ({reason[:80]}); get it again"
        ) from error
    except OSError as error:
        if error.errno is None:  # a decompressor's complaint
            raise InputError(f"{path}: the archive is cut off or damaged ({error}); get it again") from error
        if isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError)):
            raise InputError(f"{path}: {error.strerror}") from error
        raise RunError(f"{path}: {error.strerror}") from error
