"""From archives to a folder that training and evaluation read: found or fetched, checked, unpacked, counted, noted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgc.data.folders import images_below
from cgc.data.prepare.archives import unpacked_size
from cgc.data.prepare.extraction import Progress, need_room
from cgc.data.prepare.job import Job
from cgc.data.prepare.registry import Preparation, chosen_variant, preparation
from cgc.data.prepare.sources import DOWNLOADS, Origin, download, locate, origins, verify
from cgc.data.prepare.state import State, open_state
from cgc.errors import InputError


@dataclass(frozen=True)
class Wish:
    """What the user asked for. ``given``: archives, or folders with them."""

    name: str
    out: Path
    given: tuple[Path, ...] = ()
    variant: str | None = None
    fetch: bool = True
    checksum: bool = True
    keep_archives: bool = False


def prepare(wish: Wish, progress: Progress, say: Callable[[str], None]) -> dict[str, int]:
    """Make the folder; images of each folder in it. What is there is kept, so the same call goes on after a stop.

    Raises:
        InputError: unknown dataset or variant, archives missing, damaged or refused, too little room, a folder that
            holds something else.
        RunError: a download failed, or files could not be written.
    """
    entry = preparation(wish.name)
    variant = chosen_variant(wish.name, entry, wish.variant)
    archives = locate(entry.files(variant), wish.given)
    state = open_state(wish.out, wish.name, {"variant": variant} if variant else {})
    if state.counts is not None and _nothing_new(state, archives):
        counts = count_images(wish.out)
        if counts == state.counts:
            say(f"{wish.out}: {wish.name} is finished, nothing to do: {_listed(counts)}")
            return counts
        say(f"{wish.out}: holds {_listed(counts)} instead of {_listed(state.counts)}: unpacking again")
        state.parts.clear()
    known = origins(entry.torchvision)
    needed = _to_fetch(wish, entry, variant, {*archives, *state.parts}, known)
    _verify(wish, archives, state, known, progress)
    state.counts = None
    state.save()
    for name in needed:
        archives[name] = download(name, known[name], wish.out / DOWNLOADS)
    need_room(wish.out, sum(unpacked_size(p) for name, p in archives.items() if not _done(state, name, p)))
    try:
        entry.convert(Job(wish.out, variant, archives, state, progress, say))
    except InputError:
        for name in needed:
            if known[name].md5 is None:  # nothing else would have it fetched again
                archives[name].unlink(missing_ok=True)
        raise
    counts = count_images(wish.out)
    state.parts.update({name: path.stat().st_size for name, path in archives.items()})
    state.finish(counts)
    if not wish.keep_archives:
        shutil.rmtree(wish.out / DOWNLOADS, ignore_errors=True)
    say(f"{wish.out}: {wish.name}: {_listed(counts)}")
    _say_differences(entry.published[variant], counts, say)
    return counts


def count_images(out: Path) -> dict[str, int]:
    """Images below each folder in ``out`` that has some."""
    folders = sorted(path.name for path in out.iterdir() if path.is_dir() and path.name[0] != ".")
    counts = {folder: sum(1 for _ in images_below(os.fspath(out), folder, set())) for folder in folders}
    return {folder: count for folder, count in counts.items() if count}


def _nothing_new(state: State, archives: Mapping[str, Path]) -> bool:
    return all(_done(state, name, path) for name, path in archives.items())


def _done(state: State, name: str, path: Path) -> bool:
    return state.parts.get(name) == path.stat().st_size


def _to_fetch(
    wish: Wish, entry: Preparation, variant: str, there: set[str], known: Mapping[str, Origin]
) -> list[str]:
    """Names that torchvision has to fetch. InputError where it cannot, which says what to do."""
    lacking = [file.name for file in entry.files(variant) if not file.optional and file.name not in there]
    fetched = [name for name in lacking if wish.fetch and name in known and known[name].url]
    missing = [name for name in lacking if name not in fetched]
    said = entry.lacking(there) if entry.lacking is not None else None
    if missing:
        said = f"{' and '.join(missing)} missing"
    if said is not None:
        could = "" if wish.fetch else " (without --no-download, torchvision fetches what it can)"
        everything = " ".join(f"DIR/{file.name}" for file in entry.files(variant))
        raise InputError(
            f"{wish.name}: {said}{could}; get what you need from the dataset's own page under its terms, and give the "
            f"files, or the folder DIR with them, to --from: {everything}"
        )
    return fetched


def _verify(
    wish: Wish,
    archives: Mapping[str, Path],
    state: State,
    known: Mapping[str, Origin],
    progress: Progress,
) -> None:
    for name, path in archives.items():
        md5 = known[name].md5 if name in known else None
        size = path.stat().st_size
        if wish.checksum and md5 is not None and size not in (state.parts.get(name), state.checked.get(name)):
            verify(path, md5, progress)
            state.checked[name] = size


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} images in {folder}/" for folder, count in counts.items()) or "no images"


def _say_differences(
    published: Mapping[str, int], counts: Mapping[str, int], say: Callable[[str], None]
) -> None:
    for folder, count in counts.items():
        if published.get(folder, count) != count:
            say(f"{folder}/: {published[folder]} images are published, {count} are here")


def sources_text(names: Sequence[str]) -> str:
    """What there is, how it is obtained, and what is made of it: a paragraph for each of ``names``."""
    lines: list[str] = []
    for name in names:
        entry = preparation(name)
        fetched = bool(entry.torchvision) and any(
            origin.url for origin in origins(entry.torchvision).values()
        )
        lines.append(f"{name}: {entry.title}")
        if entry.about_variants:
            lines.append(
                f"  variants  {', '.join(entry.variants)} (default {entry.variants[0]}): {entry.about_variants}"
            )
        lines += [
            f"  archive   {file.name}: {file.what}{' (optional)' if file.optional else ''}"
            for file in entry.files(entry.variants[0])
        ]
        how = (
            "downloaded by torchvision, or --from"
            if fetched
            else "--from: get them from the dataset's own page"
        )
        lines.append(f"  obtained  {how}{f'; {entry.remark}' if entry.remark else ''}")
        counts = ", ".join(f"{n} in {folder}/" for folder, n in entry.published[entry.variants[0]].items())
        lines += [f"  images    {counts}", f"  gives     {entry.layout}", ""]
    return "\n".join([*lines, "Every dataset has terms of its own: see them before you use it."])
