"""Commands that read image folders say so of shards and URLs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cgc.commands import evaluate, label_subset, make_shards, saliency_masks
from tests.commands.runs import error_line
from tests.data.shards.fixture import plain_tar

URL = "http://host:1/shards"
Main = Callable[[Sequence[str]], int]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (evaluate.main, ["--maps", "maps", "DATA"]),
        (label_subset.main, ["DATA", "--percent", "1", "--out", "list.txt"]),
        (saliency_masks.main, ["DATA", "--weights", "u2net.pth"]),
        (make_shards.main, ["DATA", "--out", "out"]),
    ],
    ids=["evaluate", "label-subset", "saliency-masks", "make-shards"],
)
@pytest.mark.parametrize("place", ["shards", "splits", URL])
def test_one_line(
    main: Main, arguments: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = place
    if place != URL:
        folder = tmp_path / "data" / "train" if place == "splits" else tmp_path / "data"
        folder.mkdir(parents=True)
        plain_tar(folder / "train-000000.tar", [("a.jpg", b"")])
        data = str(tmp_path / "data")
    (tmp_path / "maps").mkdir()
    given = [
        data if word == "DATA" else str(tmp_path / word) if word == "maps" else word for word in arguments
    ]
    assert main(given) == 2
    line = error_line(capsys.readouterr().err)
    assert f"{data}: shards are read in training alone" in line
