"""Tests, effect sizes, intervals, rank agreement and reliability.

The unit of replication is one (split seed x training seed): every interval and every test that decides is taken over
such replications. Images of one pair share two networks, so tests over images are description only. Score tables have
one row an image: `set`, `index`, a score and, when stacked, `seed` (the replication) and `representation`.
scipy, statsmodels and scikit-learn do the work and are imported where they are used, to keep start-up short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .errors import DataError, SpecError
from .specs import SETS

Floats = NDArray[np.float64]
Number = float | int
ASYMMETRY_LIMIT = 0.25  # share of mean(S_C) - mean(S_E) that |C + I - 2E| may reach (notebook 03, primary endpoint)
HALVINGS = 100  # random halvings averaged in `split_half`; their Monte-Carlo error is far below that of few seeds


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


def _finite(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise DataError(f"{name} need at least one number, found none; check the sets and seeds of the table.")
    if bad := int((~np.isfinite(array)).sum()):
        raise DataError(f"{name} must be finite, found {bad} of {array.size} that are not; recompute these rows.")
    return array


def _matched(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _finite(a, "a"), _finite(b, "b")
    if first.size != second.size:
        raise DataError(f"both sides must hold the same rows, found {first.size} and {second.size}; match them first.")
    return first, second


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise DataError unless the table has rows and these columns."""
    if missing := [name for name in columns if name not in table]:
        found = ", ".join(map(str, table.columns))
        raise DataError(f"the table needs the columns {', '.join(missing)}, found {found}; pass another table.")
    if table.empty:
        raise DataError("the table needs at least one row, found none; check the filter before it.")


def interval(values: ArrayLike, level: Number = 0.95) -> Interval:
    """Mean with its t interval; `values` holds one number per replication (NaN bounds and sd below two).

    Raises DataError for no values or values that are not finite.
    """
    from scipy.special import stdtrit  # the t quantile of scipy.stats.t, without its second of import time

    array = _finite(values, "values")
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

    array, estimate, plain = _finite(values, "values"), float(statistic(values)), interval(values)
    if not plain.sd > 0:  # one replication or all equal: nothing to resample
        return plain
    rng = np.random.default_rng(seed)
    found = resample((array,), statistic, n_resamples=resamples, method=method, rng=rng).confidence_interval
    return replace(plain, mean=estimate, low=float(found.low), high=float(found.high))


def paired_test(a: ArrayLike, b: ArrayLike, level: Number = 0.95) -> Interval:
    """Mean of a - b over paired replications (same order) with its interval; `.t` and `.p` are the paired t-test."""
    return interval(np.subtract(*_matched(a, b)), level)


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
    numbers = frame.assign(**{value: _finite(frame[value], value)})
    if not by:
        return pd.DataFrame([asdict(interval(numbers[value]))])
    groups = numbers.groupby(list(by), sort=False, observed=True)[value]  # all at once: a curve has many groups
    found = groups.agg(n="size", mean="mean", sd="std").reset_index()
    half = stdtrit(found["n"] - 1, 0.975) * found["sd"] / np.sqrt(found["n"])
    return found.assign(low=found["mean"] - half, high=found["mean"] + half, level=0.95)


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """(mean(a) - mean(b)) / pooled sd: positive when `a` is larger; NaN without spread or below two numbers each."""
    first, second = _finite(a, "a"), _finite(b, "b")
    if min(first.size, second.size) < 2:
        return math.nan
    freedom = first.size + second.size - 2
    pooled = ((first.size - 1) * first.var(ddof=1) + (second.size - 1) * second.var(ddof=1)) / freedom
    return float((first.mean() - second.mean()) / math.sqrt(pooled)) if pooled > 0 else math.nan


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(positive > negative) + P(equal) / 2: the area under the ROC curve, by Mann-Whitney ranks."""
    first, second = _finite(positive, "positive scores"), _finite(negative, "negative scores")
    ranks = pd.Series(np.concatenate([first, second])).rank().to_numpy()
    u = ranks[: first.size].sum() - first.size * (first.size + 1) / 2
    return float(u / (first.size * second.size))


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b), in [-1, 1]; equals 2 AUC - 1."""
    return 2 * auc(a, b) - 1


