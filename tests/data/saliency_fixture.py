"""A small split and masks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cgc.data.folders import ImageList, open_split
from cgc.data.saliency import MaskFolder, SaliencyMasks
from cgc.data.saliency_files import MadeBy
from cgc.data.saliency_writer import MaskWriter
from tests.data.images import image_folder

SIZE, RESIZE = 24, 27
QUERY = MadeBy("u2netp", "0123456789abcdef", "query", SIZE, RESIZE)
WHOLE = MadeBy("u2netp", "0123456789abcdef", "image", SIZE, RESIZE)


def small_split(folder: Path) -> ImageList:
    """train/{ant,bee}/{0,1,2}.png of 30×40, 33×38 and 36×36 px (width × height)."""
    return open_split(image_folder(folder / "data", splits=("train",)), "train")


def size_of(images: ImageList, index: int) -> tuple[int, int]:
    with Image.open(images.path(index)) as image:
        return image.height, image.width


def blob(size: tuple[int, int], seed: int) -> np.ndarray[Any, Any]:
    """A smooth grey picture from 0 to 255."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC)).astype(float)
    return np.round((grey - grey.min()) / (grey.max() - grey.min()) * 255).astype(np.uint8)


def fill(images: ImageList, folder: Path, but: tuple[int, ...] = ()) -> dict[int, np.ndarray[Any, Any]]:
    """A mask file of its own size for every image, but those."""
    masks = {i: blob(size_of(images, i), i) for i in range(len(images)) if i not in but}
    for index, mask in masks.items():
        path = (folder / images.paths[index]).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return masks


def filled_by(made: MadeBy, images: ImageList, folder: Path, **options: Any) -> Path:
    """Masks as the command writes them; returns the folder to open."""
    with MaskWriter(folder / "train", images, made, **options) as writer:
        for index in writer.to_make:
            size = (made.size, made.size) if made.view == "query" else size_of(images, index)
            writer.write(index, blob(size, index))
        writer.settle()
    return folder


def opened(
    folder: Path, images: ImageList, missing: Any = "error", weights: str | None = None
) -> SaliencyMasks:
    return SaliencyMasks(MaskFolder(folder, images, SIZE, RESIZE, weights=weights), images, missing=missing)


def loaded(masks: SaliencyMasks) -> list[Tensor]:
    return [masks(i, size_of(masks.images, i)) for i in range(len(masks.images))]
