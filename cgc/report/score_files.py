"""The evaluator's rows read back: one CSV line per image and class.

Shapes: n rows; columns (n,) with NaN for an empty cell, which does not count.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cgc.data.class_names import first_twice
from cgc.errors import InputError

Floats = npt.NDArray[np.float64]
Key = tuple[str, str]  # path, class

# Columns that are names, whatever they look like; a class may be called 007.
_NAMES = ("path", "class", "prediction", "explained", "predicted")
# Columns that hold numbers in every row; of others, those with any other text are left aside.
_NUMBERS = ("correct", "confidence", "ch", "pg", "spg", "insertion", "deletion")

_LARGEST = 1e100  # of a cell: sums of such numbers are still finite


@dataclass(frozen=True)
class ScoreFile:
    """The rows of one evaluation: what each is of, and the columns of numbers."""

    path: Path
    keys: tuple[Key, ...]
    columns: dict[str, Floats]


def read_scores(path: Path) -> ScoreFile:
    """Read the CSV of an evaluation.

    Raises InputError naming file and line: unreadable, not UTF-8, without ``path`` and ``class``, a row with other
    cells than the header, a cell that is not a number, a row that stands there twice.
    """
    lines = _lines(path)
    try:
        _, header = next(lines)
    except StopIteration:
        raise InputError(f"{path} is empty") from None
    if missing := [name for name in ("path", "class") if name not in header]:
        raise InputError(f"{path} line 1: no column {missing[0]!r}; this is not the CSV of an evaluation")
    if (twice := first_twice(header)) is not None:
        raise InputError(f"{path} line 1: two columns are called {twice!r}")
    numbers: list[int] = []
    rows: list[list[str]] = []
    seen: dict[Key, int] = {}
    of_path, of_class = header.index("path"), header.index("class")
    for number, row in lines:
        if len(row) != len(header):
            raise InputError(f"{path} line {number}: {len(row)} cells, the header has {len(header)}")
        key = row[of_path], row[of_class]
        if key in seen:
            raise InputError(f"{path} line {number}: {row_name(key)} stands in line {seen[key]} already")
        seen[key] = number
        numbers.append(number)
        rows.append(row)
    if not rows:
        raise InputError(f"{path} holds no rows")
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    parsed = {name: _parsed(path, name, cells[name], numbers) for name in header if name not in _NAMES}
    return ScoreFile(path, tuple(seen), {name: each for name, each in parsed.items() if each is not None})


def row_name(key: Key) -> str:
    """How a row is shown."""
    return f"{key[0]} ({key[1]})"


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines with their number, empty ones left out."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            try:
                for row in reader:
                    if row:
                        yield reader.line_num, row
            except csv.Error as error:
                raise InputError(f"{path} line {reader.line_num}: {error}") from error
            except UnicodeDecodeError as error:
                raise InputError(f"{path} line {reader.line_num + 1}: not UTF-8 text") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _parsed(path: Path, name: str, cells: Sequence[str], numbers: Sequence[int]) -> Floats | None:
    """A column as numbers; None if it is one of text."""
    values = np.full(len(cells), math.nan)
    for i, cell in enumerate(cells):
        if not cell.strip():
            continue
        value = _number(cell)
        if value is None:
            if name not in _NUMBERS:
                return None
            raise InputError(f"{path} line {numbers[i]}: {name} is {cell[:40]!r}, not a number")
        values[i] = value
    return values


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST else None
