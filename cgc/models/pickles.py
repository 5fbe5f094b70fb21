"""What a checkpoint's pickles would have torch do, looked at before torch is asked."""

from __future__ import annotations

import io
import pickletools
from pathlib import Path
from typing import IO, Any, Literal

import torch

_LONGEST_NAME = 500  # letters of a type
_ZIP = b"PK\x03\x04"
_IN_OLD_FORMAT = 5  # pickles, one after the other, and then the numbers

_Kind = Literal["mark", "type", "other"]
_CALLS = ("REDUCE", "NEWOBJ")
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


def why_refused(path: Path) -> str | None:
    """Why a file is refused before torch reads it; None where torch may, which refuses much else by itself.

    torch refuses a type that it does not know, and a call of what is no type, with a message that writes it out, and
    then searches that in the square of its length: minutes for 100,000 letters, and all memory for a list that holds
    another ten times, which holds another ten times, and so on.

    Raises OSError, and nearly any other exception for a file that holds no pickles.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:  # as torch tells them apart: a zip file may stand behind an old one
            file.seek(0)
            return next(filter(None, (_unfit(file) for _ in range(_IN_OLD_FORMAT))), None)
    # By torch's own reader: of two tables of contents, or names in capitals, Python's may read another record.
    return _unfit(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))


def _unfit(pickle: IO[bytes]) -> str | None:
    """Follow a pickle's stack of objects, of each of which only the kind is kept."""
    stack: list[_Kind] = []
    memo: dict[Any, _Kind] = {}
    for code, argument, _ in pickletools.genops(pickle):
        if code.name in ("GLOBAL", "INST") and len(str(argument)) > _LONGEST_NAME:
            return f"it names something by more than {_LONGEST_NAME} letters"
        if code.name in _CALLS and stack[-2] != "type":
            return "it calls something that is no type"
        if code.name in _PUTS or code.name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code.name in _GETS:
            stack.append(memo[argument])
        else:
            _take(stack, code)
            stack += [_kind(code, each) for each in code.stack_after]
    return None


def _take(stack: list[_Kind], code: pickletools.OpcodeInfo) -> None:
    """Remove what an instruction works on: a few objects, perhaps those back to the last mark."""
    taken = code.stack_before
    if pickletools.markobject in taken:
        while stack.pop() != "mark":
            pass
        taken = taken[: taken.index(pickletools.markobject)]
    for _ in taken:
        stack.pop()


def _kind(code: pickletools.OpcodeInfo, made: pickletools.StackObject) -> _Kind:
    if made is pickletools.markobject:
        return "mark"
    return "type" if code.name in ("GLOBAL", "STACK_GLOBAL") else "other"
