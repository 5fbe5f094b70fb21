"""Packages that only some of the project needs: imported when they are used, missed in one line."""

from __future__ import annotations

import importlib
from typing import Any

from cgc.errors import InputError


def optional_package(module: str, install: str, purpose: str) -> Any:
    """The module, imported now.

    Raises InputError with the line that installs it where it, or something that it needs, is missing.
    """
    try:
        importlib.import_module(module.split(".")[0])
        return importlib.import_module(module)
    except ImportError as error:
        what = f"a package that is not installed ({error})"
        raise InputError(f"{purpose} need {what}: pip install {install}") from error
