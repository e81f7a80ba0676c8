"""Intervals and tests over replications: one number a (split x training) seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import SpecError
from .checks import Floats, Number, finite, matched, require


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate over `n` replications with its interval; NaN bounds when one replication has no interval."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    level: float = 0.95

    @property
    def t(self) -> float:
        """The t statistic of a mean of 0, read back from the half width; NaN without an interval or a width."""
        from scipy.special import stdtrit

        if self.n < 2 or not self.high > self.low:
            return math.nan
        return self.mean / ((self.high - self.low) / 2 / float(stdtrit(self.n - 1, (1 + self.level) / 2)))

    @property
    def p(self) -> float:
        """Two-sided p of a mean of 0 (NaN without an interval; replications that are all equal give 0 or 1)."""
        from scipy.special import stdtr

        if self.n < 2 or math.isnan(self.low):
            return math.nan
        if self.low == self.high:
            return float(self.mean == 0)
        return float(2 * stdtr(self.n - 1, -abs(self.t)))

    def __str__(self) -> str:
        return show(self.mean, self.low, self.high)


def show(mean: Number, low: Number | None = None, high: Number | None = None) -> str:
    """`mean [low, high]` with two significant digits of the interval's width; `mean` alone without an interval."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{mean:.3g}"
    width = high - low
    decimals = 3 if width == 0 else max(0, 1 - math.floor(math.log10(width)))
    if decimals > 5:
        return f"{mean:.3g} [{low:.3g}, {high:.3g}]"
    middle, bottom, top = (f"{round(value, decimals) + 0.0:.{decimals}f}" for value in (mean, low, high))
    return f"{middle} [{bottom}, {top}]"


def interval(values: ArrayLike, level: Number = 0.95) -> Interval:
    """Mean with its t interval; `values` holds one number per replication (NaN bounds and sd below two).

    Raises DataError for no values or values that are not finite.
    """
    from scipy.special import stdtrit  # the t quantile of scipy.stats.t, without its second of import time

    array = finite(values, "values")
    if not 0 < level < 1:
        raise SpecError(f"level must lie between 0 and 1, found {level!r}; use 0.95.")
    n, mean = array.size, float(array.mean())
    if n < 2:
        return Interval(n, mean, math.nan, math.nan, math.nan, level)
    sd = float(array.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return Interval(n, mean, sd, mean - half, mean + half, level)


def bootstrap(
    values: ArrayLike,
    statistic: Callable[..., float] = np.mean,
    method: str = "BCa",
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """95 % bootstrap interval of any statistic (scipy; "percentile", "basic" or "BCa"); `mean` holds the statistic.

    Below some 20 replications it covers less than it says: use `interval` there.
    """
    from scipy.stats import bootstrap as resample

    array, estimate, plain = finite(values, "values"), float(statistic(values)), interval(values)
    if not plain.sd > 0:  # one replication or all equal: nothing to resample
        return plain
    rng = np.random.default_rng(seed)
    found = resample((array,), statistic, n_resamples=resamples, method=method, rng=rng).confidence_interval
    return replace(plain, mean=estimate, low=float(found.low), high=float(found.high))


def paired_test(a: ArrayLike, b: ArrayLike, level: Number = 0.95) -> Interval:
    """Mean of a - b over paired replications (same order) with its interval; `.t` and `.p` are the paired t-test."""
    return interval(np.subtract(*matched(a, b)), level)


def holm(pvalues: ArrayLike) -> Floats:
    """Holm-adjusted p values in the given order (statsmodels).

    A NaN stays NaN but counts as a test of the family (as 1): the family was declared before the runs.
    """
    from statsmodels.stats.multitest import multipletests

    array = np.asarray(pvalues, dtype=np.float64).ravel()
    if array.size == 0:
        return array
    given = np.isfinite(array)
    if ((array[given] < 0) | (array[given] > 1)).any():
        raise SpecError(f"p values must lie in [0, 1], found {array.tolist()}; correct the test that gave them.")
    return np.where(given, multipletests(np.where(given, array, 1.0), method="holm")[1], np.nan)


def over_seeds(frame: pd.DataFrame, value: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """One row per group of `by`: n, mean, sd, low, high, level of `value`, which has one row per replication."""
    from scipy.special import stdtrit

    require(frame, [value, *by])
    numbers = frame.assign(**{value: finite(frame[value], value)})
    if not by:
        return pd.DataFrame([asdict(interval(numbers[value]))])
    groups = numbers.groupby(list(by), sort=False, observed=True)[value]  # all at once: a curve has many groups
    found = groups.agg(n="size", mean="mean", sd="std").reset_index()
    half = stdtrit(found["n"] - 1, 0.975) * found["sd"] / np.sqrt(found["n"])
    return found.assign(low=found["mean"] - half, high=found["mean"] + half, level=0.95)
