from __future__ import annotations

import pytest

from cgc.data.specs import DATASETS, dataset_spec
from cgc.errors import InputError


def test_class_counts_are_the_published_ones() -> None:
    counts = {name: spec.num_classes for name, spec in DATASETS.items()}
    assert counts == {
        "imagenet": 1000,
        "tiny_imagenet": 200,
        "cub": 200,
        "dogs": 120,
        "fgvc": 100,
        "aircraft": 100,
        "flowers": 102,
        "cars": 196,
    }


def test_entries_are_filed_under_their_own_name() -> None:
    assert all(spec.name == name for name, spec in DATASETS.items())
    assert DATASETS["cub"].eval_folders[0] == "test"


def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(InputError, match=r"'birds'.*aircraft.*tiny_imagenet"):
        dataset_spec("birds")
