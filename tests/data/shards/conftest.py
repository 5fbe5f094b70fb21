"""Shards, and a server of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cgc.data.folders import ImageList
from tests.data.shards.fixture import Server, serving, shards_of


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    """12 images; 4 shards of them lie in `<tmp_path>/shards/train`."""
    return shards_of(tmp_path)[0]


@pytest.fixture
def server(images: ImageList, tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "shards") as server:
        yield server
