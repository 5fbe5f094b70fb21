"""The list of negative images from its command line."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from cgc.commands.extract_negatives import main
from cgc.data.negatives import read_negatives
from tests.commands.runs import error_line
from tests.data.boxed_fixture import coco_image, coco_json, coco_object

SCRIPT = Path(__file__).parents[2] / "extract_negative_image_list.py"


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    images = [coco_image(i, f"{i}.jpg") for i in range(1, 8)]
    objects = [coco_object(i, i, 3 if i % 2 else 7, [0, 0, 4, 3]) for i in range(1, 7)]
    objects += [coco_object(7, 1, 7, [0, 0, 4, 3]), coco_object(8, 1, 90, [0, 0, 4, 3])]
    path = tmp_path / "instances_train2014.json"
    path.write_text(json.dumps(coco_json(images, objects)))
    return path


def test_the_published_script(
    annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "negatives.npz"
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, str(annotations), str(out)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "6 images with annotations, 2 categories",
        "most frequent: 'dog', which 2 images do not contain",
        "skipped: annotations of a category that the file does not list: "
        f"{annotations}: category 90, 1 times, the first: annotations[7]",
        "skipped: 1 × no annotation, the first: 7.jpg",
        "less than 3 images lack: 'dog'",
        f"written: {out}",
    ]
    found = read_negatives(out)
    assert found.names == tuple(f"{i}.jpg" for i in range(1, 7))
    assert found.absent_KM.tolist() == [[False, True] * 3, [False, False, True, False, True, False]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing.json", "out.npz"], "missing.json: No such file"),
        ([".", "out.npz"], "directory"),
        (["notes.txt", "out.npz"], "notes.txt: line 1, column 1: no JSON"),
        (["instances_train2014.json", "out.txt"], "out.txt: must be a file called .npz"),
        (["instances_train2014.json", "no/out.npz"], "no/out.npz: must be a file"),
        (["instances_train2014.json", "folder.npz"], "folder.npz: must be a file"),
        (["instances_train2014.json"], "OUT.npz"),
    ],
)
def test_input_that_cannot_be_used_is_named(
    arguments: list[str],
    named: str,
    annotations: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "notes.txt").write_text("no JSON")
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stop:  # the parser's own
        status = stop.code
    assert status == 2
    assert named in error_line(capsys.readouterr().err)
    assert not list(tmp_path.glob("*out*"))
