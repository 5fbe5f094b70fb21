"""`python -m cgc reproduce list | show TABLE | run TABLE`: the papers' tables, row by row."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cgc.commands.options import (
    Parser,
    non_negative_int,
    positive_float,
    positive_int,
    run_command,
)
from cgc.errors import InputError
from cgc.reproduce import collect, text
from cgc.reproduce.chain import Interrupted, run_plan, run_process
from cgc.reproduce.hours import DECODE_MS
from cgc.reproduce.model import Input, Row, Table
from cgc.reproduce.plan import Plan, Settings, inputs_of
from cgc.reproduce.scale import FULL, SCALES
from cgc.reproduce.tables import TABLES, table_called
from cgc.reproduce.tiny_inputs import Drawn

_EPILOG = (
    "Words after -- are added to every training command, for instance -- --amp bf16 --compile. A run that was stopped "
    "is continued by the same command."
)


def main(argv: Sequence[str] | None = None) -> int:
    """List, show or run; 0, 2 for input that cannot be used, 1 for a step that failed, 128 + n if stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    parser = build_parser()
    options = parser.parse_args(words[:at])
    options.extra = words[at + 1 :]
    if any(word.partition("=")[0] == "--resume" for word in options.extra):
        parser.error(
            "--resume after --: every training has --resume auto; --init FILE names what it begins with"
        )
    return run_command(lambda: _run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc reproduce",
        description="The papers' tables: what each row takes and was published with; and runs of them.",
    )
    parts = parser.add_subparsers(dest="action", required=True, metavar="list | show | run")
    parts.add_parser("list", help="the tables, a line each")
    names = f"one of {', '.join(TABLES)}"
    show = parts.add_parser(
        "show", help="layout, rows, commands, predicted hours, published numbers with source"
    )
    show.add_argument("table", metavar="TABLE", help=names)
    show.add_argument("--scale", choices=SCALES, default=FULL, help="whose commands (default: %(default)s)")
    decode = "to decode an image on one core, for the prediction (%(default)s)"
    show.add_argument("--decode-ms", type=positive_float, default=DECODE_MS, metavar="MS", help=decode)
    gpus = "GPUs of the prediction (default: %(default)s)"
    show.add_argument("--num-gpus", type=positive_int, default=1, metavar="N", help=gpus)
    run = parts.add_parser(
        "run", help="train and evaluate row after row, and compare with what was published", epilog=_EPILOG
    )
    run.add_argument("table", metavar="TABLE", help=names)
    _add_run(run)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    data = "the table's data (at the tiny scale images are drawn into OUT/data)"
    add("--data", type=Path, metavar="DIR", help=data)
    other = "another input of the table, as `show TABLE` calls it, e.g. SWAV=swav_800ep_pretrain.pth.tar"
    add("--with", dest="given", action="append", default=[], metavar="NAME=PATH", help=other)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of all runs and of TABLE/table.md")
    add(
        "--seeds",
        type=positive_int,
        default=1,
        metavar="N",
        help="seeds 0 to N - 1 of every row (%(default)s)",
    )
    add("--rows", nargs="+", metavar="ROW", help="only these rows")
    add("--dry-run", action="store_true", help="print the commands that would run, and run none")
    tiny = "tiny: the same chain with a small network, small images and few epochs (default: %(default)s)"
    add("--scale", choices=SCALES, default=FULL, help=tiny)
    drawn = "drawn training images of each class at the tiny scale (%(default)s)"
    add("--per-class", type=positive_int, default=100, metavar="N", help=drawn)
    held_out = "drawn held-out images of each class at the tiny scale (%(default)s)"
    add("--held-out", type=positive_int, default=20, metavar="N", help=held_out)
    add(
        "-j",
        "--workers",
        type=non_negative_int,
        metavar="N",
        help="loader processes (as in the published lines)",
    )
    add("--device", help="cpu, cuda, … (default: as each script finds it)")
    gpus = "a process for each of N GPUs by torchrun; 0: CPU; 1: one GPU (default: all visible ones by DataParallel)"
    add("--num-gpus", type=non_negative_int, metavar="N", help=gpus)


def _run(options: argparse.Namespace) -> int:
    if options.action == "list":
        print(text.listing())
        return 0
    table = table_called(options.table)
    if options.action == "show":
        print(text.shown(table, options.scale, options.decode_ms, options.num_gpus))
        return 0
    return _run_table(table, options)


def _run_table(table: Table, options: argparse.Namespace) -> int:
    """Raises InputError for inputs or rows that are not there, RunError where a step fails."""
    out = options.out.absolute()
    rows = _rows(table, options.rows)
    settings = Settings(
        out,
        _inputs(table, rows, options, out),
        options.scale,
        options.extra,
        options.workers,
        options.device,
        options.num_gpus,
    )
    plan = Plan(table, rows, range(options.seeds), settings)
    if options.dry_run:
        print(text.dry_run(plan))
        return 0

    def write() -> None:
        collect.write(plan, plan.work)

    try:
        run_plan(plan, lambda line: print(line, flush=True), write, run_process)
    except (Interrupted, KeyboardInterrupt) as stop:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return stop.exit_status if isinstance(stop, Interrupted) else 130
    entries = collect.write(plan, plan.work)
    print(
        f"\n{table.title}\n\n{collect.terminal(plan, entries)}\n\nwritten: {plan.work / 'table.md'}, table.json"
    )
    return 0


def _rows(table: Table, names: Sequence[str] | None) -> list[Row]:
    known = {row.name: row for row in table.rows}
    for name in names or ():
        if name not in known:
            raise InputError(f"{table.name} has no row {name!r}; there are: {', '.join(known)}")
    return [row for name, row in known.items() if names is None or name in names]


def _inputs(table: Table, rows: Sequence[Row], options: argparse.Namespace, out: Path) -> dict[str, str]:
    """Where each input of these rows is, as absolute paths; at the tiny scale what is not named is made."""
    given = {} if options.data is None else {"DATA": options.data}
    known = [need.name for need in table.inputs]
    for pair in options.given:
        name, equals, path = pair.partition("=")
        if not equals or not path or name not in known:
            raise InputError(
                f"--with {pair}: {table.name} takes NAME=PATH with NAME one of {', '.join(known)}"
            )
        given[name] = Path(path)
    _check_paths(given)
    needs = inputs_of(table, rows, options.scale)
    if options.scale == FULL:
        given |= _defaults(table, needs, given)
        _check_paths(given)
    found = {name: str(path.absolute()) for name, path in given.items()}
    if options.scale == FULL:
        return found
    drawn = Drawn(out / "data", table.layout, options.per_class, options.held_out)
    return drawn.places(needs, found) if options.dry_run else drawn.make(needs, found)


def _check_paths(given: Mapping[str, Path]) -> None:
    for name, path in given.items():
        if not path.exists():
            raise InputError(f"{name}: no file or folder {path}")


def _defaults(table: Table, needs: Sequence[Input], given: Mapping[str, Path]) -> dict[str, Path]:
    """Where inputs lie that are not named; raises InputError for one that has to be."""
    found = {}
    for need in needs:
        if need.name in given:
            continue
        if need.default is None or "DATA" not in given:
            named = need.default is None and need.name != "DATA"
            option = f"--with {need.name}=PATH" if named else "--data DIR"
            raise InputError(f"{table.name} needs {option}: {need.what}")
        found[need.name] = given["DATA"] / need.default.removeprefix("DATA/")
    return found


if __name__ == "__main__":
    sys.exit(main())
