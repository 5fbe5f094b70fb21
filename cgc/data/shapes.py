"""The embedded dataset: drawn objects of six classes on backgrounds that tempt, with a box each.

How an image comes about (`draw_image`; every random choice from one generator seeded by (seed, split, class,
number), so that an image does not depend on how many others are drawn):

1. Background: one of six textures (clouds, stripes, checker, dots, waves, grid), in two muted colours, with
   random period, direction and phase.
2. Clutter: three to six irregular blobs and short strokes of muted colours, anywhere.
3. Object: disc, square, triangle, star, ring or cross, inscribed in a circle of 30 to 55 % of the side,
   wholly inside the image, at a random place and angle, in one vivid colour of any hue, shaded from one side to
   the other. Drawn last, so nothing covers it. (In colours as muted as the background's a small network finds
   the textures within a minute, but not the objects.)
4. A little pixel noise; JPEG of quality 95 without chroma subsampling.

Colour, place and size say nothing about the class. The texture does: each class has one of its own. A
training image shows it with probability 0.7, else one of the other five; so a model gains a great deal, early
on, by looking beside the object. In held-out images all six textures are equally likely (the class's own in
one of six), so that there the background tells nothing and whoever relies on it is found out.

Layout: `train/<class>/*.JPEG`, `val/<class>/*.JPEG`, and the held-out images once more with Pascal-VOC boxes
(1-based, inclusive, tight around the object) in the flat layout of the evaluator: `eval/val/*.JPEG`,
`eval/annotation/*.xml`, with the class folder's name as the object's name.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cgc.errors import InputError

# Sorted, as every reader of class folders sorts them; the k-th class has the k-th texture for its own.
CLASSES = ("cross", "disc", "ring", "square", "star", "triangle")
TEXTURES = ("clouds", "stripes", "checker", "dots", "waves", "grid")
TRAIN_CORRELATION = 0.7
HELD_OUT_CORRELATION = 1 / len(TEXTURES)
DIAMETER = (0.3, 0.55)  # of the circle around the object, as a share of the image's side

_SUPERSAMPLING = 4
_VERSION = 1  # raise it when the drawing changes, so that a folder drawn before is not taken for current
_STAMP = "shapes.json"
_DRAWING = ".drawing"

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ShapeImage:
    """`pixels` (size, size, 3) uint8; `box` x0 y0 x1 y1, 0-based inclusive, of the object; names as above."""

    pixels: NDArray[np.uint8]
    box: tuple[int, int, int, int]
    shape: str
    texture: str


def draw_image(shape: str, size: int, rng: np.random.Generator, *, correlation: float) -> ShapeImage:
    """Draw one image; its texture is the class's own with probability `correlation`."""
    own = CLASSES.index(shape)
    others = [name for k, name in enumerate(TEXTURES) if k != own]
    texture = TEXTURES[own] if rng.random() < correlation else others[rng.integers(len(others))]
    dark, light = _two_colours(rng)
    amount = _texture(texture, size, rng)[..., None]
    canvas = dark + (light - dark) * amount
    for _ in range(rng.integers(3, 7)):
        mask = _clutter_mask(size, rng)[..., None]
        canvas += (_muted_colour(rng) - canvas) * mask * rng.uniform(0.5, 0.9)
    object_mask = _object_mask(shape, size, rng)
    colour = _vivid_colour(rng) * _shading(size, rng)[..., None]
    canvas += (colour - canvas) * object_mask[..., None]
    canvas += rng.normal(0, 0.02, canvas.shape)
    pixels = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return ShapeImage(pixels, _tight_box(object_mask), shape, texture)


def write_shapes(
    root: str | Path, *, train_per_class: int, val_per_class: int, size: int = 64, seed: int = 0
) -> Path:
    """Draw the dataset under `root`; the same arguments give the same bytes. Returns `root`.

    A folder that already holds the dataset of the same arguments is left as it is.

    Raises:
        InputError: a number out of range, a folder that holds something else, or one that cannot be written.
    """
    if train_per_class < 1 or val_per_class < 1 or size < 16 or seed < 0:
        raise InputError(
            "the shapes dataset needs at least 1 image per class and split, 16 px and a seed of 0 or more; "
            f"got {train_per_class} and {val_per_class} images, {size} px, seed {seed}"
        )
    root = Path(root)
    numbers = {"train_per_class": train_per_class, "val_per_class": val_per_class}
    stamp = {"generator": _VERSION, **numbers, "size": size, "seed": seed}
    try:
        if _is_written(root, stamp):
            return root
        for part in ("train", "val", "eval"):  # of a drawing that was interrupted
            shutil.rmtree(root / part, ignore_errors=True)
        root.mkdir(parents=True, exist_ok=True)
        (root / _DRAWING).touch()
        _write_train(root, train_per_class, size, seed)
        _write_held_out(root, val_per_class, size, seed)
        (root / _STAMP).write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")  # last: all is there
        (root / _DRAWING).unlink()
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror}") from error
    return root


