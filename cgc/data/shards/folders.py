"""Images to train on, wherever they lie: image folders, shards in a folder, shards behind a URL.

A folder holds shards if it has an `index.json`, or tar files and no folders; nobody has to say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cgc.data.folders import (
    ImageList,
    check_dataset,
    checked_classes,
    open_class_folders,
    open_split,
    split_names,
)
from cgc.data.shards.ahead import AHEAD
from cgc.data.shards.cache import CachedFiles, CacheOptions, Unavailable, as_url, default_cache
from cgc.data.shards.images import WINDOW, ShardFiles, ShardList, kept_samples
from cgc.data.shards.index import INDEX, MAKING, RECORDS, ShardIndex, read_head, read_index
from cgc.data.shards.names import image_names
from cgc.data.shards.scan import scan_folder, shard_paths
from cgc.data.unlabelled import open_unlabelled
from cgc.errors import InputError

_SPLITS = ("train", "val", "test")
UNLABELLED = "unlabeled"  # the folder of shards that make-shards --split unlabeled writes


@dataclass(frozen=True)
class ShardOptions:
    """``window``: shards open at a time (0: all); ``strict``: what is missing is an error, not a note."""

    window: int = WINDOW
    strict: bool = False
    cache: CacheOptions = field(default_factory=lambda: CacheOptions(default_cache()))


def is_shards(place: str | Path) -> bool:
    """Whether a place is a URL, or a folder of shards."""
    folder = Path(place)
    if as_url(place) is not None or (folder / INDEX).is_file():
        return True
    # Tar files beside folders are what the folders were unpacked from.
    return bool(shard_paths(folder)) and not any(path.is_dir() for path in folder.iterdir())


def refuse_shards(place: str | Path) -> None:
    """For what reads image files alone. Raises InputError for a URL and for shards, also those of splits below."""
    if as_url(place) or any(is_shards(each) for each in (place, *(Path(place) / name for name in _SPLITS))):
        raise InputError(
            f"{as_url(place) or place}: shards are read in training alone; this takes image folders"
        )


def open_images(
    root: str | Path,
    split: str,
    options: ShardOptions,
    *,
    dataset: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageList:
    """:func:`cgc.data.folders.open_split`, also of shards in `<root>/train`, `<root>/val` or `<root>/test`.

    Raises InputError as `open_split` and `open_shards`.
    """
    url = as_url(root)
    names = split_names(split, dataset)
    if url is not None:
        return _first_below(url, names, options, dataset, classes)
    there = next((Path(root) / name for name in names if (Path(root) / name).is_dir()), None)
    if there is None or not is_shards(there):
        return open_split(root, split, dataset=dataset, classes=classes)
    images = open_shards(there, options, classes=classes)
    check_dataset(images, there, dataset)
    return images


def open_held_out(place: str | Path, options: ShardOptions, classes: Sequence[str]) -> ImageList:
    """Class folders or shards. Raises InputError."""
    if is_shards(place):
        return open_shards(place, options, classes=classes)
    return open_class_folders(place, classes)


def open_stream(place: str | Path, options: ShardOptions, *, batch_size: int = 1) -> ImageList:
    """:func:`cgc.data.unlabelled.open_unlabelled`, also of shards, whatever their classes: those of `place`, or those
    that `make-shards` wrote into its `unlabeled`.

    Raises InputError.
    """
    url = as_url(place)
    if url is not None:
        images = _stream_behind(url, options)
    else:
        places = (Path(place), Path(place) / UNLABELLED)
        there = next((each for each in places if each.is_dir() and is_shards(each)), None)
        if there is None:
            return open_unlabelled(place, batch_size=batch_size)
        images = open_shards(there, options, labelled=False)
    if len(images) < batch_size:
        raise InputError(f"{place}: {len(images)} images, fewer than a batch of {batch_size}")
    return images


def _first_below(
    url: str, names: Sequence[str], options: ShardOptions, dataset: str | None, classes: Sequence[str] | None
) -> ShardList:
    for name in names:
        place = _below(url, name)
        try:
            images = open_shards(place, options, classes=classes)
        except _NotThere:
            continue
        check_dataset(images, place.partition("?")[0], dataset)
        return images
    raise InputError(f"{url.partition('?')[0]}: no {' or '.join(f'{name}/{INDEX}' for name in names)} there")


def _stream_behind(url: str, options: ShardOptions) -> ShardList:
    try:
        return open_shards(url, options, labelled=False)
    except _NotThere as error:
        with contextlib.suppress(_NotThere):
            return open_shards(_below(url, UNLABELLED), options, labelled=False)
        raise error from None


def _below(url: str, name: str) -> str:
    base, mark, query = url.partition("?")
    return f"{base.removesuffix(f'/{INDEX}').rstrip('/')}/{name}{mark}{query}"


class _NotThere(InputError):
    """The server has no index at this place."""


def open_shards(
    place: str | Path,
    options: ShardOptions,
    *,
    classes: Sequence[str] | None = None,
    labelled: bool = True,
) -> ShardList:
    """The images of a folder of shards, or of those behind a URL.

    Args:
        classes: those of the training split; the shards must have the same ones, labels follow their order.
        labelled: False for an unlabelled stream: every label is -1, and there are no classes.

    Raises InputError: no shards, an index that is none or contradicts itself, other classes, a server that does not
    answer; under ``strict`` also a missing or truncated shard.
    """
    url = as_url(place)
    index, files, notes = (
        _behind_url(url, options) if url is not None else _in_folder(Path(place), options, classes)
    )
    said = str(place) if url is None else url.partition("?")[0]
    if labelled and not index.classes:
        raise InputError(f"{said}: its images have no classes")
    records, shard_of = index.records, index.shard_of
    crcs = np.ascontiguousarray(records["crc"]) if index.checksums else None
    images = ShardList(
        image_names(index.names) if index.made else index.names,
        records["label"].astype(np.int64),
        index.classes,
        files.folder,
        np.ascontiguousarray(records["offset"]),
        np.ascontiguousarray(records["size"]),
        crcs,
        shard_of,
        files,
        options.window,
    )
    if url is None:
        images = _present(images, notes)
    if notes and options.strict:
        raise InputError(f"{notes[0]} (--strict)")
    if not len(images):
        raise InputError(f"{said}: none of its {len(index)} images can be read; {'; '.join(notes[:2])}")
    images = replace(images, notes=tuple(notes))
    if not labelled:
        return replace(images, labels=np.full(len(images), -1, dtype=np.int64), classes=())
    return images.relabelled(checked_classes(said, index.classes, classes))


def _present(images: ShardList, notes: list[str]) -> ShardList:
    ends = images.offsets + images.sizes
    kept = kept_samples(images.files, images.shard_of, ends, notes.append)
    return images if kept.all() else images.subset(np.flatnonzero(kept))


def _in_folder(
    folder: Path, options: ShardOptions, classes: Sequence[str] | None
) -> tuple[ShardIndex, ShardFiles, list[str]]:
    notes: list[str] = []
    if (folder / INDEX).is_file():
        index = read_index(folder)
    elif (folder / MAKING).exists():
        raise InputError(f"{folder}: make-shards has not finished here; the same command makes the rest")
    elif shard_paths(folder):
        index, problems = scan_folder(folder, classes)
        notes += problems
    else:
        raise InputError(f"{folder}: no {INDEX} and no tar files")
    return index, ShardFiles(index.shards, folder), notes


def _behind_url(url: str, options: ShardOptions) -> tuple[ShardIndex, ShardFiles, list[str]]:
    base, mark, query = url.partition("?")
    said = base.removesuffix(f"/{INDEX}")
    cache = CachedFiles(said + mark + query, options.cache)
    try:
        head = read_head(cache.read(INDEX), f"{said}/{INDEX}")
    except Unavailable as error:
        if not error.missing:
            raise InputError(str(error)) from error
        raise _NotThere(
            f"{error}; shards without an index are indexed where they lie, by make-shards --index"
        ) from error
    sizes = sorted(shard.bytes for shard in head.shards)

    def together(shards: int) -> int:
        return sum(sizes[-shards:] if options.window else sizes) + head.records_bytes

    needed = together(options.window + 1)
    if needed > options.cache.bytes:
        raise InputError(
            f"{said}: {needed / 1e9:.2g} GB of shards are needed at a time, the cache holds "
            f"{options.cache.bytes / 1e9:.2g} GB; a larger cache, or a smaller window"
        )
    try:
        data = cache.path(RECORDS, head.records_bytes, head.sha256).read_bytes()
    except Unavailable as error:
        raise InputError(str(error)) from error
    index = head.with_records(data, f"{said}/{RECORDS}")
    ahead = [n for n in range(AHEAD + 1) if together(options.window + 1 + n) <= options.cache.bytes]
    return index, ShardFiles(index.shards, cache.folder, cache, ahead[-1]), []
