"""What `prepare` notes in the folder that it makes: of which dataset it is, which archives are in it, the counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgc.data.saliency_files import write_whole
from cgc.errors import InputError, RunError

MARKER = ".prepared.json"


@dataclass
class State:
    """``parts``: bytes of each archive that is unpacked to the end. ``counts``: images of each folder, once finished.

    ``options``: what the layout depends on. ``checked``: bytes of each archive whose checksum was right.
    """

    folder: Path
    dataset: str
    options: dict[str, str] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] | None = None

    @property
    def finished(self) -> bool:
        return self.counts is not None

    def note(self, archive: Path) -> None:
        """An archive is unpacked to the end."""
        self.parts[archive.name] = archive.stat().st_size
        self.save()

    def finish(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        self.save()

    def save(self) -> None:
        """Raises RunError."""
        content = {
            "dataset": self.dataset,
            "options": self.options,
            "archives": self.parts,
            "checked": self.checked,
            "finished": self.finished,
            "images": self.counts or {},
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content, indent=1) + "\n"
            write_whole(self.folder / MARKER, lambda partial: partial.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{self.folder}: {error.strerror or error}") from error


def read_state(folder: Path) -> State | None:
    """The note in a folder, or None where there is none. Raises InputError for one that cannot be read."""
    path = folder / MARKER
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        parts, checked = dict(content["archives"]), dict(content["checked"])
        state = State(folder, str(content["dataset"]), dict(content["options"]), parts, checked)
        if content["finished"]:
            state.counts = {str(name): int(count) for name, count in content["images"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a note that this program wrote; remove it to begin anew") from error
    return state


def open_state(folder: Path, dataset: str, options: Mapping[str, str]) -> State:
    """The note of a folder that is new or was begun by the same command.

    Raises InputError: the folder holds something else, another dataset, or the same one by other options.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    state = read_state(folder)
    if state is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds files that this command did not make; give a new folder")
        return State(folder, dataset, dict(options))
    if state.dataset != dataset:
        raise InputError(f"{folder}: holds {state.dataset}; give another folder for {dataset}")
    if state.options != dict(options):
        before = ", ".join(f"--{key} {value}" for key, value in sorted(state.options.items()))
        raise InputError(f"{folder}: was begun with {before}; give the same options or another folder")
    return state
