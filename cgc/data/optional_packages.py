"""Packages that only some layouts need."""

from __future__ import annotations

import importlib
from typing import Any

from cgc.errors import InputError


def optional_package(module: str, install: str, purpose: str) -> Any:
    """The module, imported now. InputError with the line that installs it where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{purpose} need a package that is not installed: pip install {install}") from None
