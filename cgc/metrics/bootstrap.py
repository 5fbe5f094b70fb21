"""How far a mean score would move with another sample of images: percentile bootstrap (Efron 1979). NumPy only.

Shapes: n rows, each one value; rows of one group (an image) are drawn together; a class mean is over its rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Column = npt.ArrayLike  # (n,) of numbers or strings that name things


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    estimate: float
    low: float
    high: float


def interval(
    values_n: npt.ArrayLike,
    *,
    groups_n: Column | None = None,
    classes_n: Column | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean with its percentile bootstrap interval, a function of the arguments alone.

    Every draw takes as many groups as there are, with replacement, and all rows of each. Memory is that of a few
    columns.

    Args:
        values_n: finite numbers.
        groups_n: names of the groups, rows of one image for instance; None: every row for itself.
        classes_n: names of classes: the mean is then the one over classes of their means, over the classes that a draw
            has seen; None: over rows.
        draws: 0 for no interval: low and high are the estimate.
        level: probability mass between low and high.

    Raises:
        ValueError: no values, some not finite, columns of other lengths, or ``draws`` or ``level`` out of range.

    >>> interval([0.25, 0.25, 0.25])
    Interval(estimate=0.25, low=0.25, high=0.25)
    """
    values = np.asarray(values_n, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values are one column with a row at least, not of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} values are not finite")
    if draws < 0 or not 0 < level < 1:
        raise ValueError(f"draws must not be negative, level between 0 and 1: not {draws} and {level}")
    # Differences from one of the values: equal values make an interval of no width, without rounding.
    first = values[0]
    table = _Table(
        values - first, _numbers(groups_n, values.size), _numbers(classes_n, values.size, one=True)
    )
    estimate = table.mean(np.ones(table.groups, dtype=np.int64))
    generator = np.random.default_rng(seed)
    means = np.array([table.mean(table.resample(generator)) for _ in range(draws)] or [estimate])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(first + estimate), float(first + low), float(first + high))


def paired_interval(
    a_n: npt.ArrayLike,
    b_n: npt.ArrayLike,
    *,
    groups_n: Column | None = None,
    classes_n: Column | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Difference b - a of two means over the same rows, with its interval; arguments as in ``interval``.

    Both columns are resampled by the same rows, and what makes an image easy for both cancels: narrower than two
    intervals apart.
    """
    a, b = np.asarray(a_n, dtype=np.float64), np.asarray(b_n, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values are two columns of the same rows, not {a.shape} and {b.shape}")
    with np.errstate(invalid="ignore"):  # infinite values: reported by `interval`
        difference = b - a
    # Both kinds of mean are linear in the values for a given resample.
    return interval(difference, groups_n=groups_n, classes_n=classes_n, draws=draws, seed=seed, level=level)


def _numbers(names_n: Column | None, n: int, *, one: bool = False) -> npt.NDArray[np.int64]:
    """Numbers of the names in order of appearance, whatever they are called; without names one each, or one for all."""
    if names_n is None:
        return np.zeros(n, dtype=np.int64) if one else np.arange(n, dtype=np.int64)
    names: npt.NDArray[Any] = np.asarray(names_n)
    if names.shape != (n,):
        raise ValueError(f"groups and classes are columns of {n} rows, not of shape {names.shape}")
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    return first.argsort().argsort()[number].astype(np.int64)


class _Table:
    """Sums and counts per pair (group, class): a resample only changes how often each group counts."""

    def __init__(self, values: Floats, groups: npt.NDArray[np.int64], classes: npt.NDArray[np.int64]) -> None:
        self.groups, self.classes = int(groups.max()) + 1, int(classes.max()) + 1
        pairs, row_pair = np.unique(groups * self.classes + classes, return_inverse=True)
        self.pair_group, self.pair_class = pairs // self.classes, pairs % self.classes
        self.sums = np.bincount(row_pair, weights=values)
        self.counts = np.bincount(row_pair)

    def resample(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """How often each group is drawn."""
        return np.bincount(generator.integers(self.groups, size=self.groups), minlength=self.groups)

    def mean(self, times: npt.NDArray[np.int64]) -> float:
        """Mean over the classes seen of their means over rows, where group g counts ``times[g]`` times."""
        weights = times[self.pair_group]
        sums = np.bincount(self.pair_class, weights * self.sums, self.classes)
        counts = np.bincount(self.pair_class, weights * self.counts, self.classes)
        seen = counts > 0
        return float((sums[seen] / counts[seen]).mean())
