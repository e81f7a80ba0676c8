"""How much of a ranking is signal: reliability over seeds and over views."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import DataError, SpecError
from .agreement import spearman
from .checks import Floats, Number, finite, keyed, require

HALVINGS = 100  # random halvings averaged in `split_half`; their Monte-Carlo error is far below that of few seeds


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
    return keyed(table, value)[0][table["set"] == of].pivot(index="seed", columns="index", values=value)


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
    finite(array, "replications")
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


def view_reliability(table: pd.DataFrame, of: str = "candidate") -> pd.DataFrame:
    """Split-half reliability over views of each replication: one row a seed, with `images`, `half` and `all`.

    From the columns `half_0` and `half_1` of score tables (m_rel of the even and of the odd views): `half` is their
    Spearman correlation, `all` that of all views by Spearman-Brown. The seeds' noise is common to both halves, so this
    is the reliability of one pair's ranking as a ranking by these two encoders.
    """
    table, keys = keyed(table, "half_0")
    finite(table["half_1"], "half_1")
    rows = []
    for key, part in table[table["set"] == of].groupby(keys, observed=True):
        rho = spearman(part["half_0"], part["half_1"])
        rows.append({**dict(zip(keys, key, strict=True)), "images": len(part), "half": rho})
    if not rows:
        raise DataError(f"reliability over views needs images of the set {of}, found none; choose another set.")
    return pd.DataFrame(rows).assign(all=lambda found: [spearman_brown(rho, 2) for rho in found["half"]])
