"""The datasets that the published trainers name: class counts and where their held-out images lie."""

from __future__ import annotations

from dataclasses import dataclass

from cgc.errors import InputError


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset's name promises about its folder.

    `eval_folders` are tried in order for the held-out split; `num_classes` is checked against the folder.
    """

    name: str
    num_classes: int
    eval_folders: tuple[str, ...]


_VAL_ONLY = ("val",)  # their `test` folder, where there is one, holds images without labels
_VAL_FIRST = ("val", "test")

# "fgvc" and "aircraft" are two published names of FGVC-Aircraft with its 100 variants.
DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec("imagenet", 1000, _VAL_ONLY),
        DatasetSpec("tiny_imagenet", 200, _VAL_ONLY),
        DatasetSpec("cub", 200, ("test", "val")),
        DatasetSpec("dogs", 120, _VAL_FIRST),
        DatasetSpec("fgvc", 100, _VAL_FIRST),
        DatasetSpec("aircraft", 100, _VAL_FIRST),
        DatasetSpec("flowers", 102, _VAL_FIRST),
        DatasetSpec("cars", 196, _VAL_FIRST),
    )
}


def dataset_spec(name: str) -> DatasetSpec:
    """The entry of `DATASETS` called `name`.

    Raises:
        InputError: no dataset has this name; the message lists those that exist.
    """
    spec = DATASETS.get(name)
    if spec is None:
        raise InputError(f"unknown dataset {name!r}; there are: {', '.join(sorted(DATASETS))}")
    return spec
