"""Text tables of datasets: one row a line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from cgc.data.annotations import inside_folder, shown
from cgc.errors import InputError


def table_rows(table: Path, columns: int, *, comments: bool = False) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of a table separated by tabs or, without any, by spaces; the last of `columns`
    fields may hold spaces then.

    Args:
        comments: whether lines that begin with # are left out.

    Raises:
        InputError: not a readable text file, or a line with fewer fields.
    """
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{table}: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (comments and line.lstrip().startswith("#")):
            continue
        fields = (
            [part.strip() for part in line.split("\t")] if "\t" in line else line.split(None, columns - 1)
        )
        if len(fields) < columns:
            raise InputError(f"{table}: line {number}: expected {columns} columns, found {len(fields)}")
        yield number, [field.strip() for field in fields]


def image_name(table: Path, number: int, name: str) -> str:
    """The name of an image, which stays in its folder. InputError with the line for anything else."""
    if not inside_folder(name):
        raise InputError(f"{table}: line {number}: {shown(name)} is no name, or lies outside of the images")
    return name


def four_numbers(table: Path, number: int, fields: Sequence[str]) -> tuple[float, float, float, float]:
    """The numbers of a box, in pixels. InputError with the line for anything else."""
    try:
        a, b, c, d = (float(value) for value in fields)
        if not all(map(math.isfinite, (a, b, c, d))):
            raise ValueError
    except ValueError:
        raise InputError(
            f"{table}: line {number}: a box is four numbers, not {shown(' '.join(fields))}"
        ) from None
    return a, b, c, d
