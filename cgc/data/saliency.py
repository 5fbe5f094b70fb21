"""Saliency of training images: which pixels of the query view are foreground.

Shapes: S side of the query view; images (H, W), sizes are (height, width).

Masks come from a folder of grey PNG files (`python -m cgc saliency-masks` fills one, any other will do) or from
annotated regions. A file is stretched to reach from 0 to 1 as in SGC, cut and resized by the function that makes the
query view itself, and what is above ½ then is foreground. SGC stretches last: files made for the query view agree with
it exactly, while a mask of a whole image keeps its scale where no more than an edge of it is seen.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cgc.data.boxes import BoxedImages
from cgc.data.decode import UnreadableImage
from cgc.data.folders import ImageList, PathTable
from cgc.data.presets import resize_size
from cgc.data.saliency_files import NO_FILE, MadeBy, Manifest, find_masks, mask_path, read_grey
from cgc.data.shards.names import image_names, member_names
from cgc.data.unlabelled import NO_LABEL
from cgc.data.views import query_view
from cgc.errors import InputError

Missing = Literal["error", "skip", "full"]

_SIZE = 224  # of the query view, unless the command that makes masks is told another


class MaskSource(Protocol):
    """Where masks come from. ``have`` (n,) tells which images ought to have one; ``made_by`` is None if unknown."""

    name: str
    hint: str  # how to get masks that are missing
    size: int  # of the query view
    have: npt.NDArray[np.bool_]
    made_by: MadeBy | None

    def query_mask(self, index: int, image_size: tuple[int, int]) -> Image.Image | None:
        """The query view of a mask, S×S, mode L, of the image of that index and decoded size; None: it has none.

        Raises UnreadableImage for a mask that is damaged or does not belong to the image.
        """


class SaliencyMasks:
    """Foreground of the query views of ``images``, which are those of the list to train on.

    An image without a mask is refused by ``missing="error"``, left out of ``images`` by "skip", and all foreground by
    "full". Some troubles show only when a mask is read: with "error" they end the run; with the other two they are
    UnreadableImage, which a loader takes as it takes an image that cannot be read. An empty mask (nothing of the
    object lies in the crop) is among them, but it too is all foreground by "full".

    Attributes: ``images``; ``made_by``; ``notes``, what its user should know.

    Raises InputError where masks are missing against the rule, or all are; ValueError for an unknown rule.
    """

    def __init__(self, source: MaskSource, images: ImageList, *, missing: Missing = "error") -> None:
        if missing not in ("error", "skip", "full"):
            raise ValueError(f"missing must be 'error', 'skip' or 'full', not {missing!r}")
        self.source, self.missing, self.images = source, missing, images
        self.made_by = source.made_by
        self.notes: list[str] = []
        self._indices = np.arange(len(images))
        lacking = np.flatnonzero(~source.have)
        if not len(lacking):
            return
        said = f"{len(lacking)} of {len(images)} images have no mask in {source.name}"
        if missing == "error" or len(lacking) == len(images):
            raise InputError(f"{said}, the first: {images.path(int(lacking[0]))}; {source.hint}")
        if missing == "skip":
            self._indices = np.flatnonzero(source.have)
            self.images = images.subset(self._indices)
        self.notes.append(f"{said}: {'left out' if missing == 'skip' else 'all foreground'}")

    @property
    def origin(self) -> str:
        """What made the masks, for the records of a run: one that goes on can tell whether they are others."""
        return "unknown making" if self.made_by is None else str(self.made_by)

    def __call__(self, index: int, image_size: tuple[int, int]) -> Tensor:
        """uint8 (S, S), 1 on the foreground, of image ``index`` of ``images``, whose decoded size is given.

        Raises UnreadableImage or, with ``missing="error"``, InputError for a mask that cannot be used.
        """
        try:
            mask = self.source.query_mask(int(self._indices[index]), image_size)
            if mask is not None:
                foreground_SS = np.asarray(mask) > 127  # above ½ of 255
                if foreground_SS.any():
                    return torch.from_numpy(foreground_SS.astype(np.uint8))
            if self.missing == "full":
                return torch.ones(self.source.size, self.source.size, dtype=torch.uint8)
            raise UnreadableImage(self.images.path(index), "its saliency mask is empty in the query's crop")
        except UnreadableImage as error:
            if self.missing == "error":
                raise InputError(str(error)) from error
            raise


class MaskFolder:
    """Grey PNG files, of the sizes of their images, or of the query view where a manifest says so.

    They lie under the images' paths with the suffix ``.png`` below ``folder/<name of the split's folder>`` if there is
    such a folder, else below ``folder``. Where there is a manifest, files that it does not list do not count.

    Args:
        images: all images of the split.
        size, resize: of the run's query view, as in :func:`cgc.data.views.query_view`.
        weights: digest of the weights that must have made the masks; None: any, but the same for all.

    Raises InputError: no such folder, or masks of other weights, of several, or of another part of the images than the
    query view shows.
    """

    def __init__(
        self, folder: str | Path, images: ImageList, size: int, resize: int, *, weights: str | None = None
    ) -> None:
        self.size, self.resize = size, resize
        self.hint = f"to make masks: {making_command(images, Path(folder), size, resize)}"
        self.folder = split_folder(Path(folder), images)
        self.name = str(self.folder)
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder of saliency masks; {self.hint}")
        refuse_image_folder(self.folder, images)
        self._paths = images.paths
        self._kinds = find_masks(images, self.folder)
        self.have = self._kinds != NO_FILE
        self.made_by = None
        manifest = Manifest.read(self.folder)
        if manifest is not None:
            self.made_by = self._use(manifest, images)
        if weights is not None and (self.made_by is None or self.made_by.weights != weights):
            raise InputError(
                f"{self.folder} holds masks of {self.made_by or 'unknown origin'}, not of {weights}"
            )
        if self.made_by is not None and self.made_by.view == "query":
            _check_same_part(self.folder, self.made_by, size, resize)

    def _use(self, manifest: Manifest, images: ImageList) -> MadeBy | None:
        makers: dict[MadeBy, None] = {}
        listed = manifest.masks
        masks = listed
        if any(images.paths[index] not in listed for index in range(len(images))):
            # Shards call an image by another suffix than its file.
            from_shards = image_names(PathTable(member_names(list(listed))))
            masks = {from_shards[i]: made for i, made in enumerate(listed.values())} | listed
        for index in range(len(images)):
            path = images.paths[index]
            made = masks.get(path)
            if made is None:
                self._kinds[index] = NO_FILE
                # Listed without a maker: the image could not be read, which its loading will show.
                self.have[index] = path in masks
            elif self.have[index]:
                makers[made] = None
        if len(makers) > 1:
            said = "; ".join(map(str, makers))
            raise InputError(f"{self.folder} holds masks of {len(makers)} makings ({said}); make all anew")
        return next(iter(makers), None)

    def query_mask(self, index: int, image_size: tuple[int, int]) -> Image.Image | None:
        if self._kinds[index] == NO_FILE:
            if self.have[index]:
                raise UnreadableImage(
                    self.folder / self._paths[index], "no mask: unreadable when masks were made"
                )
            return None
        path = mask_path(self.folder, self._paths[index], int(self._kinds[index]))
        if self.made_by is None or self.made_by.view == "image":
            return query_view(read_grey(path, image_size), self.size, self.resize)
        side = self.made_by.size
        grey = read_grey(path, (side, side))
        return grey if side == self.size else grey.resize((self.size,) * 2, Image.Resampling.BILINEAR)


class RegionMasks:
    """Annotated boxes and masks as saliency: an image's foreground is every annotated object of it.

    ``images`` are all images of the split; ``size, resize`` are the query view's.
    """

    made_by: MadeBy | None = None
    hint = "--missing-mask skip or full does without"

    def __init__(self, found: BoxedImages, images: ImageList, size: int, resize: int) -> None:
        self.size, self.resize = size, resize
        self.name = f"the annotations ({found.layout})"
        self._rows = found.images
        first: dict[str, int] = {}
        for row, boxed in enumerate(self._rows):
            first.setdefault(os.path.abspath(boxed.path), row)
        root = os.path.abspath(images.root)
        paths = (os.path.normpath(os.path.join(root, images.paths[i])) for i in range(len(images)))
        self._first = np.array([first.get(path, -1) for path in paths], dtype=np.int64)
        self.have = self._first >= 0

    def query_mask(self, index: int, image_size: tuple[int, int]) -> Image.Image | None:
        row = int(self._first[index])
        if row < 0:
            return None
        path = self._rows[row].path
        foreground_HW = np.zeros(image_size, dtype=np.uint8)
        try:
            while row < len(self._rows) and self._rows[row].path == path:
                if self._rows[row].size != tuple(image_size):
                    raise ValueError(_sizes(image_size, self._rows[row].size))
                _paint(foreground_HW, self._rows[row].region)
                row += 1
        except (ValueError, OSError) as error:
            raise UnreadableImage(path, f"unusable region: {error}") from error
        return query_view(Image.fromarray(foreground_HW), self.size, self.resize)


def _sizes(image: tuple[int, int], annotated: tuple[int, int]) -> str:
    return f"is {image[0]}×{image[1]} px, its annotation says {annotated[0]}×{annotated[1]}"


def _paint(
    foreground_HW: npt.NDArray[np.uint8], region: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
) -> None:
    if region.dtype == np.bool_:
        foreground_HW[region.astype(bool)] = 255
        return
    for x0, y0, x1, y1 in region.tolist():
        foreground_HW[y0 : y1 + 1, x0 : x1 + 1] = 255


def split_folder(folder: Path, images: ImageList) -> Path:
    """Where the masks of a split lie: below its name if there is such a folder, else at the top."""
    below = folder / images.root.name
    return below if below.is_dir() else folder


def making_command(images: ImageList, folder: Path, size: int, resize: int) -> str:
    """The command that fills ``folder`` with the masks of these images, but for the place of the weights."""
    words = ["python", "-m", "cgc", "saliency-masks"]
    if (images.labels == NO_LABEL).all():
        words += [str(images.root), "--unlabeled", "--out", str(folder)]
    else:
        words += [str(images.root.parent)]
        words += [] if folder == images.root.parent / "saliency" else ["--out", str(folder)]
    words += [] if size == _SIZE else ["--size", str(size)]
    words += [] if resize == resize_size(size) else ["--resize-size", str(resize)]
    return f"{shlex.join(words)} --weights u2net.pth"


def refuse_image_folder(folder: Path, images: ImageList) -> None:
    """Raises InputError for masks among the images themselves, where a picture may be either."""
    place, root = folder.resolve(), images.root.resolve()
    if place == root or root in place.parents:
        raise InputError(f"{folder} is the folder of the images; masks need one of their own")


def _check_same_part(folder: Path, made_by: MadeBy, size: int, resize: int) -> None:
    """A mask of the query view serves at any size that shows the same part of the image, to half a pixel."""
    shift = abs(made_by.size / made_by.resize - size / resize) * resize / 2
    if shift > 0.5:
        raise InputError(
            f"{folder} holds masks of the central {made_by.size} of {made_by.resize} px, this run crops {size} of "
            f"{resize}: make them anew for that, or of whole images"
        )
