"""The evaluator's rows read back, and one clear line for every file that is not one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cgc.errors import InputError
from cgc.report.score_files import read_scores


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_numbers_and_empty_cells(tmp_path: Path) -> None:
    path = written(
        tmp_path / "scores.csv",
        "\ufeffpath,class,prediction,correct,ch,layer,mine\n"
        '"val/größe, 1.JPEG",007,12,1,0.25,4,1e3\n'
        "val/b.JPEG,007,,0,,x,\n"
        "\n"
        "val/b.JPEG,8,7,0, ,y,-2\n",
    )
    found = read_scores(path)
    assert found.path == path
    assert found.keys == (("val/größe, 1.JPEG", "007"), ("val/b.JPEG", "007"), ("val/b.JPEG", "8"))
    assert set(found.columns) == {"correct", "ch", "mine"}, "classes are names, layer is text"
    np.testing.assert_array_equal(found.columns["correct"], [1, 0, 0])
    np.testing.assert_array_equal(found.columns["ch"], [0.25, np.nan, np.nan])
    np.testing.assert_array_equal(found.columns["mine"], [1000, np.nan, -2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("path,class,ch\n", "holds no rows"),
        ("image,class,ch\na,b,1\n", "line 1: no column 'path'"),
        ("path,ch\na,1\n", "line 1: no column 'class'"),
        ("path,class,ch,ch\na,b,1,1\n", "line 1: two columns are called 'ch'"),
        ("path,class,ch\na,b,1\na,c\n", "line 3: 2 cells, the header has 3"),
        ("path,class,ch\na,b,1\nc,d,1,1\n", "line 3: 4 cells, the header has 3"),
        ("path,class,ch\na,b,1\nc,d,abc\n", "line 3: ch is 'abc', not a number"),
        ("path,class,spg\na,b,nan\n", "line 2: spg is 'nan', not a number"),
        ("path,class,correct\na,b,True\n", "line 2: correct is 'True', not a number"),
        ("path,class,ch\na,b,1\n\nc,d,1\na,b,1\n", "line 5: a (b) stands in line 2 already"),
        (b"path,class,ch\na,b\xff,1\n", "not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", "no column 'path'"),
        ('path,class,ch\na,"b,1\n', "line 2: unexpected end of data"),
    ],
)
def test_files_that_are_not_rows_of_an_evaluation(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(InputError) as error:
        read_scores(path)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_where_no_file_is(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match="cannot be read: "):
        read_scores(tmp_path if kind == "folder" else tmp_path / "missing.csv")
