"""`python -m cgc.commands.reproduce_script SCRIPT …`: a published script where there is no checkout to find it in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cgc.commands import evaluate, evaluate_presets, extract_negatives, train, train_presets
from cgc.commands.options import run_command
from cgc.errors import InputError

NEGATIVES = "extract_negative_image_list.py"


def program(script: str) -> Callable[[Sequence[str]], int]:
    """The command behind a script's name; raises InputError for an unknown one."""
    for name, training in train_presets.PRESETS.items():
        if training.prog == script:
            return lambda argv: train.main(argv, preset=name)
    for name, evaluation in evaluate_presets.PRESETS.items():
        if evaluation.prog == script:
            return lambda argv: evaluate.main(argv, preset=name)
    if script == NEGATIVES:
        return extract_negatives.main
    raise InputError(f"no script {script!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; its exit status, or 2 for an unknown script."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: program(words[0] if words else "")(words[1:]))


if __name__ == "__main__":
    sys.exit(main())
