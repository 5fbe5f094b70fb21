"""The two ways a command ends badly; everything else that escapes is a bug and keeps its traceback."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used: one line that names the path or value. Exit status 2."""


class RunError(RuntimeError):
    """A run that started properly could not go on (NaN loss, full disk): one line. Exit status 1."""
