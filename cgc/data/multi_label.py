"""Images that show several categories, and for each category the images to draw distractors from.

Shapes: N images in the order of their names, K categories in ascending order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cgc.data.annotations import Choice
from cgc.data.boxed_specs import BoxedSpec, boxed_spec
from cgc.data.coco_files import ImageFiles, choose_json
from cgc.data.folders import ImageList, PathTable
from cgc.data.grids import DISTRACTORS
from cgc.data.negatives import NegativeImages, negatives_from_coco, read_negatives
from cgc.data.unlabelled import NO_LABEL
from cgc.errors import InputError


@dataclass(frozen=True, eq=False)
class MultiLabelImages:
    """``present_NK`` bool: image n shows something of category k; every image shows something.

    ``images``: where they lie; its labels are `NO_LABEL`. ``names``: as the annotations give them. ``source``: the
    annotation file.
    """

    images: ImageList
    present_NK: npt.NDArray[np.bool_]
    names: tuple[str, ...]
    source: Path

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.images.classes


def open_multi_label(
    root: str | Path, split: str, *, dataset: str | None = None, classes: Sequence[str] | None = None
) -> tuple[MultiLabelImages, list[str]]:
    """The annotated images of `annotations/instances_{split}{year}.json` or any JSON of that form; notes beside them.

    Any annotation counts as its category, whatever its box: a crowd, or an object that cannot be scored, is still in
    the image. Images without one, and those that are not on the disk, are left out and counted in the notes.

    Args:
        split: "train" or "val".
        dataset: a name of `BOXED_DATASETS` in COCO's layout: its number of categories is checked, and its year taken.
        classes: categories that the file must have, in this order.

    Raises InputError: no such folder or annotation file, or several; JSON that is not COCO's, or without categories;
    other categories than asked for; no image that is left.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    spec = None if dataset is None else boxed_spec(dataset)
    source, _ = choose_json(root, Choice(split, spec.year if isinstance(spec, BoxedSpec) else None))
    found, skipped = negatives_from_coco(source)
    if spec is not None and len(found.categories) != spec.num_classes:
        raise InputError(
            f"{source}: {len(found.categories)} categories, but {spec.name} has {spec.num_classes}"
        )
    if classes is not None:
        _same_categories(source, found.categories, classes, "the training images have")
    columns = _on_disk(root, source, split, found.names, skipped)
    if not columns:
        raise InputError(f"{source}: none of its {len(found.names)} annotated images lies below {root}")
    kept = np.fromiter(columns.values(), np.int64, len(columns))
    images = ImageList(
        PathTable([path.relative_to(root).as_posix() for path in columns]),
        np.full(len(kept), NO_LABEL, dtype=np.int64),
        found.categories,
        root,
    )
    names = tuple(found.names[column] for column in kept.tolist())
    present_NK = np.ascontiguousarray(~found.absent_KM[:, kept].T)
    notes = [f"{source}: {len(kept)} images with annotations, {len(found.categories)} categories"]
    notes += [f"skipped: {len(lines)} × {reason}, the first: {lines[0]}" for reason, lines in skipped.items()]
    return MultiLabelImages(images, present_NK, names, source), notes


def _on_disk(
    root: Path, source: Path, split: str, names: Sequence[str], skipped: dict[str, list[str]]
) -> dict[Path, int]:
    """The number of each name by its file; names that have none of their own go to ``skipped``."""
    try:
        files = ImageFiles(root, source, split)
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror or error}") from error
    columns: dict[Path, int] = {}
    for column, name in enumerate(names):
        path = files.find(name)
        if path is None:
            skipped.setdefault("image not on disk", []).append(name)
        elif path in columns:
            skipped.setdefault("image listed twice", []).append(name)
        else:
            columns[path] = column
    return columns


