"""`python -m cgc label-subset DATA --percent 1 --out FOLDER --links`: a training set with few labels."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgc.commands.options import Parser, percentage, run_command, seed
from cgc.data.folders import ImageList, open_split
from cgc.data.label_subset import draw_subset, read_list, refuse_existing, take, write_links, write_list
from cgc.data.shards.folders import refuse_shards
from cgc.errors import InputError

_HELD_OUT = ("val", "test")
_OTHER_SHARE = Fraction(1, 10)  # a list may miss the given percentage by such a part of it


def main(argv: Sequence[str] | None = None) -> int:
    """Choose and write; 0, or 2 for input that cannot be used, 1 if writing fails (one line on stderr)."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc label-subset",
        description="Choose some of the training images, whose labels are used: drawn class by class, or from a list.",
        epilog="Of every class the percentage is rounded to the nearest number, halves up, and is at least one image. "
        "With one seed the images of 1 % are among those of 10 %.",
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="dataset folder with train/CLASS/*, tiny-imagenet's too")
    add("--percent", type=percentage, metavar="P", help="share of each class's images, above 0 and up to 100")
    add(
        "--list",
        type=Path,
        metavar="FILE",
        help="the images, one a line: n01440764_10026.JPEG, or a path below train/; with --percent too, the list must "
        "hold about so many",
    )
    add("--skip-missing", action="store_true", help="leave out what DATA lacks of the --list")
    add("--seed", type=seed, default=0, help="of the draw (0)")
    add("--out", type=Path, required=True, metavar="OUT", help="list to write; with --links, folder to make")
    links = "make a folder of relative links: OUT/train with the images, OUT/val and OUT/unlabeled to DATA's"
    add("--links", action="store_true", help=links)
    return parser


def run(options: argparse.Namespace) -> int:
    """Choose, write, say what was written.

    Raises:
        InputError: neither a percentage nor a list, an unusable dataset or list, or an OUT that is there already.
        RunError: OUT could not be written.
    """
    if options.percent is None and options.list is None:
        raise InputError("give the share to draw with --percent P, or the images with --list FILE")
    if options.skip_missing and options.list is None:
        raise InputError("--skip-missing is about the --list")
    refuse_existing(options.out)
    refuse_shards(options.data)
    images = open_split(options.data, "train")
    if images.root.resolve() in options.out.resolve().parents:
        raise InputError(f"{options.out} lies in {images.root}, where it would count as training images")
    subset = take(images, _chosen(options, images))
    if not options.links:
        write_list(options.out, subset)
        print(f"written: {options.out}")
        return 0
    held_out = {name: options.data / name for name in _HELD_OUT if (options.data / name).is_dir()}
    write_links(options.out, subset, {**held_out, "unlabeled": images.root})
    if not held_out:
        names = " or ".join(map(repr, _HELD_OUT))
        print(f"{options.data} has no folder {names}: nothing to validate on", file=sys.stderr)
    print(
        f"written: {', '.join(os.path.join(options.out, name) for name in ('train', *held_out, 'unlabeled'))}"
    )
    return 0


def _chosen(options: argparse.Namespace, images: ImageList) -> NDArray[np.int64]:
    """Positions of the chosen images; how many they are is said."""
    percent: Fraction | None = options.percent
    missing: list[str] = []
    if options.list is None:
        assert percent is not None
        indices = draw_subset(images, percent, options.seed)
    else:
        indices, missing = read_list(options.list, images, skip_missing=options.skip_missing)
    share = Fraction(100 * len(indices), len(images))
    if options.list is not None and percent is not None and abs(share - percent) > _OTHER_SHARE * percent:
        raise InputError(
            f"{options.list} holds {float(share):.3g} % of {images.root}, not {float(percent):g} %"
        )
    counts = np.bincount(images.labels[indices], minlength=len(images.classes))
    each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    print(
        f"{len(indices)} of {len(images)} training images ({float(share):.3g} %), {each} of each of "
        f"{len(images.classes)} classes"
    )
    if missing:
        more = ", …" if len(missing) > 1 else ""
        print(
            f"left out: {len(missing)} of the list are not in {images.root}: {missing[0]}{more}",
            file=sys.stderr,
        )
    return indices
