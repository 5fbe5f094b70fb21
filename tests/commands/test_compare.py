"""`python -m cgc compare` from its command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cgc.commands.compare import main
from tests.commands.runs import error_line

HEADER = "path,class,correct,ch\n"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    rows = {
        "a": "val/1.JPEG,cat,1,0.5\nval/2.JPEG,cat,0,0.25\n",
        "b": "val/1.JPEG,cat,1,0.75\nval/2.JPEG,cat,1,0.25\n",
        "c": "val/2.JPEG,cat,0,0.125\n",
    }
    for name, text in rows.items():
        (tmp_path / f"{name}.csv").write_text(HEADER + text, encoding="utf-8")
    return [str(tmp_path / f"{name}.csv") for name in rows]


def test_each_file_is_held_against_the_first(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "differences.json"
    assert main([*files, "--out", str(out), "--draws", "50"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"A  {files[0]}") == 2
    assert f"B  {files[1]}\n2 rows in both" in shown
    assert f"B  {files[2]}\n1 row in both" in shown
    assert f"written: {out}" in shown
    first, second = json.loads(out.read_text(encoding="utf-8"))
    assert first["scores"]["ch"]["difference"] == pytest.approx(0.125)
    assert first["outcomes"] == {"both right": 1, "fixed": 1, "broken": 0, "both wrong": 0}
    assert second["scores"]["ch"]["difference"] == pytest.approx(-0.125)
    assert second["only_in_a"] == [["val/1.JPEG", "cat"]]


def test_options(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files[:2], "--draws", "0", "--top", "0"]) == 0
    shown = capsys.readouterr().out
    assert "95 % interval" not in shown
    assert "largest" not in shown
    for wrong in (["--draws", "-1"], ["--top", "x"]):
        with pytest.raises(SystemExit) as ended:
            main([*files, *wrong])
        assert ended.value.code == 2


@pytest.mark.parametrize("suffix", [".csv", ""])
def test_an_output_that_cannot_be_written_is_refused_first(
    files: list[str], tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"x{suffix}" if suffix else tmp_path / "nowhere" / "x.json"
    assert main([*files, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert str(out) in error_line(captured.err)
    assert captured.out == ""


def test_a_bad_file_is_one_line_with_its_number(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with Path(files[1]).open("a", encoding="utf-8") as file:
        file.write("val/3.JPEG,cat,1,much\n")
    assert main(files) == 2
    said = error_line(capsys.readouterr().err)
    assert said == f"error: {files[1]} line 4: ch is 'much', not a number"


def test_one_file_alone_is_not_enough(files: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(files[:1])
    assert ended.value.code == 2
