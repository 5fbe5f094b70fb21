"""Two evaluations against each other: hand-computed numbers, and a slow oracle for what is matched."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest

from cgc.errors import InputError
from cgc.metrics.bootstrap import paired_interval
from cgc.report.comparison import Comparison, as_json, compare, text
from cgc.report.score_files import ScoreFile

NAN = math.nan


def scores(name: str, keys: str, **columns: list[float]) -> ScoreFile:
    """``keys``: "image/class" separated by spaces."""
    pairs = tuple((key.split("/")[0], key.split("/")[1]) for key in keys.split())
    return ScoreFile(Path(f"{name}.csv"), pairs, {k: np.array(v, dtype=float) for k, v in columns.items()})


def two() -> tuple[ScoreFile, ScoreFile]:
    a = scores(
        "a",
        "1/cat 1/dog 2/cat 3/cat 4/cow 9/cat",
        correct=[1, 1, 0, 0, 1, 0],
        ch=[0.5, 0.2, 0.4, NAN, 0.3, 0.9],
        pg=[1, 0, 0, 1, NAN, 1],
        deletion=[0.5, 0.4, 0.3, 0.2, 0.1, 0.9],
    )
    b = scores(
        "b",
        "4/cow 3/cat 2/cat 1/dog 1/cat 8/cow",
        correct=[1, 1, 0, 0, 1, 1],
        ch=[0.3, 0.8, 0.9, 0.1, 0.6, 0.9],
        pg=[1, 1, 1, 0, 1, 1],
        deletion=[0.1, 0.1, 0.4, 0.3, 0.5, 0.9],
    )
    return a, b


def by_column(found: Comparison) -> dict[str, tuple[float, ...]]:
    return {d.column: (d.rows, d.a, d.b, d.change.estimate, d.gained, d.lost) for d in found.differences}


def test_rows_are_matched_by_image_and_class() -> None:
    found = compare(*two(), draws=20)
    assert found.rows == 5
    assert found.only_a == (("9", "cat"),)
    assert found.only_b == (("8", "cow"),)
    values = by_column(found)
    assert list(values) == ["correct", "ch", "pg", "deletion"]
    assert values["correct"] == pytest.approx((5, 3 / 5, 3 / 5, 0, 1 / 5, 1 / 5))
    # 3/cat has no map in A: four rows, 0.5 0.2 0.4 0.3 against 0.6 0.1 0.9 0.3.
    assert values["ch"] == pytest.approx((4, 0.35, 0.475, 0.125, 2 / 4, 1 / 4))
    # Over classes: cat 2/3 against 1, dog 0 against 0; cow does not count in A.
    assert values["pg"] == pytest.approx((4, 1 / 3, 1 / 2, 1 / 6, 1 / 4, 0))
    # Less is better: 3/cat and 1/dog gained, 2/cat lost.
    assert values["deletion"] == pytest.approx((5, 0.3, 0.28, -0.02, 2 / 5, 1 / 5))
    assert found.outcomes == {"both right": 2, "fixed": 1, "broken": 1, "both wrong": 1}


def test_largest_changes_in_order() -> None:
    found = compare(*two(), draws=0)
    assert [(c.key, c.a, c.b) for c in found.gains] == [(("2", "cat"), 0.4, 0.9), (("1", "cat"), 0.5, 0.6)]
    assert [c.key for c in found.losses] == [("1", "dog")]
    assert [c.key for c in compare(*two(), draws=0, top=1).gains] == [("2", "cat")]
    none = compare(*two(), draws=0, top=0)
    assert none.gains == none.losses == ()


def test_intervals_are_paired_over_images_and_classes() -> None:
    found = {d.column: d.change for d in compare(*two(), draws=200).differences}
    expected = paired_interval([0.5, 0.2, 0.4, 0.3], [0.6, 0.1, 0.9, 0.3], groups_n=[1, 1, 2, 4], draws=200)
    assert found["ch"] == pytest.approx(expected)
    assert expected.low < expected.high
    expected = paired_interval(
        [1, 0, 0, 1], [1, 0, 1, 1], groups_n=[1, 1, 2, 3], classes_n=[0, 1, 0, 0], draws=200
    )
    assert found["pg"] == pytest.approx(expected)


def test_matching_against_a_slow_oracle() -> None:
    """Every pair of rows looked at."""
    drawn = random.Random(0)
    names = [f"{image}/{label}" for image in range(12) for label in "abc"]

    def some(name: str) -> ScoreFile:
        keys = drawn.sample(names, 20)
        ch = [NAN if drawn.random() < 0.2 else drawn.random() for _ in keys]
        return scores(name, " ".join(keys), ch=ch)

    for _ in range(20):
        a, b = some("a"), some("b")
        pairs = [
            (x, y)
            for key, x in zip(a.keys, a.columns["ch"], strict=True)
            for other, y in zip(b.keys, b.columns["ch"], strict=True)
            if key == other and not math.isnan(x) and not math.isnan(y)
        ]
        (each,) = compare(a, b, draws=0).differences
        assert each.rows == len(pairs)
        assert each.change.estimate == pytest.approx(sum(y - x for x, y in pairs) / len(pairs))
        assert each.gained == pytest.approx(sum(y > x for x, y in pairs) / len(pairs))


def test_differences_of_rounding_are_neither_gain_nor_loss() -> None:
    a, b = scores("a", "1/x 2/x", ch=[0.5, 0.25]), scores("b", "1/x 2/x", ch=[0.5 + 1e-8, 0.25 - 1e-8])
    found = compare(a, b, draws=0)
    assert by_column(found)["ch"][4:] == (0, 0)
    assert found.gains == found.losses == ()
    assert found.outcomes is None


def test_other_columns_that_both_have_are_scores_too() -> None:
    a = scores(
        "a", "1/x 2/x", mine=[1, 2], only=[1, 2], uniform_ch=[0.1, 0.2], height=[3, 4], zero_map=[1, 0]
    )
    b = scores("b", "1/x 2/x", mine=[1.5, 3.5], uniform_ch=[0.1, 0.2], height=[3, 4], zero_map=[0, 0])
    found = compare(a, b, draws=5)
    assert [d.column for d in found.differences] == ["mine"]
    assert found.notes == ("zero maps: 1 in A, 0 in B",)
    assert "mine (not in %)  1.5  2.5     +1" in text(found)


@pytest.mark.parametrize("column", ["uniform_ch", "tolerance", "width"])
def test_files_of_other_regions_or_settings_are_noted(column: str) -> None:
    a = scores("a", "1/x 2/x", ch=[0.1, 0.2], **{column: [0.25, 0.5]})
    b = scores("b", "1/x 2/x", ch=[0.1, 0.2], **{column: [0.25, 0.75]})
    (note,) = compare(a, b, draws=0).notes
    assert note.startswith(f"{column} differs in 1 of 2 rows")


def test_nothing_in_common() -> None:
    a = scores("a", "1/x", ch=[0.1])
    with pytest.raises(InputError, match=r"a\.csv and b\.csv have no row"):
        compare(a, scores("b", "1/y", ch=[0.1]))
    with pytest.raises(InputError, match=r"a\.csv and b\.csv have no score"):
        compare(a, scores("b", "1/x", pg=[1]))
    with pytest.raises(InputError, match="no score"):
        compare(a, scores("b", "1/x", ch=[NAN]))


def test_the_text_says_it_all() -> None:
    shown = text(compare(*two(), draws=50))
    lines = shown.splitlines()
    assert lines[:3] == ["A  a.csv", "B  b.csv", "5 rows in both"]
    table = {line.split()[0]: line.split() for line in lines[4:9]}
    assert table["ch"][1:4] == ["35.00", "47.50", "+12.50"]
    assert table["ch"][-5:] == ["50.0", "%", "25.0", "%", "4"]
    assert table["top-1"][1:4] == ["60.00", "60.00", "+0.00"]
    assert "less is better: deletion" in shown
    assert "fixed          1  20.00 %" in shown
    assert "2 (cat)              40.00  90.00  +50.00" in shown
    assert "1 (dog)               20.00  10.00  -10.00" in shown
    assert "only in A: 1 row\n  9 (cat)" in shown
    assert "only in B: 1 row\n  8 (cow)" in shown
    assert "95 % interval" in shown
    assert "95 % interval" not in text(compare(*two(), draws=0))


def test_many_rows_in_one_file_only_are_named_in_part() -> None:
    keys = " ".join(f"{i}/x" for i in range(15))
    found = compare(scores("a", keys, ch=[0.5] * 15), scores("b", "0/x", ch=[0.5]), draws=0)
    assert "only in A: 14 rows" in text(found)
    assert "  10 (x)\n  and 4 more" in text(found)
    assert len(as_json(found)["only_in_a"]) == 14


def test_json_holds_plain_values() -> None:
    content = as_json(compare(*two(), draws=10))
    assert content["scores"]["ch"]["difference"] == pytest.approx(0.125)
    assert content["scores"]["ch"]["low"] <= 0.125 <= content["scores"]["ch"]["high"]
    assert content["outcomes"]["fixed"] == 1
    assert content["largest_gains"][0] == {"path": "2", "class": "cat", "a": 0.4, "b": 0.9}
    assert content["only_in_b"] == [["8", "cow"]]
