"""``extract_negative_image_list.py``: for every category of COCO the images that do not contain it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cgc.commands.options import Parser, run_command
from cgc.data.grids import DISTRACTORS
from cgc.data.negatives import UNLISTED, NegativeImages, negatives_from_coco, write_negatives
from cgc.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Write the list; 0, 2 for input that cannot be used, 1 for a disk that fails (one line on stderr)."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options.annotations, options.out))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="extract_negative_image_list.py",
        description="List for every category the images without it, from which grid consistency on COCO draws.",
    )
    parser.add_argument(
        "annotations", type=Path, metavar="ANNOTATIONS.json", help="e.g. instances_train2014.json"
    )
    parser.add_argument("out", type=Path, metavar="OUT.npz", help="file to write")
    return parser


def run(annotations: Path, out: Path) -> int:
    """Read, write, and say what was left out.

    Raises:
        InputError: the annotations are not COCO's JSON, or the output is not a .npz file in a folder that is there.
        RunError: the list could not be written.
    """
    if out.suffix.lower() != ".npz" or out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out}: must be a file called .npz in a folder that is there")
    negatives, skipped = negatives_from_coco(annotations)
    write_negatives(negatives, out)
    print("\n".join(_summary(negatives, skipped)))
    print(f"written: {out}")
    return 0


def _summary(negatives: NegativeImages, skipped: dict[str, list[str]]) -> list[str]:
    counts = negatives.counts()
    least = min(range(len(counts)), key=counts.__getitem__)
    lines = [
        f"{len(negatives.names)} images with annotations, {len(negatives.categories)} categories",
        f"most frequent: {negatives.categories[least]!r}, which {counts[least]} images do not contain",
    ]
    for reason, what in skipped.items():
        # Unlisted categories are few, and each is named; of the rest an example will do.
        if reason == UNLISTED:
            lines += [f"skipped: {reason}: {line}" for line in what]
        else:
            lines.append(f"skipped: {len(what)} × {reason}, the first: {what[0]}")
    scarce = [name for name, count in zip(negatives.categories, counts, strict=True) if count < DISTRACTORS]
    if scarce:
        lines.append(f"less than {DISTRACTORS} images lack: {', '.join(map(repr, scarce))}")
    return lines
