"""Exercises of the page on methods and architectures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from .. import stats
from . import exercise
from .comparing import aligned, near, numbers


@exercise("06.1")
def any_false(answer: object, comparisons: int) -> str | None:
    """Probability of one false discovery or more among independent comparisons at 5 %."""
    found = numbers(answer, 1)
    if near(found, [1 - 0.95**comparisons]):
        return None
    if near(found, [0.95**comparisons]):
        return "that is the probability that *none* of them is significant."
    if near(found, [0.05 * comparisons]):
        return "that is the expected number of false discoveries; with many comparisons it is above 1."
    return "each of them keeps quiet with probability 0.95, and they are independent."


def _tested(cells: pd.DataFrame) -> pd.DataFrame:
    rows = {}
    for name, part in cells.groupby("dataset", sort=False):
        wide = part.pivot(index="seed", columns="cell", values="frac95")[list(part["cell"].unique())]
        rows |= {(name, a, b): stats.paired_test(wide[a], wide[b]).p for a, b in combinations(wide, 2)}
    p = pd.Series(rows, dtype=float)
    return pd.DataFrame({"p": p, "holm": stats.holm(p)})


@exercise("06.2")
def all_pairs(answer: object, cells: pd.DataFrame) -> str | None:
    """Paired p values of all pairs of methods, as they are and after Holm's correction."""
    wanted = _tested(cells)
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    p = wanted["p"]
    if not near(found["p"], p):
        return "p is that of the paired t test of `frac95` over the seeds of a data set: `stats.paired_test(a, b).p`."
    if near(found["holm"], np.minimum(1, len(p) * p)):
        return "that is Bonferroni's correction; Holm's multiplies the larger p values by less."
    if near(found["holm"], p.groupby(level=0, sort=False).transform(stats.holm)):
        return "the family is all pairs of all data sets together."
    return "p is right; for the other column hand all p values to `stats.holm` at once."