def scores_by_set(table: pd.DataFrame, value: str = "m_rel") -> dict[str, Floats]:
    """The scores of each set in the canonical order; several seeds are pooled, so for description only."""
    require(table, ["set", value])
    groups = dict(list(table.groupby("set", observed=True)[value]))
    return {name: groups[name].to_numpy(float) for name in SETS if name in groups}


def paper_t_tests(scores: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """The paper's pooled-variance t-tests over images, for every directed pair of sets.

    `p_greater` tests mean(first) > mean(second), `p_two_sided` any difference. They treat the images of one pair of
    encoders as independent, which they are not: shown beside the paper, never used to decide (column `use`).
    """
    from scipy.special import stdtr  # as scipy.stats.ttest_ind computes it, without a second of import time

    arrays, rows = {name: _finite(values, f"{name} scores") for name, values in scores.items()}, []
    for first, second in permutations(arrays, 2):
        a, b = arrays[first], arrays[second]
        row = {"first": first, "second": second, "n_first": a.size, "n_second": b.size}
        row |= {"mean_first": a.mean(), "mean_second": b.mean(), "difference": a.mean() - b.mean()}
        row |= {"d": cohens_d(a, b), "t": math.nan, "p_greater": math.nan, "p_two_sided": math.nan}
        if not math.isnan(row["d"]):
            t, free = row["d"] / math.sqrt(1 / a.size + 1 / b.size), a.size + b.size - 2
            row |= {"t": t, "p_greater": float(stdtr(free, -t)), "p_two_sided": float(2 * stdtr(free, -abs(t)))}
        rows.append({**row, "use": "descriptive: the images share two networks"})
    return pd.DataFrame(rows)


def density(values: ArrayLike, at: ArrayLike) -> Floats:
    """Gaussian kernel density of `values` at the points `at` (k,), bandwidth by Scott's rule (sd n^-1/5).

    Zero everywhere for values without spread. As scipy.stats.gaussian_kde, without a second of import time.
    """
    array, points = _finite(values, "values"), np.asarray(at, dtype=np.float64)
    width = array.std(ddof=1) * array.size**-0.2 if array.size > 1 else 0.0
    if width == 0:
        return np.zeros_like(points)
    kernels = np.exp(-0.5 * ((points[:, None] - array) / width) ** 2)
    return kernels.mean(axis=1) / (width * math.sqrt(2 * math.pi))


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, ties averaged; NaN when either side is constant."""
    return float(pd.DataFrame(np.stack(_matched(a, b), axis=1)).corr("spearman").iloc[0, 1])


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's tau-b (ties corrected, scipy); NaN when either side is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(*_matched(a, b)).statistic)


def disattenuated(rho: Number, rel_a: Number, rel_b: Number) -> float:
    """Correlation of the noise-free rankings, `rho / sqrt(rel_a rel_b)` (Spearman 1904).

    NaN unless both reliabilities are positive. Not clipped: a value above 1 says that a reliability was underestimated.
    """
    return rho / math.sqrt(rel_a * rel_b) if rel_a > 0 and rel_b > 0 else math.nan


def spearman_brown(rel: Number, factor: Number) -> float:
    """Reliability of the mean of `factor` times as many measurements, `factor rel / (1 + (factor - 1) rel)`.

    NaN where the formula has no meaning (a reliability so negative that the denominator is not positive).
    """
    if not factor > 0:
        raise SpecError(f"factor must be positive, found {factor!r}; it is (new count) / (old count).")
    denominator = 1 + (factor - 1) * rel
    return factor * rel / denominator if denominator > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability of one replication's ranking (`single`) and of the mean of all of them (`mean`)."""

    replications: int
    images: int
    single: float
    mean: float


def replicate_matrix(table: pd.DataFrame, value: str = "m_rel", of: str = "candidate") -> pd.DataFrame:
    """Replications x images of one set (NaN where a replication's split did not put the image into that set)."""
    require(table, ["set", "index", value])
    if "representation" in table and table["representation"].nunique() > 1:
        names = ", ".join(map(str, table["representation"].unique()))
        raise DataError(f"the table must hold one representation, found {names}; select one of them.")
    return _keyed(table, value)[0][table["set"] == of].pivot(index="seed", columns="index", values=value)


def reliability(matrix: ArrayLike | pd.DataFrame) -> Reliability:
    """Mean pairwise Spearman between rows is the reliability of one; Spearman-Brown gives that of the mean of all.

    `matrix` is (replications, images); images a pair of rows does not share are left out of that pair.
    """
    frame = pd.DataFrame(matrix).reset_index(drop=True)
    count, images = frame.shape
    if count < 2:
        return Reliability(count, images, math.nan, math.nan)
    single = float(frame.T.corr("spearman", min_periods=3).to_numpy()[np.triu_indices(count, 1)].mean())
    return Reliability(count, images, single, spearman_brown(single, count))


def split_half(matrix: ArrayLike | pd.DataFrame, seed: int = 0) -> Reliability:
    """Mean Spearman between the means of two random disjoint halves of the rows, stepped up by Spearman-Brown.

    `matrix` is (replications or views, images) without gaps.
    """
    array = np.asarray(matrix, dtype=np.float64)
    count, images = array.shape
    if count < 2:
        return Reliability(count, images, math.nan, math.nan)
    _finite(array, "replications")
    half, rng = count // 2, np.random.default_rng(seed)
    orders = [rng.permutation(count) for _ in range(HALVINGS)]
    pairs = [(array[order[:half]].mean(0), array[order[half : 2 * half]].mean(0)) for order in orders]
    rho = float(np.mean([spearman(*pair) for pair in pairs]))
    return Reliability(count, images, spearman_brown(rho, 1 / half), spearman_brown(rho, count / half))


def top_probability(matrix: ArrayLike | pd.DataFrame, share: Number = 0.1) -> Floats:
    """P(the image is in the top `share` of its replication), over replications; `matrix` as in `reliability`."""
    frame = pd.DataFrame(matrix)
    ranks = frame.rank(axis=1, ascending=False, method="average")
    inside = ranks.le(np.maximum(1, share * frame.notna().sum(axis=1)), axis=0)
    return inside.where(frame.notna()).mean(axis=0).to_numpy(float)


def _pixels(images: ArrayLike) -> NDArray[np.floating]:
    array = np.asarray(images)
    if array.ndim < 2 or len(array) < 2:
        raise DataError(f"images must be (n, ...) with n of at least 2, found shape {array.shape}; pass the whole set.")
    flat = array.reshape(len(array), -1)
    return flat.astype(np.float32) / 255 if flat.dtype == np.uint8 else flat.astype(np.float64)


def _neighbours(images: ArrayLike, k: int) -> tuple[Floats, NDArray[np.int64]]:
    from sklearn.neighbors import NearestNeighbors

    flat = _pixels(images)
    if not 1 <= k < len(flat):
        raise SpecError(f"k must lie between 1 and {len(flat) - 1} (images less one), found {k}; lower it.")
    # Without a query scikit-learn leaves out the image itself (by its row, so that duplicates still count).
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(flat).kneighbors()


def knn_distance(images: ArrayLike, k: int = 5) -> Floats:
    """Mean Euclidean distance to the `k` nearest other images; exact, computed in chunks (scikit-learn).

    `images` is (n, d) or (n, c, h, w); uint8 is scaled to [0, 1]. Larger is more atypical.
    """
    return _neighbours(images, k)[0].mean(axis=1).astype(np.float64)


def centroid_distance(images: ArrayLike, labels: ArrayLike) -> Floats:
    """Euclidean distance to the mean image of the own class (-1, no label, counts as a class of its own)."""
    flat, classes = _pixels(images), np.asarray(labels)
    centre = pd.DataFrame(flat).groupby(classes).transform("mean").to_numpy()
    return np.linalg.norm(flat - centre, axis=1).astype(np.float64)


def atypicality(images: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Three pixel-space measures: knn_distance (5 nearest), centroid_distance, same_class_share (of the 10 nearest).

    `same_class_share` is NaN for images without a label (-1). Small share and large distances are atypical.
    """
    distances, neighbours = _neighbours(images, 10)
    classes = np.asarray(labels)
    found = pd.DataFrame({"knn_distance": distances[:, :5].mean(axis=1).astype(np.float64)})
    found["centroid_distance"] = centroid_distance(images, labels)
    same = (classes[neighbours] == classes[:, None]).mean(axis=1)
    return found.assign(same_class_share=np.where(classes == -1, np.nan, same))


def _keyed(table: pd.DataFrame, value: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with a seed column, and the columns that name one replication."""
    require(table, ["set", value])
    _finite(table[value], value)
    table = table if "seed" in table else table.assign(seed=0)
    return table, [name for name in ("representation", "seed") if name in table]


def set_means(table: pd.DataFrame, value: str = "m_rel") -> pd.DataFrame:
    """Mean of each set per replication, raw and centred: `centred` = mean(S) - mean(S_E), 0 for external.

    Columns: representation (if given), seed, set, n, mean, centred. A global offset between f and g shows on S_E and is
    removed by centring. Raises DataError when a replication has no external images.
    """
    table, keys = _keyed(table, value)
    means = table.groupby([*keys, "set"], observed=True, sort=False)[value].agg(n="size", mean="mean").reset_index()
    zero = means["mean"].where(means["set"] == "external").groupby([means[name] for name in keys]).transform("first")
    if zero.isna().any():
        raise DataError("set means are centred on the external set, found a replication without it; score S_E as well.")
    means["centred"] = means["mean"] - zero
    means["set"] = pd.Categorical(means["set"], SETS)  # sorts in the canonical order
    return means.sort_values([*keys, "set"], ignore_index=True).astype({"set": str})


def summary(table: pd.DataFrame, value: str = "m_rel") -> pd.DataFrame:
    """One row per replication (and representation): centred set means, AUC, Cohen's d and the mirror symmetry.

    `candidate`, `independent`, `shared`: centred means. `auc_x`, `d_x`: candidates against set x. `asymmetry` is
    |C + I - 2E|, `asymmetry_limit` .25 (C - E); `symmetry` = limit - asymmetry is positive when the mirror holds.
    A set that the table lacks gives NaN.
    """
    table, keys = _keyed(table, value)
    means = set_means(table, value).pivot(index=keys, columns="set", values="centred").reindex(columns=list(SETS))
    rows = []
    for key, part in table.groupby(keys, observed=True):
        scores, centred = scores_by_set(part, value), means.loc[key if len(keys) > 1 else key[0]]
        row = dict(zip(keys, key, strict=True)) | {name: float(centred[name]) for name in SETS if name != "external"}
        for name in ("external", "shared", "independent"):
            both = (scores["candidate"], scores[name]) if {"candidate", name} <= set(scores) else None
            row[f"auc_{name}"] = auc(*both) if both else math.nan
            row[f"d_{name}"] = cohens_d(*both) if both else math.nan
        row["asymmetry"] = abs(row["candidate"] + row["independent"])
        row["asymmetry_limit"] = ASYMMETRY_LIMIT * row["candidate"]
        rows.append({**row, "symmetry": row["asymmetry_limit"] - row["asymmetry"]})
    return pd.DataFrame(rows)
