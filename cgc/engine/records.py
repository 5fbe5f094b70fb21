"""What a run leaves behind to be read: args.json, one CSV row an epoch, TensorBoard, result.json."""

from __future__ import annotations

import csv
import json
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

import cgc
from cgc.errors import InputError

Panels = Callable[[], "NDArray[Any] | None"]  # draws an (H, W, 3) uint8 picture


def versions() -> dict[str, str]:
    """What the numbers of a run depend on."""
    return {
        "cgc": cgc.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": str(torch.get_num_threads()),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one rename; NaN and infinity become null."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(_plain(content), indent=2) + "\n")
    partial.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _number(text: str) -> Any:
    try:
        return float(text) if any(c in text for c in ".en") else int(text)
    except ValueError:
        return text


def epoch_line(row: Mapping[str, Any]) -> str:
    """An epoch's figures for the terminal."""
    figures = ((k, v) for k, v in row.items() if isinstance(v, float) and not k.startswith("lr"))
    return f"epoch {row['epoch']}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures)


def name_unreadable(lines: Sequence[str], most: int = 20) -> None:
    """Say at the end which files could not be read: images, or whole shards."""
    if lines:
        files = f"{len(lines)} unreadable file{'s' * (len(lines) > 1)}"
        print(f"{files}; other images took the place of what they hold:", file=sys.stderr)
        for line in lines[:most]:
            print(f"  {line}", file=sys.stderr)
        if len(lines) > most:
            print(f"  … and {len(lines) - most} more, all in result.json", file=sys.stderr)


class RunRecorder:
    """Writes the records of one run.

    ``panels`` is called once an epoch for a picture of some heatmaps. After a resume at ``first_epoch`` the rows of
    later epochs are dropped, since they are about to be run again.
    """

    def __init__(
        self,
        save_dir: Path,
        log_dir: Path,
        options: Mapping[str, Any],
        *,
        first_epoch: int = 0,
        panels: Panels | None = None,
    ) -> None:
        self.save_dir = save_dir
        self.rows = self._earlier_rows(first_epoch)
        self._panels = panels
        try:
            self._board = SummaryWriter(str(log_dir))
        except OSError as error:
            raise InputError(f"cannot write to the log folder {log_dir}: {error.strerror}") from error
        write_json(save_dir / "args.json", {**options, "versions": versions()})

    def _earlier_rows(self, first_epoch: int) -> list[dict[str, Any]]:
        path = self.save_dir / "metrics.csv"
        if first_epoch == 0 or not path.exists():
            return []
        with path.open(newline="") as file:
            rows = [{name: _number(text) for name, text in row.items()} for row in csv.DictReader(file)]
        return [row for row in rows if row["epoch"] <= first_epoch]

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars of a training step, for TensorBoard alone."""
        for name, value in values.items():
            self._board.add_scalar(f"step/{name}", value, step)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """One row: ``epoch`` counts from 1."""
        self.rows.append(dict(row))
        columns = list(dict.fromkeys(name for r in self.rows for name in r))
        partial = self.save_dir / ".metrics.csv.partial"
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        partial.replace(self.save_dir / "metrics.csv")
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._board.add_scalar(f"epoch/{name}", value, row["epoch"])
        picture = self._panels() if self._panels is not None else None
        if picture is not None:
            self._board.add_image("heatmaps", picture, row["epoch"], dataformats="HWC")
        self._board.flush()

    def result(self, content: Mapping[str, Any]) -> None:
        """The run's last word."""
        write_json(self.save_dir / "result.json", {**content, "versions": versions()})

    def close(self) -> None:
        self._board.close()
