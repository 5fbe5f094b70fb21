"""Bootstrap intervals: what they cover, against naive resampling, and the cases without a spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgc.metrics.bootstrap import interval, paired_interval


def naive(values, groups, classes, *, draws, seed, level=0.95):
    """Draw groups, write down all of their rows, average by class."""
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(groups))

    def mean(rows):
        seen = sorted({classes[row] for row in rows})
        each = [[values[row] for row in rows if classes[row] == name] for name in seen]
        return np.mean([np.mean(one) for one in each])

    members = {name: [row for row, group in enumerate(groups) if group == name] for name in names}
    means = [
        mean([row for name in generator.choice(names, len(names)) for row in members[name]])
        for _ in range(draws)
    ]
    return mean(range(len(values))), *np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 12), groups=st.integers(1, 5), classes=st.integers(1, 4), seed=st.integers(0, 999))
def test_equals_naive_resampling(n, groups, classes, seed):
    """NumPy draws the same groups for both, so that they agree to rounding."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=n) * 10 - 3
    of_group, of_class = generator.integers(groups, size=n), generator.integers(classes, size=n)
    expected = naive(values, of_group.tolist(), of_class.tolist(), draws=50, seed=seed)
    found = interval(values, groups_n=of_group, classes_n=of_class, draws=50, seed=seed)
    assert found == pytest.approx(expected, abs=1e-9)
    plain = naive(values, list(range(n)), [0] * n, draws=50, seed=seed)
    assert interval(values, draws=50, seed=seed) == pytest.approx(plain, abs=1e-9)


def test_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    trials, level = 250, 0.9
    hits = 0
    for trial in range(trials):
        _, low, high = interval(generator.normal(2, 3, size=80), draws=200, seed=trial, level=level)
        hits += low <= 2 <= high
    # Binomial: 225 ± 5; the percentile interval of 80 values is a little too narrow.
    assert 0.84 * trials < hits < 0.95 * trials


def test_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(size=4000)
    estimate, low, high = interval(values, draws=2000)
    assert estimate == pytest.approx(values.mean(), abs=1e-12)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 4000**0.5, rel=0.1)
    _, low90, high90 = interval(values, draws=2000, level=0.9)
    assert low < low90 < estimate < high90 < high


def test_rows_of_one_image_move_together():
    """Ten equal rows an image say no more than one."""
    values = np.random.default_rng(2).normal(size=300)
    images = np.repeat([f"{i}.jpg" for i in range(300)], 10)
    rows = np.repeat(values, 10)
    assert interval(rows, groups_n=images) == interval(rows, groups_n=np.repeat(np.arange(300), 10))
    together, apart, single = interval(rows, groups_n=images), interval(rows), interval(values)
    assert together.high - together.low == pytest.approx(single.high - single.low, rel=0.15)
    assert apart.high - apart.low < 0.5 * (single.high - single.low)


def test_classes_weigh_alike():
    hits = [1, 1, 1, 1, 0, 0]
    classes = ["cat"] * 5 + ["dog"]
    estimate, low, high = interval(hits, classes_n=classes)
    assert estimate == pytest.approx((4 / 5 + 0) / 2)
    # A draw without the dog has the cats' mean alone, up to 1.
    assert (low, high) == (pytest.approx(0.2, abs=0.11), 1)
    assert interval(hits).estimate == pytest.approx(4 / 6)


@pytest.mark.parametrize("classes", [None, [0, 1, 1, 2, 0, 0, 1]])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -7e5])
def test_equal_values_have_no_spread(value, classes):
    assert interval([value] * 7, classes_n=classes) == (value, value, value)


def test_one_row_and_one_group_have_no_spread():
    assert interval([0.3]) == (0.3, 0.3, 0.3)
    found = interval([0.1, 0.3, 0.8], groups_n=["one"] * 3)
    assert found == pytest.approx((0.4, 0.4, 0.4))
    assert found.low == found.high


def test_no_draws_give_the_mean_alone():
    assert interval([0.0, 1.0], draws=0) == (0.5, 0.5, 0.5)


def test_the_seed_decides():
    values = np.random.default_rng(3).random(50)
    assert interval(values, seed=4) == interval(values, seed=4)
    assert interval(values, seed=4) != interval(values, seed=5)


def test_pairs_are_compared_row_by_row():
    generator = np.random.default_rng(4)
    a = generator.random(500)
    b = a + 0.01 + 0.02 * generator.normal(size=500)
    difference, low, high = paired_interval(a, b)
    assert difference == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert 0 < low < difference < high
    widths = [result.high - result.low for result in (interval(a), interval(b))]
    assert high - low < 0.2 * min(widths)
    assert paired_interval(b, a).estimate == pytest.approx(-difference)
    groups, classes = np.arange(500) // 2, np.arange(500) % 7
    expected = interval(b - a, groups_n=groups, classes_n=classes)
    assert paired_interval(a, b, groups_n=groups, classes_n=classes) == expected
    classwise = [interval(x, classes_n=classes).estimate for x in (a, b)]
    assert expected.estimate == pytest.approx(classwise[1] - classwise[0], abs=1e-12)


def test_many_rows_and_groups_stay_cheap_in_memory():
    import tracemalloc

    generator = np.random.default_rng(5)
    values, images = generator.random(50_000), np.sort(generator.integers(30_000, size=50_000))
    tracemalloc.start()
    interval(values, groups_n=images, classes_n=generator.integers(1000, size=50_000), draws=3)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 50e6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([],), "a row at least"),
        (([[1.0, 2.0]],), "one column"),
        (([0.5, float("nan"), float("inf")],), "2 of 3 values are not finite"),
    ],
)
def test_refuses_values_that_have_no_mean(arguments, text):
    with pytest.raises(ValueError, match=text):
        interval(*arguments)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"groups_n": [0]}, "columns of 2 rows"),
        ({"classes_n": [0, 1, 2]}, "columns of 2 rows"),
        ({"draws": -1}, "draws"),
        ({"level": 1}, "level"),
    ],
)
def test_refuses_options_out_of_range(options, text):
    with pytest.raises(ValueError, match=text):
        interval([0.0, 1.0], **options)
    with pytest.raises(ValueError, match=text):
        paired_interval([0.0, 1.0], [0.0, 1.0], **options)


def test_pairs_need_the_same_rows():
    with pytest.raises(ValueError, match="same rows"):
        paired_interval([0.0, 1.0], [0.0])
    with pytest.raises(ValueError, match="not finite"):
        paired_interval([0.0, float("inf")], [0.0, float("inf")])
