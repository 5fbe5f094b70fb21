"""The evaluator for the scripts beside this file, which run from any folder and need no installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cgc.commands.evaluate import main

__all__ = ["main"]