def _same_categories(path: Path, found: Sequence[str], wanted: Sequence[str], whose: str) -> None:
    if tuple(found) == tuple(wanted):
        return
    if len(found) != len(wanted):
        raise InputError(f"{path}: {len(found)} categories, where {whose} {len(wanted)}")
    place = next(i for i, (one, other) in enumerate(zip(found, wanted, strict=True)) if one != other)
    raise InputError(
        f"{path}: category {place + 1} by ascending id is {found[place]!r}, where {whose} {wanted[place]!r}"
    )


class Distractors:
    """Draws images that do not contain a category.

    ``usable_K`` bool: categories that three images lack at least; only these can be explained. Raises InputError if
    there is none.
    """

    def __init__(self, images: MultiLabelImages, negatives: NegativeImages | None = None) -> None:
        if negatives is None:
            names = images.names
            negatives = NegativeImages(images.classes, names, np.ascontiguousarray(~images.present_NK.T))
            self._indices = np.arange(len(images))
        else:
            place = {name: index for index, name in enumerate(images.names)}
            self._indices = np.array([place[name] for name in negatives.names], dtype=np.int64)
        self._negatives = negatives
        self.usable_K = np.array(negatives.counts()) >= DISTRACTORS
        if not self.usable_K.any():
            raise InputError(
                f"{images.source}: every category is in all images but {max(negatives.counts())}; grid consistency "
                f"needs {DISTRACTORS} images without the one that it explains"
            )

    def draw(self, category: int, n: int, generator: torch.Generator) -> list[int]:
        """``n`` different images without the ``category``; InputError if there are fewer."""
        return [int(self._indices[i]) for i in self._negatives.draw(category, n, generator).tolist()]

    def count(self, category: int) -> int:
        """How many images lack the ``category``."""
        return self._negatives.counts()[category]


def open_distractors(images: MultiLabelImages, file: Path | None) -> tuple[Distractors, list[str]]:
    """Distractors from a file of :func:`cgc.data.negatives.write_negatives`, or from the annotations; and notes.

    Images of the file that are not among ``images`` are left out.

    Raises InputError: the file cannot be read, is of other categories or images, or says that an image lacks what it is
    annotated with; no category can be explained.
    """
    notes: list[str] = []
    negatives = None if file is None else _known_part(read_negatives(file), images, file, notes)
    distractors = Distractors(images, negatives)
    never = np.flatnonzero(images.present_NK.any(axis=0) & ~distractors.usable_K)
    if len(never):
        listed = ", ".join(repr(images.classes[k]) for k in never[:5].tolist()) + (
            ", …" if len(never) > 5 else ""
        )
        alone = int((~(images.present_NK & distractors.usable_K).any(axis=1)).sum())
        notes.append(
            f"never explained, since fewer than {DISTRACTORS} images lack them: {listed}; {alone} images show "
            "nothing else and are only classified"
        )
    return distractors, notes


def _known_part(
    negatives: NegativeImages, images: MultiLabelImages, file: Path, notes: list[str]
) -> NegativeImages:
    """The columns of the file's matrix that are of ``images``."""
    _same_categories(file, negatives.categories, images.classes, "the data has")
    place = {name: index for index, name in enumerate(images.names)}
    known = [column for column, name in enumerate(negatives.names) if name in place]
    if not known:
        raise InputError(f"{file}: none of its images ({negatives.names[0]}, …) is one of {images.source}")
    names = tuple(negatives.names[column] for column in known)
    absent_KM = np.ascontiguousarray(negatives.absent_KM[:, known])
    present_KM = images.present_NK[[place[name] for name in names]].T
    wrong = np.argwhere(absent_KM & present_KM)
    if len(wrong):
        k, m = wrong[0].tolist()
        raise InputError(
            f"{file}: says that {names[m]} does not contain {images.classes[k]!r}, which {images.source} has there"
        )
    if len(known) < len(negatives.names):
        notes.append(f"{file}: {len(negatives.names) - len(known)} of its images are not among the data's")
    return NegativeImages(images.classes, names, absent_KM)
