"""Images with regions, from the layouts people have, as one flat list of rows (image, class)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cgc.data.annotations import Annotations, Choice
from cgc.data.box_layouts import read_annotations
from cgc.data.box_rows import BoxedImage, BoxedImages, Targets, clip_box, collect_rows
from cgc.data.boxed_specs import BOXED_DATASETS, BoxedSpec, boxed_spec
from cgc.data.class_map import read_class_map, template_path
from cgc.data.class_names import ClassIndex, default_classes, imagenet_wnids, read_classes
from cgc.data.downloads import download_dataset
from cgc.data.masks import Mask
from cgc.data.specs import DatasetSpec
from cgc.errors import InputError

__all__ = ["BOXED_DATASETS", "BoxedImage", "BoxedImages", "Mask", "clip_box", "open_boxes"]


def open_boxes(
    root: str | Path,
    *,
    classes: str | Path | None = None,
    dataset: str | None = None,
    split: str | None = None,
    year: int | str | None = None,
    regions: str = "boxes",
    class_map: str | Path | None = None,
    download: bool = False,
) -> BoxedImages:
    """The evaluation images below `root` with their regions, in whichever layout it has.

    Args:
        classes: training folder or text file that lists the model's classes; None: the layout's own (COCO,
            VOC, Pet, Aircraft), ImageNet's if there is a class map, else see `default_classes`.
        dataset: a name of `DATASETS` or `BOXED_DATASETS`, whose layout and number of classes are then expected.
        split, year: which part of a layout that has several; None: its held-out images.
        regions: "boxes", or "masks" where the layout has them. Pet's regions are masks either way.
        class_map: file: category to classes of the model (see `read_class_map`). Images are single-label then.
        download: fetch Pet, Aircraft or VOC through torchvision if they are not there.

    Raises:
        InputError: nothing at `root`, no images or annotations in a known layout, classes unknown, none of
            the annotated objects of a known class, a number of classes other than the dataset's.
        RunError: the download failed.
        ValueError: `regions` is neither.
    """
    if regions not in ("boxes", "masks"):
        raise ValueError(f"regions must be 'boxes' or 'masks', not {regions!r}")
    root = Path(root)
    spec = None if dataset is None else boxed_spec(dataset)
    choice = Choice(split, _year(year, spec), regions == "masks", *([spec.eval_folders] if spec else []))
    given = _given_classes(classes, class_map)
    mapping = None if class_map is None or given is None else read_class_map(class_map, given)
    if download:
        download_dataset(dataset, root, split)
    annotations = read_annotations(root, choice, spec.reader if isinstance(spec, BoxedSpec) else None)
    names = {item.name for image in annotations.images for item in image.objects}
    known = given or annotations.classes or _default_classes(root, names)
    if spec is not None and mapping is None and len(known) != spec.num_classes:
        raise InputError(f"{classes or root}: {len(known)} classes, but {spec.name} has {spec.num_classes}")
    several = annotations.multi_label and mapping is None
    found = BoxedImages([], known, annotations.layout, annotations.skipped, 0, 0, several, annotations.notes)
    targets = _by_name(known) if mapping is None else mapping.get
    collect_rows(found, annotations, targets, by_category=mapping is not None)
    if not found.images:
        raise _nothing_found(root, found, names, mapping)
    found.notes += _unmatched(annotations, names, targets, mapping or ())
    return found


def _nothing_found(
    root: Path, found: BoxedImages, names: Collection[str], mapping: Collection[str] | None
) -> InputError:
    reasons = ", ".join(f"{len(files)} × {reason}" for reason, files in found.skipped.items())
    example = next((f"the first: {files[0]}" for files in found.skipped.values()), "the layout lists none")
    if names:
        listed = (
            f"the class map has {min(mapping)!r}" if mapping else f"the list begins with {found.classes[0]!r}"
        )
        example = f"an annotated class is {min(names)!r}, {listed}"
    return InputError(f"{root}: no image can be scored ({reasons or 'no images'}); {example}")


def _given_classes(classes: str | Path | None, class_map: str | Path | None) -> tuple[str, ...] | None:
    if classes is not None:
        return read_classes(classes)
    return None if class_map is None else imagenet_wnids()


def _default_classes(root: Path, names: Collection[str]) -> tuple[str, ...]:
    try:
        return default_classes(root, names)
    except InputError as error:
        if not names:
            raise
        raise InputError(
            f"{error}, or map its categories with a class map (as in {template_path()})"
        ) from None


def _year(year: int | str | None, spec: DatasetSpec | BoxedSpec | None) -> int | None:
    own = spec.year if isinstance(spec, BoxedSpec) else None
    if year is None:
        return own
    if not str(year).isdecimal() or len(str(year)) != 4:
        raise InputError(f"year {year!r}: a year has four digits")
    if own is not None and own != int(year) and spec is not None:
        raise InputError(f"year {year}: the dataset {spec.name} is of {own}")
    return int(year)


def _by_name(classes: Sequence[str]) -> Targets:
    class_index = ClassIndex(classes)

    def targets(name: str) -> tuple[int, ...] | None:
        index = class_index(name)
        return None if index is None else (index,)

    return targets


def _unmatched(
    annotations: Annotations, names: Collection[str], targets: Targets, mapped: Collection[str]
) -> Iterator[str]:
    """Notes on objects that no class of the model stands for, and on categories that no object has."""
    unknown = {name for name in names if targets(name) is None}
    if unknown:
        count = sum(item.name in unknown for image in annotations.images for item in image.objects)
        yield f"{count} objects of classes that the model does not know: {_first_few(sorted(unknown))}"
    unused = sorted(set(mapped) - set(names))
    if unused:
        yield f"the class map names {len(unused)} categories that no object has: {_first_few(unused)}"


def _first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