def _is_written(root: Path, stamp: dict[str, int]) -> bool:
    if not root.is_dir() or not any(root.iterdir()) or (root / _DRAWING).exists():
        return False
    try:
        if json.loads((root / _STAMP).read_text(encoding="utf-8")) == stamp:
            return True
    except (FileNotFoundError, ValueError):
        pass
    raise InputError(f"{root}: not empty, and not this shapes dataset; delete it or name another folder")


def _image_rng(seed: int, split: int, label: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, split, label, number))


def _write_train(root: Path, per_class: int, size: int, seed: int) -> None:
    for label, name in enumerate(CLASSES):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            rng = _image_rng(seed, 0, label, number)
            image = draw_image(name, size, rng, correlation=TRAIN_CORRELATION)
            (folder / f"{name}_{number:05d}.JPEG").write_bytes(_jpeg(image.pixels))


def _write_held_out(root: Path, per_class: int, size: int, seed: int) -> None:
    flat, annotations = root / "eval" / "val", root / "eval" / "annotation"
    flat.mkdir(parents=True)
    annotations.mkdir()
    for label, name in enumerate(CLASSES):
        folder = root / "val" / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            rng = _image_rng(seed, 1, label, number)
            image = draw_image(name, size, rng, correlation=HELD_OUT_CORRELATION)
            stem, encoded = f"{name}_{number:05d}", _jpeg(image.pixels)
            (folder / f"{stem}.JPEG").write_bytes(encoded)
            (flat / f"{stem}.JPEG").write_bytes(encoded)
            (annotations / f"{stem}.xml").write_text(_voc_xml(stem, image), encoding="utf-8")


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _voc_xml(stem: str, image: ShapeImage) -> str:
    height, width = image.pixels.shape[:2]
    x0, y0, x1, y1 = (value + 1 for value in image.box)
    return (
        f"<annotation>\n  <filename>{stem}.JPEG</filename>\n"
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n"
        f"  <object>\n    <name>{image.shape}</name>\n    <difficult>0</difficult>\n"
        f"    <bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>\n"
        "  </object>\n</annotation>\n"
    )


