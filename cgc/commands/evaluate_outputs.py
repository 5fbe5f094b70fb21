"""What an evaluation writes as it goes: maps and overlays; and whether it will be able to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from cgc.commands.evaluate_options import Options
from cgc.data.boxes import BoxedImages
from cgc.data.decode import decode_rgb
from cgc.errors import InputError, RunError
from cgc.evaluation.rows import Row
from cgc.evaluation.run import OnMaps
from cgc.explainers.stored import MapWriter
from cgc.report.overlays import overlay_panel


def check_outputs(options: Options) -> None:
    """Raises InputError for an output that could not be written at the end."""
    if options.out is not None:
        if options.out.suffix.lower() != ".json":
            raise InputError(f"--out {options.out}: must end in .json (the rows go to the .csv beside it)")
        _make_folder(options.out.parent)
        for path in (options.out, options.out.with_suffix(".csv")):
            if path.is_dir():
                raise InputError(f"{path} is a folder; --out writes a file there")
            if path.exists() and not os.access(path, os.W_OK):
                raise InputError(f"{path} cannot be written to")
    if options.save_maps is not None:
        if options.save_maps.resolve() == options.data.resolve():
            raise InputError(
                f"--save-maps {options.save_maps}: the images lie there; maps need a folder of their own"
            )
        _make_folder(options.save_maps)
    if options.save_overlays:
        _make_folder(overlay_folder(options))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written to")


def overlay_folder(options: Options) -> Path:
    """Beside the summary, else in the working directory."""
    return options.out.with_name(f"{options.out.stem}_overlays") if options.out else Path("overlays")


def map_writers(options: Options, found: BoxedImages) -> OnMaps | None:
    """Writes the maps of each image, and draws those of a few, as they come."""
    writers: list[OnMaps] = []
    if options.save_maps is not None:
        writer = MapWriter(options.save_maps, options.data)

        def save(rows: Sequence[Row], maps: Sequence[Tensor]) -> None:
            path = found.images[rows[0].index].path
            classes = (found.name(found.images[row.index]) for row in rows)
            writer.write(path, dict(zip(classes, maps, strict=True)))

        writers.append(save)
    if options.save_overlays:
        writers.append(_overlay_writer(found, overlay_folder(options), options.save_overlays))
    if not writers:
        return None

    def every(rows: Sequence[Row], maps: Sequence[Tensor]) -> None:
        try:
            for write in writers:
                write(rows, maps)
        except OSError as error:
            raise RunError(f"{error.filename} cannot be written: {error.strerror}") from error

    return every


def _overlay_writer(found: BoxedImages, folder: Path, count: int) -> OnMaps:
    """Draws the rows of ``count`` images spread evenly over the list."""
    spread = np.linspace(0, len(found.images) - 1, min(count, len(found.images)))
    chosen = set(spread.round().astype(int).tolist())

    def draw(rows: Sequence[Row], maps: Sequence[Tensor]) -> None:
        for row, map_hw in zip(rows, maps, strict=True):
            if row.index not in chosen:
                continue
            image = found.images[row.index]
            ch = row.score("ch")
            parts = ["zero map" if row.zero_map else f"CH {100 * ch:.1f} %" if ch is not None else ""]
            parts.append(f"is: {found.classes[row.label]}")
            if row.prediction is not None:
                parts.append(f"said: {found.classes[row.prediction]} {100 * (row.confidence or 0):.0f} %")
            panel = overlay_panel(
                decode_rgb(image.path), map_hw, image.boxes, "   ".join(filter(None, parts))
            )
            panel.save(folder / f"{row.index:06d}_{image.path.stem}.png")

    return draw
