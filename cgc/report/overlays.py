"""Heatmaps as people look at them: photograph with boxes beside the heatmap laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cgc.metrics.maps import full_size_map

# Eleven evenly spaced colours, dark to bright, lightness rising evenly; values between are interpolated.
_INFERNO = (
    (0, 0, 4),
    (22, 11, 57),
    (66, 10, 104),
    (106, 23, 110),
    (147, 38, 103),
    (188, 55, 84),
    (221, 81, 58),
    (243, 120, 25),
    (252, 165, 10),
    (246, 215, 70),
    (252, 255, 164),
)
BOX_COLOUR = (64, 224, 255)  # none of the colours of the map
_CAPTION_HEIGHT = 18
_GAP = 4


def colourise(values_HW: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Values in [0, 1] to (H, W, 3) uint8 colours, perceptually even from black over red to pale yellow."""
    table = np.array(_INFERNO, dtype=np.float64)
    grid = np.linspace(0.0, 1.0, len(table))
    clipped = np.clip(values_HW, 0.0, 1.0)
    return (
        np.stack([np.interp(clipped, grid, table[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)
    )


def heatmap_overlay(image: Image.Image, map_hw: Tensor) -> Image.Image:
    """The map, scaled to its maximum, over a greyed copy of the image: the hotter, the more colour covers it.

    A map of zeros leaves the grey image.
    """
    full = full_size_map(map_hw, (image.height, image.width)).cpu().numpy()
    heat = full / full.max() if bool((map_hw > 0).any()) else np.zeros_like(full)
    grey = np.asarray(image.convert("L"), dtype=np.float64)[..., None] * 0.8
    cover = (0.75 * np.sqrt(heat))[..., None]
    mixed = grey * (1 - cover) + colourise(heat).astype(np.float64) * cover
    return Image.fromarray(mixed.round().astype(np.uint8))


def draw_boxes(image: Image.Image, boxes: npt.ArrayLike, scale: float = 1.0) -> Image.Image:
    """A copy with the boxes (B, 4), x0 y0 x1 y1 inclusive, times `scale`, as bright lines on dark ones."""
    copy = image.convert("RGB").copy()
    pen = ImageDraw.Draw(copy)
    width = max(1, round(min(copy.size) / 160))
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        left, top = round(x0 * scale), round(y0 * scale)
        right = max(min(round((x1 + 1) * scale), copy.width) - 1, left)
        bottom = max(min(round((y1 + 1) * scale), copy.height) - 1, top)
        pen.rectangle((left, top, right, bottom), outline=(0, 0, 0), width=2 * width)
        pen.rectangle((left, top, right, bottom), outline=BOX_COLOUR, width=width)
    return copy


def overlay_panel(
    image: Image.Image, map_hw: Tensor, boxes: npt.ArrayLike, caption: str = "", *, side: int = 320
) -> Image.Image:
    """Image with boxes | heatmap with boxes, the shorter side brought to `side` pixels, a caption line
    below.
    """
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    plain = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    return _in_a_row(
        [draw_boxes(plain, boxes, scale), draw_boxes(heatmap_overlay(plain, map_hw), boxes, scale)], caption
    )


def _in_a_row(images: Sequence[Image.Image], caption: str) -> Image.Image:
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    height = max(image.height for image in images)
    panel = Image.new("RGB", (width, height + (_CAPTION_HEIGHT if caption else 0)), "white")
    left = 0
    for image in images:
        panel.paste(image, (left, 0))
        left += image.width + _GAP
    if caption:
        font = ImageFont.load_default()
        while len(caption) > 4 and font.getlength(caption) > width - 8:
            caption = caption[:-2].rstrip("…") + "…"
        ImageDraw.Draw(panel).text((4, height + 3), caption, fill="black", font=font)
    return panel


def panel_row(
    images_N3HW: Tensor, maps_Nhw: Tensor, captions: Sequence[str], *, side: int = 160
) -> npt.NDArray[np.uint8]:
    """uint8 images with their heatmaps below, N columns, as one (H, W, 3) picture."""
    columns = []
    for pixels_3HW, map_hw, caption in zip(images_N3HW, maps_Nhw, captions, strict=True):
        image = Image.fromarray(pixels_3HW.permute(1, 2, 0).contiguous().numpy())
        scale = side / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        columns.append(_in_a_row([_stacked([image, heatmap_overlay(image, map_hw)])], caption))
    return np.asarray(_in_a_row(columns, ""))


def comparison_picture(
    images: Sequence[Image.Image],
    boxes: Sequence[npt.ArrayLike],
    maps: Mapping[str, Sequence[Tensor]],
    captions: Sequence[str],
    *,
    side: int = 150,
    per_row: int = 6,
) -> Image.Image:
    """Columns of image, then one heatmap per name of ``maps``, all with their boxes; ``per_row`` columns side by side.

    ``maps[name]`` holds one (h, w) map per image. The names stand at the left of their rows.
    """
    bands = []
    for first in range(0, len(images), per_row):
        columns = []
        for i in range(first, min(first + per_row, len(images))):
            scale = side / min(images[i].size)
            size = (round(images[i].width * scale), round(images[i].height * scale))
            plain = images[i].convert("RGB").resize(size, Image.Resampling.BICUBIC)
            tiles = [plain, *(heatmap_overlay(plain, each[i]) for each in maps.values())]
            columns.append(
                _in_a_row([_stacked([draw_boxes(t, boxes[i], scale) for t in tiles])], captions[i])
            )
        bands.append(_in_a_row([_row_titles(["image", *maps], side), *columns], ""))
    return _stacked(bands)


def _row_titles(titles: Sequence[str], side: int) -> Image.Image:
    font = ImageFont.load_default()
    width = 12 + round(max(font.getlength(title) for title in titles))
    picture = Image.new("RGB", (width, len(titles) * (side + _GAP)), "white")
    for i, title in enumerate(titles):
        ImageDraw.Draw(picture).text((4, i * (side + _GAP) + side // 2), title, fill="black", font=font)
    return picture


def _stacked(images: Sequence[Image.Image]) -> Image.Image:
    height = sum(image.height for image in images) + _GAP * (len(images) - 1)
    picture = Image.new("RGB", (max(image.width for image in images), height), "white")
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height + _GAP
    return picture
