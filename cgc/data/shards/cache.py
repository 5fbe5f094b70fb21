"""Files of an HTTP server, kept in a folder of limited size that several processes share.

A file is fetched whole when it is first needed: into a partial file, with a time limit on every wait, going on where a
broken attempt stopped if the server allows that; its size and SHA-256 are checked, and a rename makes it visible. The
files used longest ago make room for new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cgc.data.shards.network import Failed, Stalled, faults, one_line, opened
from cgc.errors import InputError

_PIECE = 1 << 16  # bytes; less than this within the time limit is a stall, and no progress
_REMEMBERED = 300.0  # seconds in which a file that could not be fetched is not asked for again
_SHORT = 5.0  # seconds for the one attempt at each further file, once a file was lost to a silent server
_STALE = 86400.0  # seconds after which a partial file that nobody goes on with is removed
_LARGEST_UNKNOWN = 1 << 28  # bytes of a file whose size nobody told
_FINAL = (400, 401, 403, 404, 410)  # answers that another attempt will not change
_URL = re.compile(r"(https?):/+(.+)", re.IGNORECASE)


class Unavailable(Exception):
    """A file that cannot be had: one line that names it and says why."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class CacheOptions:
    """``tries`` in a row that bring next to nothing new; ``pause`` seconds between them, doubled each time."""

    folder: Path
    bytes: int = 64 << 30
    timeout: float = 30.0
    tries: int = 4
    pause: float = 1.0


