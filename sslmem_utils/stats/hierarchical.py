"""Effect sizes with intervals over replications and images, and how many seeds a difference needs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from ..errors import DataError, SpecError
from .checks import Floats, Number, keyed
from .effects import cliffs_delta, cohens_d
from .intervals import Interval
from .sets import scores_by_set

_CELLS = 4_000_000  # numbers of one block of resamples in memory


def hierarchical(
    table: pd.DataFrame,
    first: str = "candidate",
    second: str = "external",
    effect: str = "cohens_d",
    *,
    value: str = "m_rel",
    resamples: int = 2000,
    seed: int = 0,
    level: Number = 0.95,
) -> Interval:
    """Mean over seeds of the effect between two sets, with an interval that resamples seeds, then images within.

    `effect` is cohens_d or cliffs_delta, taken within a seed, because every pair of encoders has an offset of its own.
    Plain resampling in both stages counts the images twice, as their sampling already shows between the seeds; the
    seeds' part is shrunk so that the two add up to the variance found between seeds (Davison and Hinkley 1997, section
    3.8), and few seeds are paid for by Student's quantile. `sd` is that of one seed's effect. One seed has no interval.
    """
    table, keys = keyed(table, value)
    if "representation" in keys and table["representation"].nunique() > 1:
        found = ", ".join(map(str, table["representation"].unique()))
        raise DataError(f"the table must hold one representation, found {found}; select one of them.")
    known: dict[str, tuple[Callable, Callable]] = {
        "cohens_d": (cohens_d, _all_d),
        "cliffs_delta": (cliffs_delta, _all_delta),
    }
    if effect not in known:
        raise SpecError(f"effect must be one of {', '.join(known)}, found {effect!r}.")
    plain, resampled = known[effect]
    sets = [scores_by_set(part, value) for _, part in table.groupby("seed")]
    if any(not {first, second} <= set(one) for one in sets):
        raise DataError(f"every seed needs images of the sets {first} and {second}; score both sets.")
    pairs = [(one[first], one[second]) for one in sets]
    effects = np.array([plain(*one) for one in pairs])
    if not np.isfinite(effects).all():
        raise DataError("an effect needs two images or more in both sets and some spread, found a seed without.")
    count, mean = len(effects), float(effects.mean())
    if count < 2:
        return Interval(count, mean, math.nan, math.nan, math.nan, level)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, count, (resamples, count))
    within = np.empty(drawn.shape)
    for number, (a, b) in enumerate(pairs):
        slots = drawn == number
        found = resampled(a, b, int(slots.sum()), rng)
        within[slots] = found - found.mean() if found.size else found
    return _combined(effects, drawn, within, level)


def _combined(effects: Floats, drawn: np.ndarray, within: Floats, level: Number) -> Interval:
    from scipy.special import ndtri, stdtrit

    count, mean = len(effects), float(effects.mean())
    total, images = float(effects.var(ddof=1)), float(within.var())
    between = max(0.0, total - images)
    shrunk = math.sqrt(between / total * count / (count - 1)) if total > 0 else 0.0
    deviation = (shrunk * (effects - mean)[drawn] + within).mean(axis=1)
    upper = (1 + level) / 2
    wider = float(stdtrit(count - 1, upper) / ndtri(upper)) if between > 0 else 1.0
    low, high = np.quantile(deviation, [1 - upper, upper]) * wider
    return Interval(count, mean, math.sqrt(max(total, images)), mean + float(low), mean + float(high), level)


def _blocks(sizes: tuple[int, ...], count: int, rng: np.random.Generator):
    """How often each image is drawn, for blocks of resamples: one (rows, size) array for each set."""
    rows = max(1, _CELLS // sum(sizes))
    for start in range(0, count, rows):
        these = min(rows, count - start)
        yield [
            np.bincount(
                (rng.integers(0, size, (these, size)) + size * np.arange(these)[:, None]).ravel(),
                minlength=size * these,
            ).reshape(these, size)
            for size in sizes
        ]


def _all_d(a: Floats, b: Floats, count: int, rng: np.random.Generator) -> Floats:
    out = [np.empty(0)]
    centre = a.mean()
    for drawn in _blocks((a.size, b.size), count, rng):
        means, squares = [], []
        for weights, x in zip(drawn, (a - centre, b - centre), strict=True):
            means.append(weights @ x / x.size)
            squares.append(weights @ np.square(x) - x.size * np.square(means[-1]))
        pooled = np.sqrt(np.maximum(sum(squares), 0) / (a.size + b.size - 2))
        out.append(np.divide(means[0] - means[1], pooled, out=np.zeros_like(pooled), where=pooled > 0))
    return np.concatenate(out)


def _all_delta(a: Floats, b: Floats, count: int, rng: np.random.Generator) -> Floats:
    out = [np.empty(0)]
    levels, place = np.unique(np.concatenate([a, b]), return_inverse=True)
    place = place.ravel()
    orders = [np.argsort(part, kind="stable") for part in (place[: a.size], place[a.size :])]
    starts = [np.searchsorted(np.sort(part), np.arange(levels.size + 1)) for part in (place[: a.size], place[a.size :])]
    for drawn in _blocks((a.size, b.size), count, rng):
        below = []  # how many drawn images of each set lie below each level, with one column more for all of them
        for weights, order, start in zip(drawn, orders, starts, strict=True):
            summed = np.cumsum(np.pad(weights[:, order], ((0, 0), (1, 0))), axis=1)
            below.append(summed[:, start])
        of_b = np.diff(below[1], axis=1)  # at each level
        lower, higher = below[0][:, :-1], a.size - below[0][:, 1:]
        out.append(((higher - lower) * of_b).sum(axis=1) / (a.size * b.size))
    return np.concatenate(out)


# ---------------------------------------------------------------- power
def power(difference: Number, sd: Number, seeds: int, alpha: Number = 0.05) -> float:
    """Probability that the two-sided (paired) t-test over `seeds` replications finds a true mean difference.

    `sd` is that of the difference between replications (statsmodels).
    """
    from statsmodels.stats.power import TTestPower

    if seeds < 2 or not sd > 0:
        raise SpecError(f"power needs at least 2 seeds and a positive sd, found {seeds} and {sd}; give both.")
    found = float(TTestPower().power(abs(difference) / sd, seeds, alpha))
    return _power(abs(difference) / sd * math.sqrt(seeds), seeds - 1, alpha) if math.isnan(found) else found


def _power(shift: float, freedom: int, alpha: Number) -> float:
    """P(|t| beyond its critical value) under a shift, by integrating over the sample's sd.

    For parameters at which scipy's noncentral t has no number.
    """
    from scipy.integrate import quad
    from scipy.special import ndtr, stdtrit
    from scipy.stats import chi

    edge, root = float(stdtrit(freedom, 1 - alpha / 2)), math.sqrt(freedom)

    def beyond(s: float) -> float:
        return float((ndtr(shift - edge * s) + ndtr(-shift - edge * s)) * chi.pdf(s * root, freedom) * root)

    centre = min(shift / edge, 10.0)
    return min(1.0, sum(quad(beyond, low, high, limit=200)[0] for low, high in ((0.0, centre), (centre, 20.0))))


def seeds_needed(difference: Number, sd: Number, wanted: Number = 0.8, alpha: Number = 0.05, most: int = 10_000) -> int:
    """The fewest replications with which the t-test finds the difference with probability `wanted`."""
    if not (0 < wanted < 1 and 0 < alpha < 1 and sd > 0) or difference == 0:
        raise SpecError(
            "seeds are planned for a difference other than 0, a positive sd, and a power and alpha between 0 and 1, "
            f"found {difference}, {sd}, {wanted} and {alpha}; correct the one that is not."
        )
    low, high = 1, 2
    while power(difference, sd, high, alpha) < wanted:
        low, high = high, 2 * high
        if low >= most:
            raise SpecError(f"more than {most} seeds would be needed; look for a larger difference or less noise.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, sd, middle, alpha) >= wanted else (middle, high)
    return high


def detectable(sd: Number, seeds: int, wanted: Number = 0.8, alpha: Number = 0.05) -> float:
    """The smallest mean difference that the t-test over `seeds` replications finds with probability `wanted`."""
    from scipy.optimize import brentq

    if not alpha < wanted < 1:
        raise SpecError(f"the power must lie between alpha ({alpha}) and 1, found {wanted}; use 0.8.")
    most = sd
    while power(most, sd, seeds, alpha) < wanted:
        most *= 2
    return float(brentq(lambda difference: power(difference, sd, seeds, alpha) - wanted, 0, most, xtol=1e-9 * sd))
