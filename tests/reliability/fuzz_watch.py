"""What a reader of a strange file may do: give a value or a documented error, soon, and touch nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from cgc.data.decode import UnreadableImage
from cgc.errors import InputError
from tests.reliability.fuzz_changes import Target

SECONDS = 10.0  # of the processor, for an input
_OPENED = (
    "open",
    "os.listdir",
    "os.scandir",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "shutil.rmtree",
)
_STARTED = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "socket.getaddrinfo",
)
# What Python itself may read while a reader works: modules imported late, and what the system tells of the machine.
_PYTHON_S = tuple(map(os.path.realpath, (sys.prefix, sys.base_prefix, Path(__file__).parents[2])))
_OTHERS = (*_PYTHON_S, sys.prefix, "/usr/lib", "/usr/share/zoneinfo", "/proc", "/sys", "/dev")

_guarded: list[str] = []  # the folder that may be touched now
_hooked: list[bool] = []


class TooSlow(BaseException):
    """No ``Exception``: a reader that catches those must not catch this."""


class Effect(BaseException):
    """Something was opened, started or asked that no reader needs."""


def try_input(target: Target, folder: Path, data: bytes) -> tuple[bool, str | None, str]:
    """Whether the reader took it; what is wrong if it gave neither a value nor a documented error; what that says."""
    try:
        with _guard(folder), _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.call(folder, data)
    except target.allowed as error:
        said = str(error)
        return False, f"a message of several lines: {said!r:.200}" if "\n" in said else None, said
    except (Exception, TooSlow, Effect) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})"
        return False, what, ""
    return True, None, ""


def refusal(folder: Path, call: Callable[[], object]) -> str:
    """What a reader of files in the folder refuses with; AssertionError if it does not, or does anything else."""
    allowed = (InputError, UnreadableImage)
    accepted, wrong, said = try_input(Target("", lambda _: [], lambda *_: call(), allowed), folder, b"")
    assert not accepted, "accepted"
    assert wrong is None, wrong
    return said


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked.append(True)
    _guarded.append(os.path.realpath(folder))
    try:
        yield
    finally:
        _guarded.pop()


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guarded:
        return
    if event in _STARTED:
        raise Effect(f"{event} {arguments!r:.100}")
    if event in _OPENED and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        writes = event not in ("open", "os.listdir", "os.scandir") or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        allowed = (_guarded[-1], *(("/dev/null",) if writes else _OTHERS))
        if not any(path == place or path.startswith(f"{place}/") for place in allowed):
            raise Effect(f"{event} {path!r:.150}")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {SECONDS:g} seconds")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
