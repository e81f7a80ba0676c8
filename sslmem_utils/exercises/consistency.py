"""Exercises of the page on consistency."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers

KEYS = ["dataset", "a", "b"]


@exercise("07.1")
def by_chance(answer: object) -> str | None:
    """Images that the tops of two unrelated rankings have in common: 500 images, the top fifth."""
    found = numbers(answer, 1)
    if near(found, [20]):
        return None
    if near(found, [100]):
        return "that is the size of one top; an image of it is in the other one only sometimes."
    if near(found, [0.2]):
        return "that is the overlap as a share of the top; the number of images is asked for."
    if near(found, [0.04]):
        return "that is the probability that one image is in both tops; there are 500 images."
    return "what is the probability that an image of the first top is in the second one as well?"


def _excess(kept: pd.DataFrame, statistic: str) -> pd.Series:
    part = kept[kept["statistic"] == statistic]
    return (part["value"] - part["chance"]).groupby([part[key] for key in KEYS], sort=False).mean()


def _other(means: pd.Series) -> list[tuple[str, str, str]]:
    return [key for key in means.index if key[1] != key[2]]


@exercise("07.2")
def above_chance(answer: object, kept: pd.DataFrame) -> str | None:
    """Overlap above chance of two methods, and the lower one of their ceilings."""
    means = _excess(kept, "overlap")
    ceilings = {(d, a, b): sorted([means[d, a, a], means[d, b, b]]) for d, a, b in _other(means)}
    low, high = pd.DataFrame(ceilings).to_numpy()
    wanted = pd.DataFrame({"excess": means[list(ceilings)], "ceiling": low})
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    chance = kept.loc[kept["statistic"] == "overlap", "chance"].mean()
    if near(found["excess"], wanted["excess"] + chance) or near(found["ceiling"], low + chance):
        return "both columns are *above chance*: take the column `chance` away first."
    if near(found["excess"], wanted["excess"]):
        larger = near(found["ceiling"], high)
        return "excess is right; for the ceiling take the " + ("lower one." if larger else "rows in which a is b.")
    return "the rows of the statistic overlap, value less chance, and the mean over the seeds."


@exercise("07.3")
def corrected(answer: object, kept: pd.DataFrame) -> str | None:
    """Spearman of two methods, corrected for the noise of both rankings."""
    means = _excess(kept, "spearman")
    rows = {(d, a, b): (means[d, a, b], means[d, a, a], means[d, b, b]) for d, a, b in _other(means)}
    across, one, other = np.array(list(rows.values())).T
    fit = (one > 0) & (other > 0)
    root = np.sqrt(np.where(fit, one * other, np.nan))
    wanted = pd.Series(across / root, list(rows))
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, across):
        return "that is the correlation as it is; the noise of both rankings makes it too small."
    if near(found, across / root**2):
        return "divide by the square *root* of the product of both ceilings."
    if near(found, across / np.where(fit, (one + other) / 2, np.nan)):
        return "the mean of both ceilings is the geometric one."
    return "the mean over the seeds comes first, in all three correlations, and the division last."
