"""What scores are called, and tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TITLES: Mapping[str, str] = {
    "top1": "top-1",
    "top5": "top-5",
    "ch": "Content Heatmap",
    "pg": "Pointing Game",
    "spg": "Stochastic PG",
    "insertion": "insertion AUC",
    "deletion": "deletion AUC",
    "consistency": "consistency loss",
    "cosine": "cosine of the views' maps",
}


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns two spaces apart: the first column to the left, the others to the right.

    >>> print(aligned([("", "CH"), ("model", "61.25")]))
              CH
    model  61.25
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
