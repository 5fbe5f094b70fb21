"""Published numbers, in per cent. What stands in no confirmed source is left out: unpublished, or not known here."""

from __future__ import annotations

from collections.abc import Mapping

GC_README = "README of GC, ImageNet validation"
CGC_PAGE = "benchmark page of CGC"
RISE_PAPER = "RISE maps, first 10,000 ImageNet validation images"

_COLUMNS = ("top-1", "PG", "SPG", "CH")
_GC = {
    "alexnet-baseline": (56.51, 72.80, 53.45, 45.78),
    "alexnet-gc": (56.16, 73.70, 61.15, 48.10),
    "resnet18-baseline": (69.43, 79.80, 60.50, 54.36),
    "resnet18-gc": (67.74, 80.00, 65.85, 57.73),
    "resnet18-gmp": (69.08, 79.30, 66.66, 62.89),
    "resnet18-gmp-gc": (69.02, 79.60, 68.74, 65.35),
    "resnet50-baseline": (76.13, 80.00, 60.95, 54.78),
    "resnet50-gc": (74.40, 80.30, 65.26, 59.42),
    "resnet50-gmp": (74.63, 79.80, 66.29, 54.23),
    "resnet50-gmp-gc": (74.14, 79.60, 69.51, 59.70),
}
GC: Mapping[str, Mapping[str, float]] = {
    row: dict(zip(_COLUMNS, numbers, strict=True)) for row, numbers in _GC.items()
}
CGC_IMAGENET: Mapping[str, float] = {"CH": 71.75}
CGC_FINE_GRAINED: Mapping[str, float] = {"cub": 81.49, "aircraft": 85.72, "cars": 90.28, "flowers": 96.18}
CGC_UNREL: Mapping[str, float] = {"CH": 74.2, "top-1": 38.25}
RISE: Mapping[str, float] = {"insertion": 77.19, "deletion": 10.48}
