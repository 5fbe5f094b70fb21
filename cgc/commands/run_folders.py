"""Checkpoints as people name them: by their file, or by the folder of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from cgc.engine.checkpoint import BEST, checkpoints_in
from cgc.engine.processes import Processes
from cgc.errors import InputError
from cgc.models.checkpoint_layouts import read_checkpoint

AUTO = Path("auto")  # --resume with the newest good checkpoint of the run's folder
_EPOCH = re.compile(r"checkpoint_(\d+)\.pth\.tar")


def run_folder(named: Path | None, method: str, arch: str, seed: int) -> Path:
    """Where a run is kept: in the folder that the user named, or in one of its own under `runs`."""
    return named or Path("runs") / f"{method}-{arch.replace(':', '-')}-seed{seed}"


def find_checkpoint(path: Path) -> Path:
    """The file itself, or a run folder's checkpoint of the last epoch, else its best one.

    Raises InputError if there is nothing at ``path``, or no checkpoint in the folder.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    epochs = [file for (_, step), file in checkpoints_in(path).items() if not step]
    if epochs:
        return epochs[-1]
    if (path / BEST).is_file():
        return path / BEST
    raise InputError(f"{path}: no checkpoint_NNN.pth.tar and no model_best.pth.tar in it")


def newest_good_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint that a run in ``folder`` goes on from, None if it holds none. Damaged ones are named, passed over.

    Raises InputError if all are damaged.
    """
    found = list(checkpoints_in(folder).values())[::-1] if folder.is_dir() else []
    found += [folder / BEST] if (folder / BEST).is_file() else []
    for path in found:
        try:
            read_checkpoint(path)
        except InputError as error:
            say(f"{error}; passed over")
            continue
        return path
    if found:
        raise InputError(
            f"{folder}: none of its {len(found)} checkpoints can be read; choose another --save_dir"
        )
    return None


def resumed_by_all(folder: Path, processes: Processes | None, say: Callable[..., None]) -> Path | None:
    """What ``--resume auto`` means, the same on all processes; the first of them looks. ``say`` tells it.

    Raises InputError on all of them if all checkpoints are damaged.
    """
    found: Path | None = None
    refused: InputError | None = None
    if processes is None or processes.rank == 0:
        try:
            found = newest_good_checkpoint(folder, say)
        except InputError as error:
            refused = error
    if processes is not None:
        found, refused = processes.gather((found, refused))[0]
    if refused is not None:
        raise refused
    say(f"{folder}: nothing to resume, the run begins" if found is None else f"resuming {found}")
    return found


def short_names(paths: list[Path]) -> list[str]:
    """What to call them: by the run's folder where a file has the name of a checkpoint, else by the file; a number
    where two would be called alike.
    """
    names = []
    for path in paths:
        ours = _EPOCH.fullmatch(path.name) or path.name == BEST
        plain = path.name.removesuffix(".tar").removesuffix(".pth").removesuffix(path.suffix)
        names.append((path.absolute().parent.name or plain) if ours else plain or path.name)
    return [
        f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def trained_classes(checkpoint: Path) -> tuple[str, ...] | None:
    """The class names in the ``args.json`` beside a checkpoint, if there is one that lists them."""
    try:
        content = json.loads((checkpoint.parent / "args.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    names = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None
