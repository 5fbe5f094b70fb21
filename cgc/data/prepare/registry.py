"""The table of datasets that can be prepared."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cgc.data.prepare import as_distributed, imagenet, listed, own_layouts
from cgc.data.prepare.job import Job
from cgc.data.prepare.sources import ArchiveFile
from cgc.errors import InputError


def _same(files: tuple[ArchiveFile, ...]) -> Callable[[str], tuple[ArchiveFile, ...]]:
    return lambda variant: files


@dataclass(frozen=True)
class Preparation:
    """How a dataset is made from its archives.

    ``files``: of a variant. ``layout``: what is made, in a line. ``dataset``: its name for training and evaluation.
    ``variants``: the first is the default. ``published``: images of each folder as published, by variant.
    ``torchvision``: its class there. ``lacking``: of the archives at hand, what is missing, where that is not simply
    each one that is not optional. ``remark``: what else to know before.
    """

    title: str
    files: Callable[[str], tuple[ArchiveFile, ...]]
    convert: Callable[[Job], None]
    layout: str
    published: Mapping[str, Mapping[str, int]]
    dataset: str | None = None
    torchvision: str | None = None
    variants: tuple[str, ...] = ("",)
    about_variants: str = ""
    lacking: Callable[[set[str]], str | None] | None = None
    remark: str = ""


_HELD_OUT = (
    "test: train/ is the published training and validation images, val/ the test images; val: as published"
)

PREPARATIONS: dict[str, Preparation] = {
    "imagenet": Preparation(
        "ImageNet (ILSVRC 2012)",
        _same(imagenet.IMAGENET_FILES),
        imagenet.convert_imagenet,
        "train/CLASS/*, val/CLASS/*, with the boxes annotation/*.xml",
        {"": {"train": 1_281_167, "val": 50_000}},
        "imagenet",
        "ImageNet",
        lacking=imagenet.lacking,
        remark="training or held-out images or both; for the latter the development kit (needs scipy) or the boxes",
    ),
    "imagenet-val": Preparation(
        "ImageNet's held-out images with boxes, for localisation",
        _same(imagenet.BOXED_FILES),
        imagenet.convert_boxed,
        "val/*.JPEG, annotation/*.xml",
        {"": {"val": 50_000}},
        "imagenet",
        "ImageNet",
    ),
    "cub": Preparation(
        "CUB-200-2011",
        _same(own_layouts.CUB_FILES),
        own_layouts.convert_cub,
        "CUB's own tables and images/, train/CLASS/*, test/CLASS/*",
        {"": {"train": 5_994, "test": 5_794}},
        "cub",
    ),
    "aircraft": Preparation(
        "FGVC-Aircraft",
        _same(own_layouts.AIRCRAFT_FILES),
        own_layouts.convert_aircraft,
        "fgvc-aircraft-2013b/data as distributed, train/CLASS/*, val/CLASS/*",
        {
            "test": {"train": 6_667, "val": 3_333},
            "val": {"train": 3_334, "val": 3_333, "test": 3_333},
        },
        "aircraft",
        "FGVCAircraft",
        ("test", "val"),
        _HELD_OUT,
    ),
    "cars": Preparation(
        "Stanford Cars",
        _same(listed.CARS_FILES),
        listed.convert_cars,
        "train/CLASS/*, val/CLASS/*, annotation/SPLIT/CLASS/*.xml",
        {"": {"train": 8_144, "val": 8_041}},
        "cars",
        remark="needs scipy",
    ),
    "flowers": Preparation(
        "Oxford 102 Flowers",
        _same(listed.FLOWERS_FILES),
        listed.convert_flowers,
        "train/NNN/*, val/NNN/*",
        {
            "test": {"train": 2_040, "val": 6_149},
            "val": {"train": 1_020, "val": 1_020, "test": 6_149},
        },
        "flowers",
        "Flowers102",
        ("test", "val"),
        _HELD_OUT,
        remark="needs scipy",
    ),
    "dogs": Preparation(
        "Stanford Dogs",
        _same(listed.DOGS_FILES),
        listed.convert_dogs,
        "train/CLASS/*, val/CLASS/*, with the boxes annotation/SPLIT/CLASS/*.xml",
        {"": {"train": 12_000, "val": 8_580}},
        "dogs",
        remark="needs scipy",
    ),
    "pets": Preparation(
        "Oxford-IIIT Pet",
        _same(own_layouts.PETS_FILES),
        own_layouts.convert_pets,
        "oxford-iiit-pet/ as distributed, train/CLASS/*, val/CLASS/*",
        {"": {"train": 3_680, "val": 3_669}},
        "pets",
        "OxfordIIITPet",
    ),
    "tiny-imagenet": Preparation(
        "tiny-imagenet",
        _same(as_distributed.TINY_FILES),
        as_distributed.convert_tiny,
        "tiny-imagenet's own: train/CLASS/images, val/images, val/val_annotations.txt",
        {"": {"train": 100_000, "val": 10_000, "test": 10_000}},
        "tiny_imagenet",
    ),
    "coco": Preparation(
        "COCO",
        as_distributed.coco_files,
        as_distributed.convert_coco,
        "COCO's own: trainYEAR/, valYEAR/, annotations/",
        {
            "2014": {"train2014": 82_783, "val2014": 40_504},
            "2017": {"train2017": 118_287, "val2017": 5_000},
        },
        "coco",
        variants=as_distributed.COCO_YEARS,
        about_variants="the year",
    ),
    "imagenette": Preparation(
        "Imagenette (version 2)",
        as_distributed.imagenette_files,
        as_distributed.convert_imagenette,
        "train/CLASS/*, val/CLASS/*",
        {size: {"train": 9_469, "val": 3_925} for size in as_distributed.IMAGENETTE_SIZES},
        torchvision="Imagenette",
        variants=as_distributed.IMAGENETTE_SIZES,
        about_variants="the shorter side of the images",
    ),
}


def preparation(name: str) -> Preparation:
    """The entry of that name. InputError that names its neighbour, or all, if there is none."""
    found = PREPARATIONS.get(name)
    if found is None:
        close = difflib.get_close_matches(name, PREPARATIONS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(PREPARATIONS)}"
        raise InputError(f"unknown dataset {name!r}; {hint}")
    return found


def chosen_variant(name: str, entry: Preparation, variant: str | None) -> str:
    """The variant asked for, or the default one. InputError if there is no such."""
    if variant is None:
        return entry.variants[0]
    if variant not in entry.variants or not variant:
        there = ", ".join(filter(None, entry.variants))
        raise InputError(
            f"--variant {variant}: {name} has {f'the variants {there}' if there else 'no variants'}"
        )
    return variant
