"""Exercises of the page on supervised memorization."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers

MANY = 4000  # networks of the original study


@exercise("16.1")
def values(answer: object, images: pd.DataFrame) -> str | None:
    """How many values label memorization can take."""
    found = numbers(answer, 1)
    without, within = int(images["supervised_n_out"].max()), int(images["supervised_n_in"].max())
    if found[0] == without + 1:
        return None
    if found[0] == without:
        return "none of them wrong and all of them wrong: both ends count."
    if found[0] in (within, within + 1) and within != without:
        return "the networks *with* the image are all right; count those without it."
    return "how many networks were trained without the image, and how many of them can be wrong?"


@exercise("16.2")
def error_bound(answer: object, members: int, fraction: float) -> str | None:
    """Root of the bound for three numbers of networks."""
    t, p = np.array([members, 2 * members, MANY]), min(fraction, 1 - fraction)
    wanted = np.exp(-p * t / 16) / 2 + 1 / (p * t) + 1 / ((1 - p) * t)
    found = numbers(answer, 3)
    if near(found, np.sqrt(wanted)):
        return None
    if near(found, wanted):
        return "that is the bound of the squared error; take its root."
    return "p is the smaller of fraction and 1 - fraction, t the number of networks; mind the brackets."


@exercise("16.3")
def ceiling(answer: object, agreement: pd.DataFrame, a: str, b: str) -> str | None:
    """Agreement of two measures over the geometric mean of each with itself."""
    rows = agreement[agreement["statistic"] == "spearman"].set_index(["dataset", "seed"])

    def of(one: str, other: str) -> pd.Series:
        return rows.loc[(rows["a"] == one) & (rows["b"] == other), "value"]

    product = of(a, a) * of(b, b)
    wanted = of(a, b) / product.where(product > 0) ** 0.5
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, of(a, b)):
        return "that is the agreement as it is; divide it by what noise allows."
    if near(found, of(a, b) / product.where(product > 0)):
        return "take the root of the product: the geometric mean of the two."
    if near(found, 2 * of(a, b) / (of(a, a) + of(b, b))):
        return "that divides by the arithmetic mean; noise multiplies."
    return "use Spearman's rows of the two measures, and those where `a` and `b` are the same measure."