def _two_colours(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Two muted colours, distinct enough that the texture shows, near enough that it does not hide the object."""
    middle = rng.uniform(0.3, 0.7) + rng.uniform(-0.1, 0.1, 3)
    step = rng.uniform(0.08, 0.16) + rng.uniform(-0.04, 0.04, 3)
    return (middle - step, middle + step) if rng.random() < 0.5 else (middle + step, middle - step)


def _muted_colour(rng: np.random.Generator) -> FloatArray:
    return rng.uniform(0.15, 0.85) + rng.uniform(-0.15, 0.15, 3)


def _vivid_colour(rng: np.random.Generator) -> FloatArray:
    """Any hue, saturation 0.75 to 1, value 0.75 to 1 (HSV)."""
    high = rng.uniform(0.75, 1)
    low = high * rng.uniform(0, 0.25)
    return rng.permutation([low, rng.uniform(low, high), high])


def _rotated_axes(size: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Coordinates of the pixel centres in image sides, turned by a random angle: u, v (size, size)."""
    angle = rng.uniform(0, 2 * math.pi)
    centres = (np.arange(size) + 0.5) / size
    x, y = centres[None, :], centres[:, None]
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _texture(name: str, size: int, rng: np.random.Generator) -> FloatArray:
    """A pattern in [0, 1], shape (size, size)."""
    if name == "clouds":
        return _smooth_noise(size, rng)
    u, v = _rotated_axes(size, rng)
    turns = 2 * math.pi * rng.uniform(4, 7)  # periods in one image side
    a, b = turns * u + rng.uniform(0, 2 * math.pi), turns * v + rng.uniform(0, 2 * math.pi)
    if name == "stripes":
        wave = np.tanh(3 * np.sin(a))
    elif name == "checker":
        wave = np.tanh(6 * np.sin(a) * np.sin(b))
    elif name == "dots":
        wave = np.tanh(4 * (np.cos(a) + np.cos(b) - 0.9))
    elif name == "waves":
        wave = np.sin(a + 2 * np.sin(b / 2))
    elif name == "grid":
        wave = np.tanh(8 * (0.25 - np.minimum(np.abs(np.sin(a / 2)), np.abs(np.sin(b / 2)))))
    else:
        raise ValueError(f"unknown texture {name!r}")
    return np.asarray(0.5 + 0.5 * wave)


def _smooth_noise(size: int, rng: np.random.Generator) -> FloatArray:
    total = np.zeros((size, size))
    for cells, weight in ((4, 1.0), (8, 0.6), (16, 0.3)):
        coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += weight * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def _shading(size: int, rng: np.random.Generator) -> FloatArray:
    u, _ = _rotated_axes(size, rng)
    return 0.85 + 0.15 * (u - u.min()) / (u.max() - u.min())


def _polygon_mask(size: int, points: FloatArray, hole: FloatArray | None = None) -> FloatArray:
    """Coverage in [0, 1] of a polygon (n, 2) in pixels, with smooth edges; `hole` is cut out."""
    big = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    pen = ImageDraw.Draw(big)
    pen.polygon((points * _SUPERSAMPLING).ravel().tolist(), fill=255)
    if hole is not None:
        pen.polygon((hole * _SUPERSAMPLING).ravel().tolist(), fill=0)
    return np.asarray(big.reduce(_SUPERSAMPLING), dtype=np.float64) / 255


def _around(radii: FloatArray | float, corners: int, turn: float) -> FloatArray:
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(radii, (-1, 1))


def _outline(shape: str, turn: float) -> FloatArray:
    """Corners (n, 2) of the object inscribed in the unit circle, turned by `turn` radians."""
    if shape in ("disc", "ring"):
        return _around(1.0, 48, turn)
    if shape == "square":
        return _around(1.0, 4, turn)
    if shape == "triangle":
        return _around(1.0, 3, turn)
    if shape == "star":
        return _around(np.tile([1.0, 0.42], 5), 10, turn)
    if shape == "cross":
        arm = 0.34  # half the width of an arm over its length
        quarter = np.array([[1, -arm], [1, arm], [arm, arm]]) / math.hypot(1, arm)
        turns = [turn + k * math.pi / 2 for k in range(4)]
        rotations = [np.array([[math.cos(t), math.sin(t)], [-math.sin(t), math.cos(t)]]) for t in turns]
        return np.concatenate([quarter @ rotation for rotation in rotations])
    raise ValueError(f"unknown shape {shape!r}")


def _object_mask(shape: str, size: int, rng: np.random.Generator) -> FloatArray:
    radius = size * rng.uniform(*DIAMETER) / 2
    centre = rng.uniform(radius, size - radius, 2)
    outline = _outline(shape, rng.uniform(0, 2 * math.pi)) * radius
    hole = outline * 0.55 + centre if shape == "ring" else None
    return _polygon_mask(size, outline + centre, hole)


def _clutter_mask(size: int, rng: np.random.Generator) -> FloatArray:
    """An irregular blob, or a stroke: nothing with a class's regular outline."""
    centre = rng.uniform(0, size, 2)
    if rng.random() < 0.5:
        return _polygon_mask(
            size, centre + size * rng.uniform(0.03, 0.14, 1) * _around(rng.uniform(0.4, 1, 9), 9, 0)
        )
    angle, half_length = rng.uniform(0, math.pi), size * rng.uniform(0.08, 0.25)
    along = np.array([math.cos(angle), math.sin(angle)]) * half_length
    across = np.array([-math.sin(angle), math.cos(angle)]) * size * rng.uniform(0.01, 0.025)
    return _polygon_mask(
        size, centre + np.stack([along + across, along - across, -along - across, across - along])
    )


def _tight_box(mask: FloatArray) -> tuple[int, int, int, int]:
    inside = mask >= 0.5
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
