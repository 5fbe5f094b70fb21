"""`python -m cgc make-shards DATA --out DIR`: images as tar shards, for data that no single disk holds."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cgc.commands.options import Parser, non_negative_int, positive_float, positive_int, run_command, seed
from cgc.data.folders import ImageList, open_split
from cgc.data.shards.check import ShardCheck
from cgc.data.shards.folders import UNLABELLED, refuse_shards
from cgc.data.shards.index import INDEX, read_index, write_index
from cgc.data.shards.scan import ScannedShard, joined, scan_shard, shard_paths
from cgc.data.shards.writer import ShardWriter
from cgc.data.unlabelled import open_unlabelled
from cgc.data.workers import worker_options
from cgc.engine.runtime import StopRequest, bar_interval
from cgc.errors import InputError, RunError

_NAMED = 20  # images left out that are named
_T = TypeVar("_T")


def main(argv: Sequence[str] | None = None) -> int:
    """Make, index or check shards; 0, 2 for input that cannot be used, 1 if that failed, 128 + n if stopped."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc make-shards",
        description="Write images into tar shards in WebDataset's format, with an index; finished shards are kept, so "
        "the same command goes on after a stop. Training reads DIR, or a URL of it, in place of DATA.",
    )
    add = parser.add_argument
    add(
        "data",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="dataset folder, or with --split unlabeled any images",
    )
    add("--out", type=Path, metavar="DIR", help="the shards are DIR/SPLIT/SPLIT-000000.tar …")
    splits = "all: train and val (default: %(default)s); unlabeled: the images at any depth in DATA"
    add("--split", choices=("all", "train", "val", UNLABELLED), default="all", help=splits)
    how_large = parser.add_mutually_exclusive_group()
    how_large.add_argument(
        "--size", type=positive_float, default=256.0, metavar="MB", help="of a shard (256)"
    )
    how_large.add_argument(
        "--samples", type=positive_int, metavar="N", help="images of a shard, instead of a size"
    )
    add(
        "-j",
        "--workers",
        type=non_negative_int,
        default=4,
        help="processes that write (default: %(default)s)",
    )
    add("--seed", type=seed, default=0, help="of the order in which images are spread over the shards (0)")
    add(
        "--decode",
        action="store_true",
        help="decode every image: leave out, or with --verify report, the damaged",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--verify", type=Path, metavar="DIR", help="only check the shards of DIR against their index"
    )
    instead.add_argument(
        "--index", type=Path, metavar="DIR", help="only index shards that WebDataset wrote to DIR"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Do what was asked. Raises InputError and RunError."""
    stop = StopRequest()
    only: Path | None = options.verify or options.index
    if (only is None) == (options.data is None):
        raise InputError("give DATA and --out DIR, or one of --verify DIR and --index DIR")
    if only is not None:
        if options.out is not None:
            raise InputError("--out is for making shards, not for --verify or --index")
        if not only.is_dir():
            raise InputError(f"{only}: no such folder")
        with stop.listening():
            return _verify(only, options, stop) if options.verify else _index(only, options, stop)
    if options.out is None:
        raise InputError("--out DIR is needed: where the shards go")
    refuse_shards(options.data)
    with stop.listening():
        for writer in _writers(options):
            _make(writer, options, stop)
            if stop:
                print("stopped; the same command makes the rest", file=sys.stderr)
                break
    return stop.exit_status


def _writers(options: argparse.Namespace) -> list[ShardWriter]:
    """One per split; all are opened before the first one is written."""
    images: dict[str, ImageList] = {}
    if options.split == UNLABELLED:
        images[UNLABELLED] = open_unlabelled(options.data)
    if options.split in ("all", "train"):
        images["train"] = open_split(options.data, "train")
    if options.split in ("all", "val"):
        images["val"] = open_split(options.data, "val", classes=images["train"].classes if images else None)
    for one in images.values():
        root, out = one.root.resolve(), options.out.resolve()
        if root == out or root in out.parents:
            raise InputError(f"{options.out} lies in {one.root}, among the images")
    return [
        ShardWriter(
            options.out / split,
            one,
            split,
            shards=_count(one, options),
            seed=options.seed,
            decode=options.decode,
        )
        for split, one in images.items()
    ]


def _count(images: ImageList, options: argparse.Namespace) -> int:
    """How many shards."""
    if options.samples is not None:
        return -(-len(images) // options.samples)
    total = 0
    for index in range(len(images)):
        try:
            size = os.stat(images.path(index)).st_size
        except OSError:
            continue  # it will be named and left out
        total += -(-size // 512) * 512 + 1536  # headers, and the class in a block
    return min(max(1, -(-total // max(1, int(min(options.size, 1e12) * 1e6)))), len(images))


def _make(writer: ShardWriter, options: argparse.Namespace, stop: StopRequest) -> None:
    kept, left_out = 0, []
    results = _in_processes(writer.make, list(range(len(writer))), options.workers)
    with tqdm(total=len(writer.images), unit="image", desc=writer.prefix, mininterval=bar_interval()) as bar:
        for number, outcome in results:
            if isinstance(outcome, _Failed):
                raise RunError(
                    f"{writer.folder}: {outcome.message}; {len(writer.done)} of {len(writer)} shards are finished, "
                    "the same command goes on with the others"
                )
            done, was_there = outcome
            writer.note(number, done)
            kept += was_there
            left_out += done.left_out
            bar.update(len(writer.members(number)))
            if stop:
                return
    index = writer.finish()
    size = sum(shard.bytes for shard in index.shards)
    print(
        f"{writer.folder}: {len(index)} images in {len(writer)} shards, {size / 1e6:.1f} MB; {kept} shards were there, "
        f"{len(writer.images) - len(index)} images left out"
    )
    _name(left_out)


def _name(lines: Sequence[str]) -> None:
    for line in lines[:_NAMED]:
        print(f"  {line}", file=sys.stderr)
    if len(lines) > _NAMED:
        print(f"  … and {len(lines) - _NAMED} more", file=sys.stderr)


def _folders(root: Path, has: Callable[[Path], bool]) -> list[Path]:
    """The folder itself, or those in it."""
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and has(path)]
    return [root] if has(root) else below


def _index(root: Path, options: argparse.Namespace, stop: StopRequest) -> int:
    folders = _folders(root, lambda folder: bool(shard_paths(folder)))
    if not folders:
        raise InputError(f"{root}: no tar files in it, nor in its folders")
    for folder in folders:
        if (folder / INDEX).exists():
            raise InputError(f"{folder / INDEX} is there already; --verify checks it")
        paths = shard_paths(folder)
        scanned = [found for _, found in _scans(folder.name, paths, options.workers, stop)]
        if stop:
            return stop.exit_status
        index = joined(scanned, str(folder))
        write_index(folder, index)
        print(f"{folder}: {len(index)} images in {len(paths)} shards, {len(index.classes)} classes")
        _name([line for one in scanned for line in one.problems])
    return 0


def _verify(root: Path, options: argparse.Namespace, stop: StopRequest) -> int:
    folders = _folders(root, lambda folder: (folder / INDEX).is_file())
    if not folders:
        raise InputError(f"{root}: no {INDEX} in it, nor in its folders")
    problems = []
    for folder in folders:
        index = read_index(folder)
        check = ShardCheck(folder, index, decode=options.decode)
        found: list[str] = []
        results = _in_processes(check, list(range(len(index.shards))), options.workers)
        with tqdm(total=len(index), unit="image", desc=folder.name, mininterval=bar_interval()) as bar:
            for number, outcome in results:
                found += [outcome.message] if isinstance(outcome, _Failed) else outcome
                bar.update(index.shards[number].samples)
                if stop:
                    return stop.exit_status
        print(f"{folder}: {len(index)} images in {len(index.shards)} shards, {len(found)} problems")
        _name(found)
        problems += found
    if problems:
        raise RunError(f"{root}: {len(problems)} problems, the first: {problems[0]}")
    return 0


def _scans(
    what: str, paths: Sequence[Path], workers: int, stop: StopRequest
) -> Iterator[tuple[int, ScannedShard]]:
    with tqdm(total=len(paths), unit="shard", desc=what, mininterval=bar_interval()) as bar:
        for number, outcome in _in_processes(scan_shard, list(paths), workers):
            if isinstance(outcome, _Failed):
                raise InputError(outcome.message)
            bar.update()
            yield number, outcome
            if stop:
                return


@dataclass(frozen=True)
class _Failed:
    message: str


class _Work(Dataset[Any], Generic[_T]):
    """Item k: what a function makes of the k-th argument; the failures that a user can mend are values."""

    def __init__(self, function: Callable[[_T], Any], arguments: Sequence[_T]) -> None:
        self.function, self.arguments = function, arguments

    def __len__(self) -> int:
        return len(self.arguments)

    def __getitem__(self, number: int) -> tuple[int, Any]:
        try:
            return number, self.function(self.arguments[number])
        except InputError as error:
            return number, _Failed(str(error))
        except OSError as error:
            return number, _Failed(error.strerror or str(error))


def _in_processes(
    function: Callable[[_T], Any], arguments: Sequence[_T], workers: int
) -> Iterator[tuple[int, Any]]:
    """(position, result or _Failed) of each argument, in order, by the loader's processes: they end with this one."""
    workers = min(workers, len(arguments))
    return iter(
        DataLoader(
            _Work(function, arguments),
            batch_size=None,
            **worker_options(workers),
            prefetch_factor=1 if workers else None,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else it would draw from the global one
        )
    )


def _as_it_is(item: Any) -> Any:
    return item
