"""Agreement between two rankings of the same images, beside chance and beside what noise allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import DataError, SpecError
from .checks import Floats, Number, finite, matched
from .intervals import Interval


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, ties averaged; NaN when either side is constant."""
    return float(pd.DataFrame(np.stack(matched(a, b), axis=1)).corr("spearman").iloc[0, 1])


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b (ties corrected, scipy); NaN when either side is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(*matched(a, b)).statistic)


def disattenuated(rho: Number, rel_a: Number, rel_b: Number) -> float:
    """Correlation of the noise-free rankings, `rho / sqrt(rel_a rel_b)` (Spearman 1904).

    NaN unless both reliabilities are positive. Not clipped: a value above 1 says that a reliability was underestimated.
    """
    return rho / math.sqrt(rel_a * rel_b) if rel_a > 0 and rel_b > 0 else math.nan


def disattenuated_interval(
    a: ArrayLike, b: ArrayLike, *, paired: bool = False, resamples: int = 1000, seed: int = 0, level: Number = 0.95
) -> Interval:
    """Disattenuated Spearman between two scores, each measured by several replications, with a bootstrap interval.

    `a` (r, n), `b` (s, n): rows are replications, columns the same images, without gaps. The mean correlation across is
    divided by the root of the mean correlations within. `paired` says that row i of both comes from the same encoders:
    then their common noise is left out. Resamples replications, then images, and never compares a row with itself;
    resamples whose reliability is not positive have no value and are left out. `mean` holds the estimate.
    """
    (first, second) = (_matrix(one, name) for one, name in ((a, "a"), (b, "b")))
    if first.shape[1] != second.shape[1] or (paired and len(first) != len(second)):
        raise DataError(
            f"both scores need the same images (and paired rows), found shapes {first.shape} and {second.shape}."
        )
    if min(len(first), len(second)) < 2:
        raise DataError(f"reliability needs 2 replications of each score, found {len(first)} and {len(second)}.")
    ranks = pd.DataFrame(np.concatenate([first, second])).rank(axis=1).to_numpy()
    rows, n = (len(first), len(second)), first.shape[1]
    rng = np.random.default_rng(seed)

    def once(images: Floats, of_a: Floats, of_b: Floats) -> float:
        centred = ranks - (ranks @ images / images.sum())[:, None]
        cov = (centred * images) @ centred.T
        scale = np.sqrt(np.diag(cov))
        if not (scale > 0).all():
            return math.nan
        rho = cov / np.outer(scale, scale)
        within = [_mean_off(rho[: rows[0], : rows[0]], of_a, of_a), _mean_off(rho[rows[0] :, rows[0] :], of_b, of_b)]
        block = rho[: rows[0], rows[0] :]
        across = _mean_off(block, of_a, of_b) if paired else float(of_a @ block @ of_b / (of_a.sum() * of_b.sum()))
        return disattenuated(across, *within)

    estimate, draws = once(np.ones(n), *map(np.ones, rows)), []
    for _ in range(resamples):
        of_a = rng.multinomial(rows[0], np.full(rows[0], 1 / rows[0])).astype(float)
        of_b = of_a if paired else rng.multinomial(rows[1], np.full(rows[1], 1 / rows[1])).astype(float)
        draws.append(once(np.bincount(rng.integers(0, n, n), minlength=n).astype(float), of_a, of_b))
    kept = np.array([one for one in draws if math.isfinite(one)])
    if kept.size < 2 or math.isnan(estimate):
        return Interval(min(rows), estimate, math.nan, math.nan, math.nan, level)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Interval(min(rows), estimate, float(kept.std(ddof=1)), float(low), float(high), level)


def _mean_off(rho: Floats, left: Floats, right: Floats) -> float:
    """Weighted mean of a square matrix without its diagonal; NaN when nothing else has weight."""
    weight = np.outer(left, right)
    np.fill_diagonal(weight, 0)
    return float((weight * rho).sum() / weight.sum()) if weight.any() else math.nan


def _matrix(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise DataError(f"{name} must be (replications, images), found shape {array.shape}; pivot the table first.")
    finite(array, name)
    return array


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of the k highest of n images two rankings have in common, beside chance (hypergeometric)."""

    n: int
    k: int
    common: int
    expected: float  # common by chance
    low: float  # common by chance, 95 % of the time between these two
    high: float
    p: float  # chance of so many or more
    jaccard: float
    jaccard_expected: float

    @property
    def share(self) -> float:
        """Common over k; by chance k / n."""
        return self.common / self.k


def top_overlap(a: ArrayLike, b: ArrayLike, share: Number = 0.1) -> Overlap:
    """Overlap of the top `share` (at least one image) of two rankings; equal scores are taken in the given order."""
    from scipy.stats import hypergeom

    first, second = matched(a, b)
    if not 0 < share <= 1:
        raise SpecError(f"share must lie between 0 and 1, found {share}; use 0.1 for the top tenth.")
    n = first.size
    k = max(1, round(share * n))
    top = [set(np.argsort(-one, kind="stable")[:k].tolist()) for one in (first, second)]
    common = len(top[0] & top[1])
    chance = hypergeom(n, k, k)
    counts = np.arange(max(0, 2 * k - n), k + 1)
    low, high = chance.interval(0.95)
    return Overlap(
        n, k, common, k * k / n, float(low), float(high), float(chance.sf(common - 1)), common / (2 * k - common),
        float((chance.pmf(counts) * counts / (2 * k - counts)).sum()),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Agreement of single replications of two scores, beside that of each with itself under other seeds."""

    between: float
    within_a: float
    within_b: float

    @property
    def ceiling(self) -> float:
        """Agreement that two scores of the same thing would have: the geometric mean of those within."""
        return math.sqrt(self.within_a * self.within_b) if min(self.within_a, self.within_b) > 0 else math.nan

    @property
    def ratio(self) -> float:
        """`between` over the ceiling; for correlations this is the disattenuated one."""
        return self.between / self.ceiling


def seed_ceiling(
    a: ArrayLike, b: ArrayLike, statistic: Callable[[Floats, Floats], float] = spearman, *, paired: bool = False
) -> Ceiling:
    """`statistic` of two rankings (`spearman`, `kendall`, a top-k share) across two scores and within each.

    `a` (r, n), `b` (s, n): replications of the two scores, of the same images without gaps. `paired`: row i of both
    comes from the same encoders, and such pairs are left out.
    """
    first, second = _matrix(a, "a"), _matrix(b, "b")
    if min(len(first), len(second)) < 2:
        raise DataError(f"a ceiling needs 2 replications of each score, found {len(first)} and {len(second)}.")
    across = [statistic(x, y) for i, x in enumerate(first) for j, y in enumerate(second) if not (paired and i == j)]
    within = [
        np.mean([statistic(one[i], one[j]) for i in range(len(one)) for j in range(i)]) for one in (first, second)
    ]
    return Ceiling(float(np.mean(across)), *map(float, within))
