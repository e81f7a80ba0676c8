"""Effect sizes between sets of scores, and the paper's tests over images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .checks import Floats, finite


def cohens_d(a: ArrayLike, b: ArrayLike) -> float:
    """(mean(a) - mean(b)) / pooled sd: positive when `a` is larger; NaN without spread or below two numbers each."""
    first, second = finite(a, "a"), finite(b, "b")
    if min(first.size, second.size) < 2:
        return math.nan
    freedom = first.size + second.size - 2
    pooled = ((first.size - 1) * first.var(ddof=1) + (second.size - 1) * second.var(ddof=1)) / freedom
    return float((first.mean() - second.mean()) / math.sqrt(pooled)) if pooled > 0 else math.nan


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """P(positive > negative) + P(equal) / 2: the area under the ROC curve, by Mann-Whitney ranks."""
    first, second = finite(positive, "positive scores"), finite(negative, "negative scores")
    ranks = pd.Series(np.concatenate([first, second])).rank().to_numpy()
    u = ranks[: first.size].sum() - first.size * (first.size + 1) / 2
    return float(u / (first.size * second.size))


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b), in [-1, 1]; equals 2 AUC - 1."""
    return 2 * auc(a, b) - 1


def paper_t_tests(scores: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """The paper's pooled-variance t-tests over images, for every directed pair of sets.

    `p_greater` tests mean(first) > mean(second), `p_two_sided` any difference. They treat the images of one pair of
    encoders as independent, which they are not: shown beside the paper, never used to decide (column `use`).
    """
    from scipy.special import stdtr  # as scipy.stats.ttest_ind computes it, without a second of import time

    arrays, rows = {name: finite(values, f"{name} scores") for name, values in scores.items()}, []
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
    array, points = finite(values, "values"), np.asarray(at, dtype=np.float64)
    width = array.std(ddof=1) * array.size**-0.2 if array.size > 1 else 0.0
    if width == 0:
        return np.zeros_like(points)
    kernels = np.exp(-0.5 * ((points[:, None] - array) / width) ** 2)
    return kernels.mean(axis=1) / (width * math.sqrt(2 * math.pi))
