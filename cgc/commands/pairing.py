"""torch and torchvision must be a pair."""

from __future__ import annotations

import sys


def require_torchvision() -> None:
    """Import torchvision; if it does not fit the installed torch, end with what to do about it (exit status 2).

    A CPU-only torch beside the package index's torchvision fails deep inside the import with "operator
    torchvision::nms does not exist".
    """
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, OSError) as error:
        import torch

        if "torchvision" not in str(error) and "undefined symbol" not in str(error):
            raise
        print(
            f"error: torchvision does not fit torch {torch.__version__} ({str(error).splitlines()[0]}); "
            "they are a pair: pip uninstall -y torch torchvision && pip install torch torchvision",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
