"""Heatmaps in files of any origin: read without trusting them.

Nothing is unpickled, and no more than :data:`MOST_VALUES` numbers are read, whatever a file says of itself.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SUFFIXES = (".npz", ".npy", ".png", ".tif", ".tiff")
MOST_VALUES = 64_000_000
_GREY = {"1": 1.0, "L": 255.0, "I;16": 65535.0, "I;16L": 65535.0, "I;16B": 65535.0}

Array = npt.NDArray[Any]


class MapProblem(Exception):
    """A map that cannot be scored. ``reason`` is one of a few words to count by, ``what`` names file and finding."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(f"{reason}: {what}")
        self.reason = reason
        self.what = what

    def __reduce__(self) -> tuple[type[MapProblem], tuple[str, str]]:
        return type(self), (self.reason, self.what)  # it may come from a loader's process


def entry_name(class_name: str) -> str:
    """Name of a class's array in a ``.npz``; what UTF-8 cannot say is escaped."""
    return class_name.encode("utf-8", "backslashreplace").decode("utf-8") + ".npy"


def read_array(path: Path, class_name: str, other_classes: Collection[str] = ()) -> Array:
    """The numbers in a file, of any shape; of a ``.npz`` the class's array, or its only one unless that bears the name
    of another class.

    Raises MapProblem("no map") if a ``.npz`` has none of the class, MapProblem("unreadable map") for everything that is
    not a plain array of numbers or a grey picture.
    """
    try:
        if path.suffix.lower() == ".npz":
            return _from_zip(path, class_name, other_classes)
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                return _from_stream(file)
        return _from_picture(path)
    except MapProblem:
        raise
    # Whatever a damaged file makes its decoder raise (zlib.error, struct.error, EOFError, MemoryError, …).
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MapProblem("unreadable map", f"{path}: {said}") from error


def _from_zip(path: Path, class_name: str, other_classes: Collection[str]) -> Array:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        name = entry_name(class_name)
        if name not in names:
            theirs = {entry_name(other) for other in other_classes}
            if len(names) != 1 or names[0] in theirs:
                raise MapProblem("no map", f"{path} has {len(names)} arrays and none called {class_name!r}")
            name = names[0]
        with archive.open(name) as file:
            return _from_stream(file)


def _from_stream(file: IO[bytes]) -> Array:
    """An array in NumPy's format: the header is believed only as far as the numbers follow it."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"format {version} is not for plain arrays")
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {dtype}, not real numbers")
    count = math.prod(shape)
    if min(shape, default=1) < 1 or count > MOST_VALUES:
        raise ValueError(f"says that it is of shape {shape}")
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError("is cut off")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _from_picture(path: Path) -> Array:
    """Grey values of 8 or 16 bits, scaled to [0, 1]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size is looked at here
        with Image.open(path, formats=("PNG", "TIFF")) as picture:
            if picture.mode not in _GREY and not (picture.mode == "I" and picture.format == "PNG"):
                raise ValueError(f"is a picture of mode {picture.mode}, not grey of 8 or 16 bits")
            if picture.width * picture.height > MOST_VALUES:
                raise ValueError(f"is a picture of {picture.width}x{picture.height}")
            # Older versions of Pillow call a PNG of 16 bits "I".
            largest = _GREY.get(picture.mode, 65535.0)
            return np.asarray(picture).astype(np.float32) / np.float32(largest)
