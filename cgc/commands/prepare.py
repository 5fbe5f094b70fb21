"""`python -m cgc prepare NAME --out DIR --from ARCHIVES`: datasets from their archives; and a check of any folder."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from cgc.commands.options import Parser, non_negative_int, run_command
from cgc.data.prepare.check import check_folder
from cgc.data.prepare.registry import PREPARATIONS
from cgc.data.prepare.run import Wish, prepare, sources_text
from cgc.engine.records import write_json
from cgc.engine.runtime import bar_interval
from cgc.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, check or list; 0, 2 for input that cannot be used, 1 if that failed or the check found problems."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc prepare",
        description="Make a dataset's folder as training and evaluation read it, from the archives that it is "
        "distributed in, or check one. The same command goes on after a stop; a finished folder is left as it is.",
        epilog="Without --from, what torchvision can fetch is downloaded. Every dataset has terms of its own.",
    )
    add = parser.add_argument
    names = f"what to prepare: {', '.join(PREPARATIONS)}; or list: what each needs"
    add("name", nargs="?", metavar="NAME", help=names)
    add("--out", type=Path, metavar="DIR", help="folder to make, or to go on with")
    given = "archives by the names that they are distributed under, or folders that hold them"
    add("--from", dest="given", type=Path, nargs="+", default=[], metavar="ARCHIVE", help=given)
    add(
        "--variant",
        metavar="V",
        help="of imagenette a size, of coco a year, of flowers and aircraft a split; see list",
    )
    add("--no-download", action="store_true", help="fetch nothing: missing archives are an error")
    add("--no-checksum", action="store_true", help="do not compare with the MD5 that torchvision knows")
    add("--keep-archives", action="store_true", help="keep what was downloaded, in DIR/.archives")
    check = "report counts, classes, annotations and broken files of DIR (of --out's where none is given)"
    add("--check", type=Path, nargs="?", const=True, metavar="DIR", help=check)
    listing = "with --check: training folder or text file with the classes that annotations name"
    add("--classes", type=Path, metavar="PATH", help=listing)
    add("--fast", action="store_true", help="with --check: read the images' headers instead of decoding them")
    add("--out-json", type=Path, metavar="FILE", help="with --check: the report as JSON")
    add(
        "-j",
        "--workers",
        type=non_negative_int,
        default=4,
        help="processes that decode (default: %(default)s)",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Do what was asked. Raises InputError and RunError."""
    if options.check is None and (options.fast or options.classes or options.out_json):
        raise InputError("--fast, --classes and --out-json are about --check")
    if options.out_json is not None and not options.out_json.absolute().parent.is_dir():
        raise InputError(f"{options.out_json}: no such folder to write it into")
    asked = options.check if isinstance(options.check, Path) else None
    if options.out is None and asked is not None:
        if options.given:
            raise InputError("--from needs --out DIR: where the dataset is made")
        return _check(asked, options.name, options)
    if options.name in (None, "list"):
        if options.out is not None or options.check is not None:
            raise InputError(f"give the NAME of the dataset: {', '.join(PREPARATIONS)}")
        print(sources_text(list(PREPARATIONS)))
        return 0
    if options.out is None:
        raise InputError("--out DIR is needed: where the dataset is made")
    if asked is not None and asked.resolve() != options.out.resolve():
        raise InputError(f"--check {asked} is another folder than --out {options.out}: two commands")
    wish = Wish(
        options.name,
        options.out,
        tuple(options.given),
        options.variant,
        not options.no_download,
        not options.no_checksum,
        options.keep_archives,
    )
    try:
        prepare(wish, _bar(), print)
    except KeyboardInterrupt:
        print("the same command goes on where this one stopped", file=sys.stderr)
        raise
    return 0 if options.check is None else _check(options.out, options.name, options)


def _check(root: Path, name: str | None, options: argparse.Namespace) -> int:
    found = check_folder(
        root, name=name, classes=options.classes, fast=options.fast, workers=options.workers, progress=_bar()
    )
    print(found.text())
    if options.out_json is not None:
        write_json(options.out_json, found.as_json())
        print(f"written: {options.out_json}")
    return 1 if found.problems else 0


def _bar() -> functools.partial[tqdm]:
    return functools.partial(tqdm, mininterval=bar_interval())
