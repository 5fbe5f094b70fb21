"""Figures of heatmaps: image | mask | overlay, and the two masks that CGC's consistency compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cgc.metrics.maps import full_size_map
from cgc.report.overlays import colourise, heatmap_overlay

GAP = 4
_LINE = 15  # pixels of a line of text


@dataclass(frozen=True)
class Tile:
    """One picture of a figure, and the lines below it."""

    picture: Image.Image
    lines: tuple[str, ...] = ()


def at_side(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side brought to ``side`` pixels."""
    scale = side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def mask_picture(map_hw: Tensor, size: tuple[int, int]) -> Image.Image:
    """The map (h, w) alone, in the colours of the overlays, scaled to its maximum; ``size`` (width, height)."""
    full = full_size_map(map_hw.float().cpu(), (size[1], size[0])).numpy()
    heat = full / full.max() if bool((map_hw > 0).any()) else np.zeros_like(full)
    return Image.fromarray(colourise(heat))


def heat_tiles(image: Image.Image, map_hw: Tensor, lines: Sequence[str]) -> list[Tile]:
    """The mask, and the mask over the image, which has its size already."""
    return [
        Tile(mask_picture(map_hw, image.size), tuple(lines)),
        Tile(heatmap_overlay(image, map_hw.float().cpu())),
    ]


def figure(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Rows of tiles, left to right, on white; the columns of all rows are aligned.

    Raises ValueError for no rows.
    """
    if not rows or not all(rows):
        raise ValueError("a figure has at least one row, and a row one tile")
    columns = max(map(len, rows))
    widths = [max(row[c].picture.width for row in rows if c < len(row)) for c in range(columns)]
    heights = [max(tile.picture.height for tile in row) for row in rows]
    text = [_LINE * max(len(tile.lines) for tile in row) for row in rows]
    size = (sum(widths) + GAP * (columns + 1), sum(heights) + sum(text) + GAP * (2 * len(rows) + 1))
    canvas = Image.new("RGB", size, "white")
    top = GAP
    for row, height, lines in zip(rows, heights, text, strict=True):
        left = GAP
        for tile, width in zip(row, widths, strict=False):
            canvas.paste(tile.picture, (left, top))
            _write(canvas, tile.lines, left, top + height + 1, width)
            left += width + GAP
        top += height + lines + 2 * GAP
    return canvas


def _write(canvas: Image.Image, lines: Sequence[str], left: int, top: int, width: int) -> None:
    font = ImageFont.load_default()
    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        text = line
        while len(text) > 2 and font.getlength(text) > width:
            text = text[:-2].rstrip("…") + "…"
        pen.text((left, top + _LINE * i), text, fill="black", font=font)


def save_figure(path: Path, pages: Sequence[Image.Image]) -> None:
    """The pages of a PDF, or the one picture of a PNG.

    Raises OSError if it cannot be written, ValueError for no pages, or several in a PNG.
    """
    if path.suffix.lower() == ".pdf" and pages:
        pages[0].save(path, "PDF", save_all=True, append_images=list(pages[1:]), resolution=150)
    elif len(pages) == 1:
        pages[0].save(path)
    else:
        raise ValueError(f"{path.name} cannot hold {len(pages)} pages")
