"""Exercises of the page on augmentations."""

from __future__ import annotations

import pandas as pd

from .. import stats
from . import exercise
from .comparing import aligned, near, numbers, one_of

OWN = "scored with the policy trained with"
PLACES = ("row", "column", "diagonal")


@exercise("08.1")
def fixed_ruler(answer: object) -> str | None:
    """Where in the matrix the ruler is fixed, and where the papers' way is."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        return "the answer should be two words in brackets."
    for one in answer:
        one_of(one, PLACES)
    fixed, own = answer
    if fixed == "row":
        return "along a row the encoders are the same; which policy are they scored with?"
    if fixed != "column":
        return "a fixed ruler is one policy that all encoders are scored with."
    if own != "diagonal":
        return "the first word is right; in the papers each encoder is scored with the policy that it was trained with."
    return None


@exercise("08.2")
def each_ruler(answer: object, cross: pd.DataFrame) -> str | None:
    """Fall of AUC from the first to the last policy trained with, by each policy scored with."""
    mean = cross.groupby(["scored", "policy"], sort=False)["auc"].mean().unstack()[list(cross["policy"].unique())]
    wanted = mean.iloc[:, 0] - mean.iloc[:, -1]
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, -wanted):
        return "a fall is the weakest policy less the strongest; this has the other sign."
    if near(found, (mean.T.iloc[:, 0] - mean.T.iloc[:, -1]).reindex(wanted.index)):
        return "this compares two rulers on the same encoders; compare two policies *trained with* under one ruler."
    return (
        "for each policy in `scored`, the mean AUC over seeds of the first policy trained with less that of the last."
    )


@exercise("08.3")
def of_the_ruler(answer: object, slope: pd.DataFrame) -> str | None:
    """How much more the papers' way falls than the fixed ruler: mean and interval over seeds."""
    some = slope[slope["value"] == "m_rel"].assign(own=lambda table: table["scored"] == OWN)
    wide = some.pivot(index="seed", columns="own", values="dose")
    more = stats.interval(wide[False] - wide[True])  # a fall is minus a slope
    wanted, found = [more.mean, more.low, more.high], numbers(answer, 3)
    if near(found, wanted):
        return None
    if near(found, [-more.mean, -more.high, -more.low]):
        return "the sign: a fall is minus a slope, and the papers' way comes first."
    if near(found[:1], wanted[:1]):
        return "the mean is right; the interval is that of the differences within each seed, low before high."
    return "the rows of m_rel, their column dose, and one difference a seed."
