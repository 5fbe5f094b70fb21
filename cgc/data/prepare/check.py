"""A look at a dataset's folder, in any layout that is read here: what training and evaluation would see in it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cgc.data.boxed_specs import boxed_spec
from cgc.data.class_names import imagenet_wnids
from cgc.data.folders import ImageList, images_below, open_class_folders, split_names
from cgc.data.prepare.annotated import look_at_regions
from cgc.data.prepare.broken import broken_images, once_each
from cgc.data.prepare.extraction import Progress
from cgc.data.prepare.findings import Findings, Split
from cgc.data.prepare.registry import PREPARATIONS
from cgc.data.prepare.state import read_state
from cgc.data.shards.index import INDEX
from cgc.data.specs import DATASETS
from cgc.errors import InputError

_OTHERS = ("train", "val", "test", "unlabeled")


def check_folder(
    root: Path,
    *,
    name: str | None = None,
    classes: Path | None = None,
    fast: bool = False,
    workers: int = 4,
    progress: Progress,
) -> Findings:
    """Count, compare and open everything.

    ``name``: of `PREPARATIONS`, `DATASETS` or `BOXED_DATASETS`; None: what the folder's own note says, if it has one.
    ``classes``: of the annotations, as evaluation takes them. ``fast``: read the images' headers only.

    Raises InputError: no folder, or nothing in it that would be read; an unknown name.
    """
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    if any((folder / INDEX).is_file() for folder in (root, *(root / name for name in _OTHERS))):
        raise InputError(f"{root}: tar shards, which python -m cgc make-shards --verify {root} checks")
    found = Findings(root, _dataset(root, name), fast=fast)
    used = {split: _look_at_split(found, split) for split in ("train", "val")}
    folders = [root / split.folder for split in found.splits]
    _look_at_others(found)
    everything = _all_images(root)
    listed = look_at_regions(found, _held_out(found), everything, classes)
    if not found.splits and found.regions is None and not found.problems:
        raise InputError(
            f"{root}: no dataset in it: no train/CLASS/*, val/CLASS/* or test/CLASS/*, and no annotations that are "
            "known here"
        )
    _compare(found, used["train"], used["val"])
    _say_missing(found, {path.name for path in folders})
    _compare_with_note(found)
    missing = sorted({str(path) for path in listed if not os.path.lexists(path)})
    found.problem("image not on disk", missing)
    paths = once_each([*everything, *(path for path in listed if os.path.lexists(path))])
    found.opened = len(paths)
    found.problem("broken image", broken_images(paths, fast=fast, workers=workers, progress=progress))
    return found


def _dataset(root: Path, name: str | None) -> str | None:
    """The name by which training and evaluation know the dataset."""
    if name is None:
        state = read_state(root)
        name = None if state is None else state.dataset
    if name in PREPARATIONS:
        return PREPARATIONS[name].dataset
    return None if name is None else boxed_spec(name).name


def _held_out(found: Findings) -> Path | None:
    names = split_names("val", found.dataset if found.dataset in DATASETS else None)
    return next((found.root / name for name in names if (found.root / name).is_dir()), None)


def _look_at_split(found: Findings, split: str) -> ImageList | None:
    """Add the split; its images if they lie in class folders."""
    folder = found.root / "train" if split == "train" else _held_out(found)
    if folder is None or not folder.is_dir():
        return None
    total = sum(1 for _ in images_below(os.fspath(folder), ".", set()))
    try:
        images = open_class_folders(folder, empty_classes=True)
    except InputError as error:
        if not total:
            found.problem("split without images", str(folder))
        elif any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(folder)):
            found.problem("split cannot be read", str(error))
        found.splits.append(Split(folder.name, total, remark="not in class folders"))
        return None
    counts = np.bincount(images.labels, minlength=len(images.classes)).tolist()
    per_class = dict(zip(images.classes, counts, strict=True))
    found.splits.append(Split(folder.name, len(images), per_class))
    found.problem(
        "class without images", [f"{folder / name}" for name, count in per_class.items() if not count]
    )
    if total > len(images):
        found.notes.append(f"{folder}: {total - len(images)} images lie in no class folder and are not read")
    spec = DATASETS.get(found.dataset or "")
    if spec is not None and len(images.classes) != spec.num_classes:
        found.problem(
            "number of classes", f"{folder}: {len(images.classes)}, {spec.name} has {spec.num_classes}"
        )
    return images


def _look_at_others(found: Findings) -> None:
    """Folders beside those that are used."""
    for name in _OTHERS:
        folder = found.root / name
        if folder.is_dir() and name not in {split.folder for split in found.splits}:
            total = sum(1 for _ in images_below(os.fspath(folder), ".", set()))
            found.splits.append(Split(name, total, remark="not used as held-out images"))


def _all_images(root: Path) -> list[Path]:
    there = [name for name in _OTHERS if (root / name).is_dir()]
    return [root / path for name in there for path in images_below(os.fspath(root), name, set())]


def _compare(found: Findings, train: ImageList | None, held_out: ImageList | None) -> None:
    """Classes of the two splits, of ImageNet, and of the regions."""
    if train is not None and held_out is not None:
        ours, theirs = set(train.classes), set(held_out.classes)
        found.problem("class in train only", sorted(ours - theirs))
        found.problem(f"class in {held_out.root.name} only", sorted(theirs - ours))
    classes = next((images.classes for images in (train, held_out) if images is not None), ())
    wnids = imagenet_wnids()
    if classes and set(classes) <= set(wnids):
        found.notes.append(_imagenet_order(classes, wnids))
    named = tuple(found.regions["class_names"]) if found.regions else ()
    if train is not None and named and named != train.classes and set(named) == set(train.classes):
        found.notes.append(
            f"the annotations' class order is not that of the folders: evaluate with --classes {train.root}"
        )


def _imagenet_order(classes: tuple[str, ...], wnids: tuple[str, ...]) -> str:
    if classes == wnids:
        return "the classes are ImageNet's 1000 ids in ImageNet's order"
    moved = next((k for k, name in enumerate(classes) if wnids[k] != name), None)
    text = f"the classes are {len(classes)} of ImageNet's 1000 ids"
    if moved is None:
        return f"{text}, the first ones in its order"
    there = wnids.index(classes[moved])
    return f"{text}, numbered otherwise: class {moved} here, {classes[moved]}, is ImageNet's {there}"


def _say_missing(found: Findings, there: set[str]) -> None:
    has_held_out = bool(there - {"train"})
    if "train" in there and not has_held_out:
        found.problem("split missing", f"{found.root}: no val/ or test/: nothing to validate or score on")
    if "train" not in there and (has_held_out or found.regions):
        found.notes.append("no train/CLASS/*: enough to evaluate, not to train")


def _compare_with_note(found: Findings) -> None:
    """What `prepare` noted when it made the folder."""
    state = read_state(found.root)
    if state is None:
        return
    if not state.finished:
        found.problem(
            "unfinished", f"{found.root}: the preparation of {state.dataset} did not come to its end"
        )
    for folder, count in (state.counts or {}).items():
        place = found.root / folder
        now = sum(1 for _ in images_below(os.fspath(place), ".", set())) if place.is_dir() else 0
        if now != count:
            found.problem("other images than were prepared", f"{place}: {now}, {count} when it was made")
