"""Datasets with regions that the evaluator names beside those of the trainers."""

from __future__ import annotations

from dataclasses import dataclass

from cgc.data.specs import DATASETS, DatasetSpec
from cgc.errors import InputError

_HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class BoxedSpec:
    """What a dataset's name promises: the model's number of classes, the reader, perhaps a year.

    `reads` says in a line what the folder holds.
    """

    name: str
    num_classes: int
    reader: str
    reads: str
    year: int | None = None
    eval_folders: tuple[str, ...] = _HELD_OUT


_COCO = (
    "val{y}/ or train{y}/ and annotations/instances_*{y}.json; boxes or masks, several classes in an image"
)
_VOC = (
    "VOCdevkit/VOC{y} with JPEGImages, Annotations and ImageSets; {split} images, several classes in an image"
)
_PETS = "oxford-iiit-pet/ with images and annotations (torchvision's layout); foreground of the trimaps"
_UNREL = "images/ with annotations.mat, JSON as COCO's or VOC XML; a class map to ImageNet's classes"

BOXED_DATASETS: dict[str, BoxedSpec] = {
    spec.name: spec
    for spec in (
        BoxedSpec("coco", 80, "coco", _COCO.format(y="")),
        BoxedSpec("coco2014", 80, "coco", _COCO.format(y=2014), 2014),
        BoxedSpec("coco2017", 80, "coco", _COCO.format(y=2017), 2017),
        BoxedSpec("voc2007", 20, "voc", _VOC.format(y=2007, split="test"), 2007),
        BoxedSpec("voc2012", 20, "voc", _VOC.format(y=2012, split="val"), 2012),
        BoxedSpec("pets", 37, "pets", _PETS),
        BoxedSpec("unrel", 1000, "unrel", _UNREL),
    )
}


def boxed_spec(name: str) -> DatasetSpec | BoxedSpec:
    """The entry of `BOXED_DATASETS` or `DATASETS` called `name`. InputError that lists both if there is none."""
    spec = BOXED_DATASETS.get(name) or DATASETS.get(name)
    if spec is None:
        known = ", ".join(sorted({*BOXED_DATASETS, *DATASETS}))
        raise InputError(f"unknown dataset {name!r}; there are: {known}")
    return spec
