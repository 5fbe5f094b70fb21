"""What a run says and records of the annotation that it was given: a share of the boxes, and who made the masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cgc.data.folders import open_split
from cgc.data.presets import resize_size
from cgc.data.saliency_files import MadeBy
from tests.commands.runs import checkpoint, refused, train, training_differences, training_folder
from tests.data.boxed_fixture import voc, voc_object
from tests.data.saliency_fixture import filled_by

pytestmark = pytest.mark.usefixtures("plain_panels")

FIRST = MadeBy("u2netp", "0123456789abcdef", "query", 32, resize_size(32))
OTHER = replace(FIRST, weights="fedcba9876543210")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """12 training images; the four ants and three of the bees have boxes, no cow has."""
    root = training_folder(tmp_path / "data")
    for name, count in (("ant", 4), ("bee", 3)):
        (root / "boxes" / name).mkdir(parents=True)
        for k in range(count):
            (root / "boxes" / name / f"{k}.xml").write_text(voc(voc_object(name, (5, 5, 30, 30))))
    return root


def test_energy_on_a_share_of_the_boxes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of each class's boxed images, halves up; without boxes an image is classified only."""
    words = ["--method", "energy", "--boxes", data / "boxes", "--epochs", "1"]
    assert train(data, *words, save_dir=tmp_path / "all") == 0
    assert "7 of 12 training images have boxes" in capsys.readouterr().err
    assert train(data, *words, "--boxes-share", "50", save_dir=tmp_path / "half") == 0
    assert "4 of 12 training images are used with their boxes" in capsys.readouterr().err
    assert train(data, *words, "--boxes-share", "0.1", save_dir=tmp_path / "few") == 0
    assert "2 of 12 training images are used with their boxes" in capsys.readouterr().err
    assert json.loads((tmp_path / "half" / "args.json").read_text())["boxes_share"] == "50"
    states = [tmp_path / name / "checkpoint_001.pth.tar" for name in ("all", "half", "few")]
    assert training_differences(states[0], states[1])
    assert training_differences(states[1], states[2])
    assert train(data, *words, "--boxes-share", "100", save_dir=tmp_path / "again") == 0
    assert training_differences(states[0], tmp_path / "again" / "checkpoint_001.pth.tar") == []


def test_a_run_of_another_share_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--method", "energy", "--boxes", data / "boxes"]
    assert train(data, *words, "--boxes-share", "50", "--epochs", "1", save_dir=tmp_path / "run") == 0
    capsys.readouterr()
    resume = ["--resume", tmp_path / "run" / "checkpoint_001.pth.tar"]
    assert train(data, *words, *resume, save_dir=tmp_path / "run") == 0
    assert "continuing with boxes_share 100; it was 50" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["0", "101", "-5", "nan", "ten"])
def test_no_share(share: str, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train(data, "--method", "energy", f"--boxes-share={share}")
    assert stop.value.code == 2
    assert "--boxes-share" in capsys.readouterr().err


def test_boxes_as_masks_take_the_share_too(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "sgc", "--saliency", "boxes", "--boxes", data / "boxes", "--boxes-share", "50"]
    assert "8 of 12 images have no mask" in refused(capsys, data, *words)


def test_masks_of_other_weights_are_noticed_on_resume(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder's masks were made anew between two parts of a run."""
    images = open_split(data, "train")
    filled_by(FIRST, images, data / "saliency")
    words = ["--method", "sgc", "--missing-mask", "full"]
    assert train(data, *words, "--epochs", "1", save_dir=tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "args.json").read_text())["masks"] == str(FIRST)
    assert checkpoint(tmp_path / "run" / "checkpoint_001.pth.tar")["options"]["masks"] == str(FIRST)
    resume = ["--resume", tmp_path / "run" / "checkpoint_001.pth.tar"]
    capsys.readouterr()
    assert train(data, *words, *resume, save_dir=tmp_path / "same") == 0
    assert "continuing with masks" not in capsys.readouterr().err
    filled_by(OTHER, images, data / "saliency", replace=True)
    assert train(data, *words, *resume, save_dir=tmp_path / "other") == 0
    said = capsys.readouterr().err
    assert f"continuing with masks {OTHER}; it was {FIRST}" in said


def test_masks_of_two_makings_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Made anew, but not all of them."""
    images = open_split(data, "train")
    folder = filled_by(FIRST, images, data / "saliency")
    manifest = folder / "train" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["made_by"].append({**content["made_by"][0], "weights": OTHER.weights})
    content["masks"][images.paths[0]] = 1
    manifest.write_text(json.dumps(content))
    said = refused(capsys, data, "--method", "sgc")
    assert "holds masks of 2 makings" in said
    assert FIRST.weights in said
    assert OTHER.weights in said
