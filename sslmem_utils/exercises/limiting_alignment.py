"""Exercises of the page on limiting alignment."""

from __future__ import annotations

import pandas as pd

from .. import stats
from . import exercise
from .comparing import aligned, near, numbers


@exercise("12.1")
def sign_of_the_term(answer: object, sign: pd.DataFrame) -> str | None:
    """Where the two versions of the term are smallest."""
    angles = sign.set_index(sign.columns[0])
    wanted = [float(angles[name].idxmin()) for name in angles]
    found = numbers(answer, 2)
    if near(found, wanted):
        return None
    if near(found, wanted[::-1]):
        return "training makes the whole loss *small*: look for the smallest value of each column."
    return "two angles of the table, in degrees: the row of the smallest value of either column."


@exercise("12.2")
def partial(answer: object, arms: pd.DataFrame) -> str | None:
    """Partial correlation of memorization and accuracy at fixed alignment of external images."""

    def each(x: str, given: list[str]) -> pd.Series:
        parts = arms.groupby("dataset", sort=False)
        return pd.Series({name: stats.partial_correlation(part, x, "linear", given).mean for name, part in parts})

    wanted = each("candidate", ["align_external"])
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, each("candidate", [])):
        return "that is the plain correlation: the line in `align_external` has to be taken out of both columns first."
    if near(found, each("align_external", ["candidate"])):
        return "that holds memorization fixed; here it is alignment that is held fixed."
    return "centre all three columns within each seed, and take the line out of both of the columns that you correlate."
