"""What a look at a dataset's folder found, as values, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAMED = 5  # of each kind of problem, in the text
_WIDTH = 9


@dataclass
class Split:
    """One split. ``per_class``: images by class, in class order; empty where images have no class folders."""

    folder: str
    images: int
    per_class: dict[str, int] = field(default_factory=dict)
    remark: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.per_class)

    def text(self) -> str:
        line = f"{self.images} images"
        if self.per_class:
            counts = self.per_class.values()
            low, high = min(counts), max(counts)
            each = f"{low}" if low == high else f"{low} to {high}"
            line += f" in {len(self.per_class)} class{'es' if len(self.per_class) != 1 else ''}, {each} each"
        return f"{line}; {self.remark}" if self.remark else line


@dataclass
class Findings:
    """``problems``: by kind, every single one. ``regions``: what an evaluation against boxes or masks would read.

    ``opened``: image files that were opened; ``fast``: only their headers were read.
    """

    root: Path
    dataset: str | None = None
    splits: list[Split] = field(default_factory=list)
    regions: dict[str, Any] | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    opened: int = 0
    fast: bool = False

    def problem(self, kind: str, what: str | Sequence[str]) -> None:
        lines = [what] if isinstance(what, str) else list(what)
        if lines:
            self.problems.setdefault(kind, []).extend(lines)

    @property
    def count(self) -> int:
        return sum(map(len, self.problems.values()))

    def text(self) -> str:
        """For people."""
        lines = [f"{self.root}{f' ({self.dataset})' if self.dataset else ''}"]
        width = max([_WIDTH, *(len(split.folder) + 1 for split in self.splits)])
        lines += [f"  {split.folder + '/':<{width}} {split.text()}" for split in self.splits]
        if self.regions is not None:
            regions = self.regions
            lines.append(
                f"  {'regions':<{width}} {regions['layout']}: {regions['rows']} rows (image, class) of "
                f"{regions['images']} images, {regions['classes']} classes"
            )
        what = "headers read" if self.fast else "decoded"
        lines.append(f"  {'opened':<{width}} {self.opened} images, {what}")
        lines += [f"  note: {note}" for note in self.notes]
        for kind, found in self.problems.items():
            lines.append(f"  problem: {kind}: {len(found)}")
            lines += [f"    {line}" for line in found[:_NAMED]]
            if len(found) > _NAMED:
                lines.append(f"    … and {len(found) - _NAMED} more")
        return "\n".join([*lines, f"{self.count} problems" if self.count != 1 else "1 problem"])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "root": str(self.root),
            "dataset": self.dataset,
            "splits": {
                split.folder: {
                    "images": split.images,
                    "classes": list(split.per_class),
                    "images_per_class": split.per_class,
                    "remark": split.remark,
                }
                for split in self.splits
            },
            "regions": self.regions,
            "opened": self.opened,
            "headers_only": self.fast,
            "notes": self.notes,
            "problems": self.problems,
        }
