"""Image files of any kind to RGB, or one clear reason why not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cgc.data.pixels import Pixels, to_tensor

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision has announced that its decoders will go
    decode_jpeg = None


class UnreadableImage(Exception):
    """A file that cannot be decoded as an image; `path` and a one-line `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_file(path: str | Path) -> bytes:
    """The bytes of a file. Raises UnreadableImage: whatever went wrong."""
    path = Path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UnreadableImage(path, "no such file (a dangling link?)") from None
    except OSError as error:
        raise UnreadableImage(path, error.strerror or str(error)) from error


def decode_rgb(path: str | Path) -> Image.Image:
    """:func:`decode_data` of a file."""
    return decode_data(read_file(path), path)


def decode_data(data: bytes, path: str | Path) -> Image.Image:
    """Decode the bytes of an image file to an RGB image, fully loaded; ``path`` is what to call it in errors.

    Grey, CMYK and palette images are converted by Pillow; 16-bit grey keeps its upper eight bits, whatever
    Pillow's version does with it; transparent pixels are laid over white, where ImageFolder would show
    whatever colour the file stores beneath them. EXIF orientation is ignored, as ImageFolder does: the
    published numbers are without it.

    Raises:
        UnreadableImage: whatever went wrong.
    """
    path = Path(path)
    try:
        image = Image.open(io.BytesIO(data))
        refuse_programs(image)
        image.load()
        return _to_rgb(image)
    except UnidentifiedImageError:
        raise UnreadableImage(path, "not an image" if data else "empty file") from None
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise UnreadableImage(path, " ".join(str(error).split()) or type(error).__name__) from error


def refuse_programs(image: Image.Image) -> None:
    """Call it before an image's pixels are read. Raises ValueError for PostScript: Pillow has Ghostscript run it."""
    if image.format == "EPS":
        raise ValueError("PostScript, a program and no picture")


def decode_pixels(data: bytes, path: str | Path) -> Pixels:
    """:func:`decode_data`, faster where the bytes are an RGB or grey JPEG: the same pixels, the same refusals.

    torchvision's decoder is libjpeg, as Pillow's is. What either of them objects to is left to Pillow alone. Of a
    damaged file that both can decode the pixels are the same if their versions of libjpeg are.
    """
    rgb_HW3 = _decode_jpeg(data)
    return Pixels(to_tensor(decode_data(data, path)) if rgb_HW3 is None else rgb_HW3)


def _decode_jpeg(data: bytes) -> Tensor | None:
    """(H, W, 3) uint8, or None for whatever is no ordinary, undamaged JPEG."""
    if decode_jpeg is None or data[:2] != b"\xff\xd8":
        return None
    try:
        # The header is Pillow's to judge: it knows images too large, and colours that need converting.
        image = Image.open(io.BytesIO(data))
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return None
        # torch warns of memory that it may not write to; copying the file costs nothing beside decoding it.
        rgb_3HW = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except Exception:
        return None
    return rgb_3HW.permute(1, 2, 0).contiguous() if rgb_3HW.shape[1:] == (image.height, image.width) else None


def decode_jpegs(files: Sequence[Tensor], device: torch.device) -> list[Pixels | None]:
    """Whole JPEGs, as uint8 tensors of their bytes, decoded on the device; None for those that it does not take."""
    if decode_jpeg is None or not files:
        return [None] * len(files)
    try:
        decoded = decode_jpeg(list(files), ImageReadMode.RGB, device=device)
    except RuntimeError:
        if len(files) == 1:
            return [None]
        return [one for file in files for one in decode_jpegs([file], device)]  # all but the culprit
    return [Pixels(rgb_3HW.permute(1, 2, 0).contiguous()) for rgb_3HW in decoded]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
