"""Images with labels alone, `val/<class>/<image>`, as rows for metrics that need no region."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cgc.data.boxes import BoxedImage, BoxedImages
from cgc.data.class_names import imagenet_wnids, read_classes
from cgc.data.folders import open_split
from cgc.data.image_headers import NoSize, header_sizes
from cgc.data.specs import DATASETS
from cgc.errors import InputError

_NO_BOXES = np.empty((0, 4), dtype=np.int64)


def has_class_folders(root: Path, dataset: str | None = None) -> bool:
    """Whether the held-out split is sorted into folders of classes, with images in the first of them."""
    names = DATASETS[dataset].eval_folders if dataset in DATASETS else ("val", "test")
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        return False
    folders = sorted(e.path for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    return bool(folders) and [Path(path).name for path in folders] != ["images"]


def open_labelled(root: Path, dataset: str | None = None, classes: Path | None = None) -> BoxedImages:
    """Every held-out image as one row without boxes; files that are no image are skipped and named.

    ``classes``: training folder or text file with the model's classes in order; None: those of `root/train`, ImageNet's
    where the folders are called by its ids, else the folders themselves. The split may hold some of the classes only.

    Raises InputError as `open_split`, for a number of classes other than the dataset's, and where not one image of a
    known class can be read.
    """
    images = open_split(root, "val", empty_classes=True)
    known = _classes(root, dataset, classes, images.classes)
    index_of = {name: index for index, name in enumerate(known)}
    found = BoxedImages([], known, "class folders")
    paths = [images.path(i) for i in range(len(images))]
    for path, label, size in zip(paths, images.labels.tolist(), header_sizes(paths), strict=True):
        name = images.classes[label]
        if name not in index_of:
            found.skip("no object of a known class", f"{path}: {name}")
        elif isinstance(size, NoSize):
            found.skip(*size)
        else:
            found.images.append(BoxedImage(path, index_of[name], _NO_BOXES, False, size))
    if not found.images:
        reasons = ", ".join(f"{len(files)} × {reason}" for reason, files in found.skipped.items())
        raise InputError(f"{root}: no image can be scored ({reasons})")
    return found


def _classes(
    root: Path, dataset: str | None, given: Path | None, folders: tuple[str, ...]
) -> tuple[str, ...]:
    if given is not None:
        known = read_classes(given)
    elif dataset == "imagenet":
        known = imagenet_wnids()
    elif (root / "train").is_dir():
        known = read_classes(root / "train")
    else:
        known = imagenet_wnids() if set(folders) <= set(imagenet_wnids()) else folders
    if dataset in DATASETS and len(known) != DATASETS[dataset].num_classes:
        raise InputError(
            f"{given or root}: {len(known)} classes, but {dataset} has {DATASETS[dataset].num_classes}"
        )
    return known
