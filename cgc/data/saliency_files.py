"""Saliency masks on disk: their names, the manifest that says whose weights made them, and grey PNG files.

Shapes: a mask file (H, W), H×W the size of its image, or S×S, the query view of it. Sizes are (height, width).

A mask lies under its image's path relative to the split's folder, ``ant/17.png`` for ``ant/17.jpg``; where two images
differ in their suffix alone, both keep it: ``ant/17.jpg.png``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from cgc.data.decode import UnreadableImage, refuse_programs
from cgc.data.folders import ImageList
from cgc.errors import InputError

View = Literal["query", "image"]

MANIFEST = "manifest.json"
NO_FILE, WHOLE_NAME, STEM = 0, 1, 2  # how a mask is called after its image

_FORMAT = 1
_LARGEST = {"1": 255, "L": 255, "I;16": 65535, "I;16L": 65535, "I;16B": 65535}


@dataclass(frozen=True)
class MadeBy:
    """What a mask depends on beside its image.

    ``view`` "query": the network saw the central ``size``×``size`` px of the image with its shorter side brought to
    ``resize``, and the mask is of that part; "image": it saw all of it at that scale, and the mask has its size.
    """

    network: str
    weights: str  # weights_digest of cgc.models.u2net
    view: View
    size: int
    resize: int

    def __str__(self) -> str:
        seen = f"its central {self.size} px" if self.view == "query" else "all of it"
        return f"{self.network} {self.weights}, shorter side at {self.resize} px, {seen}"


@dataclass
class Manifest:
    """Which masks a folder holds and what made them; None for an image that could not be read."""

    masks: dict[str, MadeBy | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The folder's manifest, None where it has none; raises InputError for one that cannot be understood."""
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            made_by = [_made_by(each) for each in content["made_by"]]
            masks = {str(k): None if i is None else made_by[i] for k, i in content["masks"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            said = " ".join(str(error).split())[:100]
            raise InputError(f"{path} is no manifest of saliency masks: {said}") from error
        return cls(masks)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest as a whole."""
        numbers = {made: i for i, made in enumerate(dict.fromkeys(filter(None, self.masks.values())))}
        content = {
            "format": _FORMAT,
            "made_by": [asdict(made) for made in numbers],
            "masks": {k: None if made is None else numbers[made] for k, made in self.masks.items()},
        }
        text = json.dumps(content, indent=0, ensure_ascii=True)
        write_whole(folder / MANIFEST, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))


def _made_by(entry: Mapping[str, Any]) -> MadeBy:
    made = MadeBy(**entry)
    sizes = made.size, made.resize
    if made.view not in get_args(View) or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ValueError(f"made by {entry}")
    return MadeBy(str(made.network), str(made.weights), made.view, *sizes)


def mask_kinds(images: ImageList) -> npt.NDArray[np.uint8]:
    """How each image's mask is to be called: `STEM`, or `WHOLE_NAME` where stems are not unique."""
    kinds = np.full(len(images), STEM, dtype=np.uint8)
    for _, indices, names in _by_folder(images):
        count = Counter(Path(name).stem for name in names)
        kinds[indices] = [STEM if count[Path(name).stem] == 1 else WHOLE_NAME for name in names]
    return kinds


def find_masks(images: ImageList, folder: Path) -> npt.NDArray[np.uint8]:
    """How each image's mask below ``folder`` is called; `NO_FILE` where it has none. Lists folders, opens no file."""
    found = np.full(len(images), NO_FILE, dtype=np.uint8)
    wanted = mask_kinds(images)
    for below, indices, names in _by_folder(images):
        try:
            there = set(os.listdir(folder / below))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"{folder / below}: {error.strerror}") from error
        for index, name in zip(indices, names, strict=True):
            if f"{name}.png" in there:
                found[index] = WHOLE_NAME
            elif wanted[index] == STEM and f"{Path(name).stem}.png" in there:
                found[index] = STEM
    return found


def mask_path(folder: Path, relative: str, kind: int) -> Path:
    """Where the mask of the image ``relative`` lies, called in one of the two ways."""
    path = folder / relative
    return path.with_suffix(".png") if kind == STEM else path.with_name(f"{path.name}.png")


def _by_folder(images: ImageList) -> Iterator[tuple[str, list[int], list[str]]]:
    """Folder, indices and names of the images in it; those of one folder stand next to each other."""
    paths = (os.path.split(images.paths[i]) for i in range(len(images)))
    for below, group in groupby(enumerate(paths), key=lambda each: each[1][0]):
        listed = [(index, name) for index, (_, name) in group]
        yield below, [index for index, _ in listed], [name for _, name in listed]


def read_grey(path: Path, size: tuple[int, int]) -> Image.Image:
    """A grey picture of 1, 8 or 16 bits, stretched to reach from 0 to 255 (mode L).

    A flat one becomes 255 if its value is above the middle, else 0.

    Raises UnreadableImage for a file that is none, or not of ``size``, which is known before its pixels are read.
    """
    try:
        with Image.open(path) as image:
            if (image.height, image.width) != tuple(size):
                raise ValueError(f"is {image.height}×{image.width} px, not {size[0]}×{size[1]} as it should")
            if image.mode not in _LARGEST and not (image.mode == "I" and image.format == "PNG"):
                raise ValueError(f"is not a grey picture (mode {image.mode})")
            refuse_programs(image)
            image.load()
            if image.mode == "L" and image.getextrema() == (0, 255):
                return image
            # Older versions of Pillow call a PNG of 16 bits "I".
            values = np.asarray(image.convert("L") if image.mode == "1" else image)
            return Image.fromarray(_stretched(values, _LARGEST.get(image.mode, 65535)))
    except FileNotFoundError:
        raise UnreadableImage(path, "no such mask") from None
    except Exception as error:  # decoders raise nearly anything on a damaged file
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(path, f"mask {said}") from error


def _stretched(values_HW: npt.NDArray[Any], largest: int) -> npt.NDArray[np.uint8]:
    low, high = int(values_HW.min()), int(values_HW.max())
    if low == high:
        return np.full(values_HW.shape, 255 if 2 * low > largest else 0, dtype=np.uint8)
    shares = (values_HW.astype(np.float64) - low) / (high - low)
    return cast("npt.NDArray[np.uint8]", np.ceil(shares * 255 - 0.5).astype(np.uint8))


def write_grey(path: Path, grey_HW: npt.NDArray[np.uint8]) -> None:
    """Write a PNG, whole or not at all, creating its folder; raises OSError if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(grey_HW)
    write_whole(path, lambda partial: image.save(partial, format="PNG"))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it, so that ``path`` is never half written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
