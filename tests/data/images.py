"""Small image files of every awkward kind, and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colour with some noise: neighbouring pixels alike, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-6, 7, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def save_photograph(path: Path, width: int = 40, height: int = 30, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    photograph(width, height, seed).save(path)
    return path


def image_folder(root: Path, images_per_class: int = 3, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """`<root>/<split>/{ant,bee}/<k>.png`, every image of another size and content."""
    for s, split in enumerate(splits):
        for c, name in enumerate(("ant", "bee")):
            for k in range(images_per_class):
                seed = 100 * s + 10 * c + k
                save_photograph(root / split / name / f"{k}.png", 30 + 3 * k, 40 - 2 * k, seed)
    return root
