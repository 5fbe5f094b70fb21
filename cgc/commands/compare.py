"""`python -m cgc compare A.csv B.csv …`: what changed from one evaluation to another, image by image."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cgc.commands.options import Parser, non_negative_int, run_command
from cgc.errors import InputError, RunError
from cgc.report.comparison import as_json, compare, text
from cgc.report.score_files import read_scores


def main(argv: Sequence[str] | None = None) -> int:
    """Compare evaluations; 0, or 2 for a file that cannot be used (one line on stderr)."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc compare",
        description="Paired differences of evaluations of the same images, with bootstrap intervals over images.",
        epilog="The CSV files are those that `python -m cgc evaluate … --out FILE.json` writes beside its summary.",
    )
    add = parser.add_argument
    add("first", type=Path, metavar="A.csv", help="rows of the evaluation that the others are held against")
    add("others", type=Path, nargs="+", metavar="B.csv", help="rows of other evaluations, each against A")
    add("--out", type=Path, metavar="FILE.json", help="everything unrounded: a list, one entry per B")
    add("--top", type=non_negative_int, default=5, metavar="N", help="rows that gained and lost most CH (5)")
    draws = "resamples of the images for the 95 %% intervals, 0: none (1000)"
    add("--draws", type=non_negative_int, default=1000, metavar="N", help=draws)
    return parser


def run(options: argparse.Namespace) -> int:
    """Compare, print, write.

    Raises:
        InputError: a file is no CSV of an evaluation, two have nothing in common, or ``--out`` cannot be used.
        RunError: the result could not be written.
    """
    out: Path | None = options.out
    if out is not None and (out.suffix.lower() != ".json" or out.is_dir() or not out.parent.is_dir()):
        raise InputError(f"--out {out}: must be a file called .json in a folder that is there")
    first = read_scores(options.first)
    found = [
        compare(first, read_scores(other), top=options.top, draws=options.draws) for other in options.others
    ]
    print("\n\n\n".join(map(text, found)))
    if out is not None:
        content = json.dumps([as_json(each) for each in found], indent=2, ensure_ascii=False, allow_nan=False)
        try:
            out.write_text(content + "\n", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{out} cannot be written: {error.strerror}") from error
        print(f"\nwritten: {out}")
    return 0
