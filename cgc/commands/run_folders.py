"""Checkpoints as people name them: by their file, or by the folder of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cgc.errors import InputError

_EPOCH = re.compile(r"checkpoint_(\d+)\.pth\.tar")


def find_checkpoint(path: Path) -> Path:
    """The file itself, or a run folder's checkpoint of the last epoch, else its best one.

    Raises InputError if there is nothing at ``path``, or no checkpoint in the folder.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    epochs = {int(m[1]): file for file in path.iterdir() if (m := _EPOCH.fullmatch(file.name))}
    if epochs:
        return epochs[max(epochs)]
    if (path / "model_best.pth.tar").is_file():
        return path / "model_best.pth.tar"
    raise InputError(f"{path}: no checkpoint_NNN.pth.tar and no model_best.pth.tar in it")


def short_names(paths: list[Path]) -> list[str]:
    """What to call them: by the run's folder where a file has the name of a checkpoint, else by the file; a number
    where two would be called alike.
    """
    names = []
    for path in paths:
        ours = _EPOCH.fullmatch(path.name) or path.name == "model_best.pth.tar"
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
    except (OSError, ValueError):
        return None
    names = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) or None
