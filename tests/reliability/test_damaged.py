"""Damaged images: found, named, replaced; odd ones read. `python -m tests.reliability.damaged` takes 10,000 images."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgc.commands.train import main
from cgc.data.decode import UnreadableImage, decode_data
from tests.commands.runs import error_line
from tests.reliability.damaged import BROKEN, ODD, go_through, plant


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_refused(kind: str) -> None:
    with pytest.raises(UnreadableImage, match=r"image\.jpg: .") as error:
        decode_data(BROKEN[kind](3), "image.jpg")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ODD)
def test_what_is_odd_is_read(kind: str) -> None:
    assert decode_data(ODD[kind](3), "image.jpg").mode == "RGB"


def test_training_and_evaluation_name_what_was_planted(tmp_path: Path) -> None:
    found = go_through(tmp_path, 120, workers=0)
    assert len(found.planted["val"]) >= 10
    assert found.training == sorted(found.planted["train"] + found.planted["val"])
    assert found.evaluation == found.planted["val"]
    folders = 1  # no image, though it is called like one
    assert found.scored == 24 - folders - len(found.planted["val"])


def test_strict_names_one_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [str(path) for split in ("train", "val") for path in plant(tmp_path / split, 40)]
    words = [
        "-a",
        "resnet_tiny",
        "--image-size",
        "32",
        "-b",
        "10",
        "-j",
        "0",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert main([str(tmp_path), *words, "--strict", "--save_dir", str(tmp_path / "run")]) == 2
    said = error_line(capsys.readouterr().err)
    assert "unreadable image (--strict): " in said
    assert any(path in said for path in broken)
