"""`python -m cgc show CHECKPOINT… --images PATH… --out FILE`: where models look on any images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cgc.commands.options import Parser, positive_int, run_command, seed
from cgc.commands.run_folders import find_checkpoint, short_names, trained_classes
from cgc.data.boxed_views import resized
from cgc.data.class_names import imagenet_wnids, read_classes
from cgc.data.decode import UnreadableImage, decode_rgb
from cgc.data.folders import images_below
from cgc.data.pixels import to_tensor
from cgc.data.presets import normalise, resize_size
from cgc.data.views import query_view
from cgc.engine.runtime import pick_device
from cgc.errors import InputError, RunError
from cgc.gradcam import GradCAMModel
from cgc.metrics.consistency import consistency
from cgc.metrics.maps import full_size_map
from cgc.models.checkpoint_layouts import read_checkpoint
from cgc.models.loading import load_model
from cgc.report.overlays import heatmap_overlay
from cgc.report.panels import Tile, at_side, figure, heat_tiles, mask_picture, save_figure
from cgc.spatial import SpatialTransform

_SUFFIXES = (".png", ".pdf")
_ROWS_PER_PAGE = 6  # of a PDF
_IMAGENET_CLASSES = 1000
_FIGURE_SCALE = (0.3, 0.8)  # areas of the crops in the figure of the transforms: enough to see what is left


@dataclass(frozen=True)
class Shown:
    """A model, what to call it and its classes."""

    name: str
    model: GradCAMModel
    classes: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a figure; 0, or 2 for input that cannot be used, 1 for a run that failed (one line on stderr)."""
    options = build_parser().parse_args(argv)
    return run_command(lambda: run(options))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m cgc show",
        description="A row per image: the image, then the mask and the overlay of every checkpoint and class; or, with "
        "--transform, what CGC compares: the mask of a transformed image beside the transformed mask.",
    )
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="checkpoints or run folders")
    images = "images, folders of them at any depth, or .txt files with a path a line"
    add("--images", type=Path, nargs="+", required=True, metavar="PATH", help=images)
    classes = "names or numbers of the classes to explain; 'predicted' is the model's own (predicted)"
    add("--classes", nargs="+", default=["predicted"], metavar="NAME", help=classes)
    listing = "class names in order: training folder or text file (those of the run, ImageNet's for 1000)"
    add("--class-names", type=Path, metavar="PATH", help=listing)
    add("--out", type=Path, required=True, metavar="FILE", help="a .png or .pdf")
    add("--limit", type=positive_int, default=24, metavar="N", help="at most N images, evenly spread (24)")
    add("--transform", action="store_true", help="the figure of the transform-consistency")
    add("--input_resize", "--input-resize", type=positive_int, default=448, metavar="PX",
        help="shorter side that the network sees, no crop (448)")  # fmt: skip
    add("--image-size", type=positive_int, default=224, metavar="PX", help="crop of --transform (224)")
    add("--side", type=positive_int, default=200, metavar="PX", help="shorter side as drawn (200)")
    add("--weighting", choices=("elementwise", "channel"), default="elementwise", help="(elementwise)")
    add("--layer", metavar="NAME", help="layer to explain (the last one before pooling)")
    add("-a", "--arch", help="architecture, where a checkpoint does not tell")
    add("--names", nargs="+", metavar="NAME", help="what to call the models")
    add("--seed", type=seed, default=0, help="of the transforms (0)")
    add("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Draw and write.

    Raises:
        InputError: a checkpoint, an image path, a class or the output path cannot be used.
        RunError: not one image could be read, or the file could not be written.
    """
    out: Path = options.out
    if out.suffix.lower() not in _SUFFIXES or out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: must be a .png or .pdf in a folder that is there")
    paths = find_images(options.images)
    if len(paths) > options.limit:
        step = (len(paths) - 1) / max(options.limit - 1, 1)
        print(f"{options.limit} of {len(paths)} images, evenly spread (--limit)", file=sys.stderr)
        paths = [paths[round(i * step)] for i in range(options.limit)]
    device = pick_device(options.device)
    shown = _models(options, device)
    chosen = [_numbers(options.classes, each) for each in shown]
    rows = []
    for number, path, image in _decoded(paths):
        if options.transform:
            rows += [_transform_row(each, path, image, number, options, device) for each in shown]
        else:
            rows.append(_row(shown, chosen, path, image, options, device))
    if not rows:
        raise RunError("not one of the images could be read")
    per_page = _ROWS_PER_PAGE if out.suffix.lower() == ".pdf" else len(rows)
    pages = [figure(rows[first : first + per_page]) for first in range(0, len(rows), per_page)]
    try:
        save_figure(out, pages)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}") from error
    print(f"written: {out} ({len(rows)} rows)")
    return 0


def find_images(given: Sequence[Path]) -> list[Path]:
    """The images that paths name: files, folders at any depth, and lists in ``.txt`` files (relative to the list).

    Raises InputError for a path that is not there, and a folder or list without images.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            below = [path / name for name in images_below(str(path), ".", set())]
        elif path.suffix.lower() == ".txt":
            below = _listed(path)
        elif path.is_file():
            below = [path]
        else:
            raise InputError(f"--images {path}: no such file or folder")
        if not below:
            raise InputError(f"--images {path}: no images in it")
        found += below
    return found


def _listed(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--images {path}: {getattr(error, 'strerror', None) or 'not a text file'}"
        ) from error
    return [path.parent / line.strip() for line in lines if line.strip()]


def _decoded(paths: Sequence[Path]) -> Iterator[tuple[int, Path, Image.Image]]:
    for number, path in enumerate(paths):
        image = _readable(path)
        if image is not None:
            yield number, path, image


def _readable(path: Path) -> Image.Image | None:
    try:
        return decode_rgb(path)
    except UnreadableImage as error:
        print(f"left out: {error}", file=sys.stderr)
        return None


def _models(options: argparse.Namespace, device: torch.device) -> list[Shown]:
    files = [find_checkpoint(path) for path in options.checkpoints]
    names = options.names or short_names(files)
    if len(names) != len(files):
        raise InputError(f"--names: {len(names)} names for {len(files)} checkpoints")
    side = options.image_size if options.transform else options.input_resize
    shown = []
    for file, name in zip(files, names, strict=True):
        count = read_checkpoint(file).num_classes
        if count is None:
            raise InputError(f"{file} holds no classifier, so there is no class to explain")
        model = load_model(options.arch, file, count, image_size=side, target_layer=options.layer)
        shown.append(Shown(name, model.to(device), _class_names(options.class_names, file, count)))
    return shown


def _class_names(given: Path | None, checkpoint: Path, count: int) -> tuple[str, ...]:
    """Names of a checkpoint's classes; numbers where nothing names them. Raises InputError for another number."""
    if given is not None:
        names = read_classes(given)
        if len(names) != count:
            raise InputError(f"--class-names {given}: {len(names)} names, {checkpoint} has {count} classes")
        return names
    trained = trained_classes(checkpoint)
    if trained is not None and len(trained) == count:
        return trained
    return imagenet_wnids() if count == _IMAGENET_CLASSES else tuple(f"class {k}" for k in range(count))


def _numbers(wanted: Sequence[str], shown: Shown) -> list[int | None]:
    """Class numbers, None for the predicted one. Raises InputError for a class that the model does not have."""
    numbers: list[int | None] = []
    for text in wanted:
        if text == "predicted":
            numbers.append(None)
        elif text in shown.classes:
            numbers.append(shown.classes.index(text))
        elif text.isdecimal() and int(text) < len(shown.classes):
            numbers.append(int(text))
        else:
            some = ", ".join(shown.classes[:5])
            raise InputError(
                f"--classes {text}: {shown.name} has no such class among {len(shown.classes)} ({some}, …)"
            )
    return numbers


def _row(
    shown: Sequence[Shown],
    chosen: Sequence[Sequence[int | None]],
    path: Path,
    image: Image.Image,
    options: argparse.Namespace,
    device: torch.device,
) -> list[Tile]:
    """The image, then mask and overlay of every model and class."""
    height, width = resized((image.height, image.width), options.input_resize)
    seen = (
        image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
    )
    input_13HW = normalise(_batch(seen, device))
    drawn = at_side(image, options.side)
    tiles = [Tile(drawn, (path.name,))]
    for each, numbers in zip(shown, chosen, strict=True):
        with torch.no_grad():
            logits_1K = each.model(input_13HW)[0]
        probability_K = logits_1K[0].float().softmax(0)
        predicted = int(probability_K.argmax())
        targets = [predicted if number is None else number for number in numbers]
        owner_M = torch.zeros(len(targets), dtype=torch.long, device=device)
        target_M = torch.tensor(targets, device=device)
        _, maps = each.model.explain(input_13HW, target_M, owner_M, weighting=options.weighting)
        for target, map_hw in zip(targets, maps, strict=True):
            what = f"{each.classes[target]} {100 * float(probability_K[target]):.0f} %"
            zero = "" if bool((map_hw > 0).any()) else "zero map"
            notes = ", ".join(filter(None, ["predicted" if target == predicted else "", zero]))
            lines = (each.name, what, notes)
            tiles += heat_tiles(drawn, map_hw, lines)
    return tiles


def _transform_row(
    shown: Shown,
    path: Path,
    image: Image.Image,
    number: int,
    options: argparse.Namespace,
    device: torch.device,
) -> list[Tile]:
    """Image, its map, transformed image, map of that, transform of the first map; and the cosine of the last two.

    Both maps are of the class that is predicted on the image, as in training (CGC, CVPR 2022, section 3).
    """
    size = options.image_size
    crop = query_view(image, size, resize_size(size))
    generator = torch.Generator().manual_seed(options.seed + number)
    transform = SpatialTransform.sample(1, size, scale=_FIGURE_SCALE, generator=generator)
    pixels = _batch(crop, device)
    moved = SpatialTransform.unpack(transform.pack().to(device), size)
    query = normalise(pixels)
    logits, query_map = shown.model.explain(query, weighting=options.weighting)
    target = logits.argmax(1)
    _, augmented_map = shown.model.explain(moved(query), target, weighting=options.weighting)
    agreement = consistency(query_map.cpu(), augmented_map.cpu(), transform)
    replayed = transform(full_size_map(query_map.float().cpu(), (size, size)))
    view = moved(pixels.float())[0].round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    plain, changed = at_side(crop, options.side), at_side(Image.fromarray(view), options.side)
    return [
        Tile(plain, ("image", path.name)),
        Tile(heatmap_overlay(plain, query_map[0].float().cpu()), (shown.name, shown.classes[int(target)])),
        Tile(changed, ("its transform", "flipped" if bool(transform.hflip) else "")),
        Tile(mask_picture(augmented_map[0], changed.size), ("map of the transform",)),
        Tile(
            mask_picture(replayed[0], changed.size),
            ("transform of the map", f"cosine {float(agreement.cosine_N[0]):.3f}"),
        ),
    ]


def _batch(image: Image.Image, device: torch.device) -> Tensor:
    """(1, 3, H, W) uint8."""
    return to_tensor(image).permute(2, 0, 1)[None].to(device)


if __name__ == "__main__":
    sys.exit(main())