def default_cache() -> Path:
    """The user's folder for what can be fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgc" / "shards"


def as_url(place: str | Path) -> str | None:
    """The http(s) URL that a place is, None if it is none. A URL may have been a Path, which keeps one slash of two."""
    match = _URL.fullmatch(str(place))
    return None if match is None else f"{match[1].lower()}://{match[2].rstrip('/')}"


class CachedFiles:
    """The files below one URL, whose query, if it has one, goes with every request.

    Raises InputError for a URL with a password in it, which would show in messages.
    """

    def __init__(self, url: str, options: CacheOptions) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.username or parts.password or not parts.hostname:
            raise InputError(
                f"{parts.hostname or url}: a URL of shards is http(s)://HOST/…, without a password"
            )
        self.options, self._query = options, parts.query
        self._silent = 0  # files in a row that this process lost to a silent server
        self.url = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = options.folder / digest / (Path(parts.path).name or "shards")

    def path(self, name: str, size: int, sha256: str = "", *, note: bool = True) -> Path:
        """The local copy of a file, fetched if it is not there. ``note``: try hard, and tell the others if it
        cannot be had.

        Raises Unavailable, also for a file that another process failed to fetch a moment ago; InputError where the
        cache cannot be written.
        """
        # By content: another making of the shards has files of the same names, and often of the same sizes.
        kept = f"{Path(name).stem}-{sha256[:16]}{Path(name).suffix}" if sha256 else name
        target = self.folder / kept
        try:
            if self._is_there(target, size):
                os.utime(target)
                return target
            self.folder.mkdir(parents=True, exist_ok=True)
            with _own_lock(), _locked(self._hidden(kept, "lock")):
                if self._is_there(target, size):  # another process was faster
                    return target
                self._check_failure(kept)
                self._make_room(size)
                self._fetch(name, target, size, sha256, note=note)
        except OSError as error:
            raise InputError(f"the cache {self.options.folder}: {error.strerror or error}") from error
        return target

    def read(self, name: str) -> bytes:
        """A small file, fetched anew; failures of an earlier run are forgotten. Raises as :meth:`path`."""
        target = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for note in self.folder.glob(".*.failed"):
                note.unlink(missing_ok=True)
            with _own_lock(), _locked(self._hidden(name, "lock")):
                self._fetch(name, target, None, "")
                return target.read_bytes()
        except OSError as error:
            raise InputError(f"the cache {self.options.folder}: {error.strerror or error}") from error

    @property
    def _timeout(self) -> float:
        """A server that was silent over one file may be so over all, and there may be many."""
        return min(self.options.timeout, _SHORT) if self._silent else self.options.timeout

    def _is_there(self, target: Path, size: int) -> bool:
        try:
            return target.stat().st_size == size
        except FileNotFoundError:
            return False

    def _hidden(self, name: str, suffix: str) -> Path:
        return self.folder / f".{name}.{suffix}"

    def _check_failure(self, name: str) -> None:
        note = self._hidden(name, "failed")
        with contextlib.suppress(FileNotFoundError):
            if time.time() - note.stat().st_mtime < _REMEMBERED:
                raise Unavailable(note.read_text(encoding="utf-8"))
            note.unlink(missing_ok=True)

    def _note_failure(self, name: str, message: str) -> None:
        with contextlib.suppress(OSError):
            self._hidden(name, "failed").write_text(message, encoding="utf-8")

    def _fetch(self, name: str, target: Path, size: int | None, sha256: str, *, note: bool = True) -> None:
        options, partial = self.options, self._hidden(target.name, "part")
        tries = 1 if self._silent or not note else options.tries
        failures, most, reason, stalled = 0, 0, "", False
        while failures < tries:
            if failures:
                time.sleep(options.pause * 2 ** (failures - 1))
            try:
                self._transfer(name, partial, size)
                self._check(partial, sha256)
                self._make_room(0)  # others may have fetched meanwhile
                os.replace(partial, target)
                self._silent = 0
                return
            except urllib.error.HTTPError as error:
                reason = f"the server says {error.code} {one_line(error.reason)}"
                error.close()
                if error.code in _FINAL:
                    message = f"{self.url}/{name}: {reason}"
                    self._note_failure(target.name, message)
                    raise Unavailable(message, missing=error.code in (404, 410)) from error
            except Failed as error:
                reason, stalled = str(error), isinstance(error, Stalled)
            reached = partial.stat().st_size if partial.exists() else 0
            failures = failures + 1 if reached < most + _PIECE else 1
            most = max(most, reached)
        message = f"{self.url}/{name}: {reason} ({tries} tries)"
        if not note:
            raise Unavailable(message)
        self._note_failure(target.name, message)
        self._silent = self._silent + 1 if stalled else 0
        if self._silent == 2:
            print(f"{message}; the server is silent, still trying", file=sys.stderr, flush=True)
        raise Unavailable(message)

    def _transfer(self, name: str, partial: Path, size: int | None) -> None:
        """One attempt. Raises Failed or HTTPError for the network's faults, OSError for the disk's."""
        have = partial.stat().st_size if partial.exists() else 0
        if have and have == size:
            return
        if size is None or have > size:
            have = 0
        url = f"{self.url}/{urllib.parse.quote(name)}" + (f"?{self._query}" if self._query else "")
        headers = {"User-Agent": "cgc", "Accept-Encoding": "identity"}
        request = urllib.request.Request(
            url, headers={**headers, **({"Range": f"bytes={have}-"} if have else {})}
        )
        answer = opened(request, self._timeout)
        with answer:
            goes_on = answer.status == 206 and str(answer.headers["Content-Range"]).startswith(
                f"bytes {have}-"
            )
            with partial.open("ab" if have and goes_on else "wb") as file:
                self._copy(answer, file, size)

    def _copy(self, answer: http.client.HTTPResponse, file: BinaryIO, size: int | None) -> None:
        timeout, most = self._timeout, _LARGEST_UNKNOWN if size is None else size
        size = answer.length if size is None else size
        mark, since = time.monotonic(), 0
        while True:
            with faults(timeout):
                piece = answer.read1(_PIECE)
            if not piece:
                break
            file.write(piece)
            since += len(piece)
            if file.tell() > most:
                raise Failed(f"more than {most} bytes, which is all that was expected")
            if since >= _PIECE:
                mark, since = time.monotonic(), 0
            elif time.monotonic() - mark > timeout:
                raise Stalled(f"less than {_PIECE >> 10} KiB within {timeout:g} s")
        if size is not None and file.tell() < size:
            raise Failed(f"the connection ended after {file.tell()} of {size} bytes")

    def _check(self, partial: Path, sha256: str) -> None:
        if sha256 and file_digest(partial) != sha256:
            partial.unlink()  # going on with it would not mend it
            raise Failed("not the bytes that the index lists (SHA-256)")

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until ``size`` bytes fit, and partial files that were given up."""
        with _locked(self.options.folder / ".lock"):
            found, total = [], size
            for path in self.options.folder.glob("*/*/*"):
                with contextlib.suppress(FileNotFoundError):  # another process may move or remove it
                    status = path.stat()
                    if path.name.endswith(".part") and time.time() - status.st_mtime > _STALE:
                        path.unlink()
                        continue
                    total += status.st_size
                    if path.suffix == ".tar":
                        found.append((status.st_mtime_ns, status.st_size, path))
            for _, freed, path in sorted(found):
                if total <= self.options.bytes:
                    break
                path.unlink(missing_ok=True)
                total -= freed


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


_own_locks: dict[int, threading.RLock] = {}


def _own_lock() -> threading.RLock:
    """One thread of this process at a time: locks on files belong to processes.

    They keep out no other thread, and two threads that hold and wait look like a deadlock to the kernel. A forked
    process has a lock of its own, since nobody would ever release its copy of one that was held.
    """
    return _own_locks.setdefault(os.getpid(), threading.RLock())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time. The lock ends with the process, and is not inherited by those that it forks."""
    import fcntl  # not on Windows

    with path.open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
