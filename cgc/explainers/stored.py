"""Heatmaps in a folder: written by an evaluation, or made by any other tool.

Shapes: a map (h, w), not negative; image sizes (height, width).

One file per image under the image's path relative to the root of the images: ``dog/17.npz`` for ``dog/17.jpg``, with
one float32 array per class name. Where two images differ in their suffix alone, both keep it: ``dog/17.jpg.npz``.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cgc.errors import InputError
from cgc.explainers.map_files import SUFFIXES, Array, MapProblem, entry_name, read_array

__all__ = ["MapProblem", "MapWriter", "StoredMaps"]

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".gif", ".tif", ".tiff", ".webp")
# A grid of a network covers the image however it is shaped; a larger map is taken for a picture of the image.
_LARGEST_GRID = 64
_ASPECT_TOLERANCE = 0.02


class _Names:
    """Where the map of an image is looked for, below the folder of maps."""

    def __init__(self, folder: Path | str, root: Path | str) -> None:
        self.folder = Path(folder)
        self.root = Path(os.path.abspath(root))
        self._stems: dict[Path, Counter[str]] = {}

    def relative(self, image_path: Path) -> Path:
        """Below the root; of an image elsewhere the bare name."""
        path = Path(os.path.abspath(image_path))
        return path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)

    def has_twin(self, image_path: Path) -> bool:
        """Whether another image beside it differs in the suffix alone."""
        folder = Path(os.path.abspath(image_path)).parent
        if folder not in self._stems:
            try:
                # Beside the images themselves a picture may be a map.
                separate = self.folder.resolve() != self.root.resolve()
                names = os.listdir(folder) if separate else []
            except OSError:
                names = []
            self._stems[folder] = Counter(
                Path(name).stem for name in names if Path(name).suffix.lower() in _IMAGES
            )
        return self._stems[folder][image_path.stem] > 1


class StoredMaps:
    """Heatmaps from files: ``.npz`` (the array of the class, or the only one), ``.npy``, grey PNG or TIFF (8 or 16
    bits, scaled to [0, 1]).

    A file is looked for under the image's path relative to ``root``, with its suffix and without, then under its bare
    name. A map covers its image: a grid of at most 64 cells a side always does, a larger map only if its sides are in
    the image's ratio within 2 % and one pixel, unless ``stretch``. The only array of a ``.npz`` serves every class, but
    not if it bears the name of another one of ``classes``.

    Raises InputError if there is no such folder.
    """

    def __init__(
        self, folder: Path | str, root: Path | str, *, stretch: bool = False, classes: Collection[str] = ()
    ) -> None:
        if not Path(folder).is_dir():
            raise InputError(f"{folder}: no such folder of maps")
        self._names = _Names(folder, root)
        self.stretch, self.classes = stretch, frozenset(classes)

    def load(self, image_path: Path | str, class_name: str, image_size: tuple[int, int]) -> Tensor:
        """The map (h, w), float32, of a class on an image of ``image_size``.

        Raises MapProblem with the reason "no map", "unreadable map", "map not finite", "negative map" or "map of
        another size"; nothing else, whatever the file holds.
        """
        try:
            path = self._find(Path(image_path))
        except OSError as error:
            raise MapProblem("unreadable map", f"{error.filename}: {error.strerror}") from error
        if path is None:
            raise MapProblem("no map", f"{image_path} has none in {self._names.folder}")
        array = read_array(path, class_name, self.classes)
        while array.ndim > 2 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 2:
            raise MapProblem("unreadable map", f"{path}: shape {array.shape} is not (h, w)")
        map_hw = _as_float32(array)
        if not np.isfinite(map_hw).all():
            raise MapProblem("map not finite", str(path))
        if map_hw.min() < 0:
            raise MapProblem("negative map", f"{path}: smallest value {map_hw.min():.3g}")
        if not (self.stretch or _covers(map_hw.shape, image_size)):
            sizes = f"{map_hw.shape[0]}x{map_hw.shape[1]} for an image of {image_size[0]}x{image_size[1]}"
            raise MapProblem("map of another size", f"{path}: {sizes}")
        return torch.from_numpy(map_hw)

    def _find(self, image_path: Path) -> Path | None:
        relative = self._names.relative(image_path)
        whole = [relative, Path(relative.name)]
        stems = [] if self._names.has_twin(image_path) else [each.with_suffix("") for each in whole]
        for place in dict.fromkeys((whole[0], *stems[:1], whole[1], *stems[1:])):
            for suffix in SUFFIXES:
                path = self._names.folder / place.with_name(place.name + suffix)
                if path.is_file() and not (image_path.is_file() and path.samefile(image_path)):
                    return path
        return None


class MapWriter:
    """Writes maps as :class:`StoredMaps` reads them; a file is there whole or not at all."""

    def __init__(self, folder: Path | str, root: Path | str) -> None:
        self._names = _Names(folder, root)

    def write(self, image_path: Path | str, maps: Mapping[str, Tensor]) -> Path:
        """Write the maps (h, w) of an image by class name, in place of those written before; returns the file.

        Raises OSError if that fails.
        """
        image_path = Path(image_path)
        relative = self._names.relative(image_path)
        place = relative if self._names.has_twin(image_path) else relative.with_suffix("")
        path = self._names.folder / place.with_name(place.name + ".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        try:
            # Not numpy.savez: its arrays are keyword arguments, and a class may be called "file".
            with zipfile.ZipFile(unfinished, "w") as archive:
                for class_name, map_hw in maps.items():
                    entry = zipfile.ZipInfo(entry_name(class_name))  # without the time: same maps, same bytes
                    with archive.open(entry, "w", force_zip64=True) as file:
                        array = np.ascontiguousarray(map_hw.detach().float().cpu().numpy())
                        np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return path


def _as_float32(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused as such
        return np.array(array, dtype=np.float32, order="C")


def _covers(map_size: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    if max(map_size) <= _LARGEST_GRID:
        return True
    (h, w), (height, width) = map_size, image_size
    return any(
        abs(side - expected) <= _ASPECT_TOLERANCE * expected + 1
        for side, expected in ((h, w * height / width), (w, h * width / height))
    )
