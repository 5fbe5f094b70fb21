"""`python -m cgc label-subset`."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgc.commands.label_subset import build_parser, main
from cgc.data.folders import open_split
from cgc.data.unlabelled import open_unlabelled
from tests.commands.runs import error_line, train, training_folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of 15 empty training images each, in tiny-imagenet's own layout."""
    root = tmp_path / "data"
    for name in ("n01", "n02", "n03"):
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for k in range(15):
            (folder / f"{name}_{k}.JPEG").touch()
        (root / "train" / name / f"{name}_boxes.txt").touch()
    (root / "val" / "images").mkdir(parents=True)
    rows = [f"val_{k}.JPEG\t{name}\t0\t0\t9\t9" for k, name in enumerate(("n03", "n01", "n02"))]
    (root / "val" / "val_annotations.txt").write_text("\n".join(rows))
    return root


def test_a_drawn_tree_of_links(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "few"
    assert main([str(data), "--percent", "10", "--out", str(out), "--links"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "6 of 45 training images (13.3 %), 2 of each of 3 classes",
        f"written: {out}/train, {out}/val, {out}/unlabeled",
    ]
    assert captured.err == ""
    few = open_split(out, "train")
    assert few.classes == ("n01", "n02", "n03")
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all((out / "train").resolve() in few.path(k).absolute().parents for k in range(6))
    assert open_split(out, "val", classes=few.classes).labels.tolist() == [2, 0, 1]
    assert len(open_unlabelled(out / "unlabeled")) == 45


def test_a_list_and_the_tree_of_a_list(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, out_tree = tmp_path / "few.txt", tmp_path / "few"
    draw = [str(data), "--percent", "20", "--seed", "4", "--out"]
    assert main([*draw, str(out)]) == 0
    lines = out.read_text().splitlines()
    assert len(lines) == 9
    assert lines == sorted(lines)
    assert all((data / "train" / line).is_file() for line in lines)
    assert main([*draw[:3], "--list", str(out), "--out", str(out_tree), "--links"]) == 0
    assert "9 of 45 training images (20 %), 3 of each of 3 classes" in capsys.readouterr().out
    images = open_split(out_tree, "train")
    assert sorted(images.paths[k] for k in range(9)) == lines
    assert main([str(data), "--percent", "20", "--seed", "5", "--out", str(tmp_path / "other.txt")]) == 0
    assert (tmp_path / "other.txt").read_text().splitlines() != lines


def test_an_official_list_that_names_more(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = tmp_path / "1percent.txt"
    official.write_text("n03_1.JPEG\nn01_14.JPEG\nn04_2.JPEG\nn02_0.JPEG\nn02_3.JPEG\n")
    arguments = [str(data), "--list", str(official), "--out", str(tmp_path / "few.txt")]
    assert main(arguments) == 2
    assert "1 of 5 images are not in" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "few.txt").exists()
    assert main([*arguments, "--skip-missing"]) == 0
    captured = capsys.readouterr()
    assert "4 of 45 training images (8.89 %), 1 to 2 of each of 3 classes" in captured.out
    assert captured.err == f"left out: 1 of the list are not in {data}/train: n04_2.JPEG\n"
    assert (tmp_path / "few.txt").read_text().split() == [
        "n01/images/n01_14.JPEG",
        "n02/images/n02_0.JPEG",
        "n02/images/n02_3.JPEG",
        "n03/images/n03_1.JPEG",
    ]


def test_the_list_of_another_percentage_is_noticed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official = tmp_path / "list.txt"
    official.write_text("n01_1.JPEG\nn02_1.JPEG\nn03_1.JPEG\n")
    arguments = [str(data), "--list", str(official), "--out", str(tmp_path / "few.txt"), "--percent"]
    assert main([*arguments, "1"]) == 2
    said = error_line(capsys.readouterr().err)
    assert said == f"error: {official} holds 6.67 % of {data}/train, not 1 %"
    assert main([*arguments, "7"]) == 0


@pytest.mark.parametrize("held_out", ["test", ""])
def test_the_held_out_folder_keeps_its_name(
    tmp_path: Path, held_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = training_folder(tmp_path / "data", held_out=held_out or "elsewhere")
    out = tmp_path / "few"
    assert main([str(data), "--percent", "50", "--out", str(out), "--links"]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted({"train", "unlabeled", held_out} - {""})
    said = capsys.readouterr().err
    assert said == ("" if held_out else f"{data} has no folder 'val' or 'test': nothing to validate on\n")


def test_a_tree_can_be_trained_on(tmp_path: Path) -> None:
    data, out = training_folder(tmp_path / "data"), tmp_path / "few"
    assert main([str(data), "--percent", "50", "--out", str(out), "--links"]) == 0
    assert train(out, "--epochs", "1", save_dir=tmp_path / "run") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "{tmp}/x"], "give the share to draw with --percent P, or the images with --list FILE"),
        (["--percent", "1", "--out", "{tmp}/x", "--skip-missing"], "--skip-missing is about the --list"),
        (["--percent", "1", "--out", "{tmp}/data"], "data is there already"),
        (["--percent", "1", "--out", "{tmp}/data/train/n01/x"], "where it would count as training images"),
        (["--percent", "1", "--out", "{tmp}/no/x"], "no folder {tmp}/no to write it into"),
        (["--list", "{tmp}/none", "--out", "{tmp}/x"], "{tmp}/none: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main([str(data), *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    assert said.format(tmp=tmp_path) in error_line(capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--percent", "1", "--out", str(tmp_path / "x")]) == 2
    assert "has no folder 'train'" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize("percent", ["0", "-1", "100.5", "many", "nan", "1/0", "1e-99999999"])
def test_percentages_that_cannot_be(percent: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["data", f"--percent={percent}", "--out", "x"])
    assert ended.value.code == 2
    assert "argument --percent" in capsys.readouterr().err
