"""Exercises of the page on removal."""

from __future__ import annotations

import math

import pandas as pd

from .. import removal
from . import exercise
from .comparing import aligned, half_width, near, one_of


@exercise("10.1")
def better_ranking(answer: object) -> str | None:
    """What `taken` does when the images are chosen by a better ranking."""
    one_of(answer, ("rises", "falls", "stays"))
    if answer != "stays":
        return "`taken` is the mean score of the removed images, in the very scores that chose them."
    return None


def _halves(primary: pd.DataFrame) -> pd.DataFrame:
    """Half widths of the intervals of random - top in points, paired and of two samples, a row for each dataset."""
    from scipy.special import stdtrit

    found = {}
    for name, part in primary.groupby("dataset", sort=False):
        wide = 100 * part.pivot_table("linear", "seed", "arm")
        both, size = wide[["random", "top"]].var().sum(), len(wide)
        apart = float(stdtrit(2 * size - 2, 0.975)) * math.sqrt(both / size)
        found[name] = {"paired": half_width(wide["random"] - wide["top"]), "unpaired": apart}
    return pd.DataFrame(found).T


@exercise("10.2")
def pairing(answer: object, primary: pd.DataFrame) -> str | None:
    """Half widths with and without the pairing."""
    wanted = _halves(primary)
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, 2 * wanted):
        return "these are whole widths, from low to high; half of each is asked for."
    if near(100 * found, wanted):
        return "these are shares; a point is a hundredth."
    if near(found["paired"], wanted["paired"]):
        return "paired is right; for the other column the two arms are two samples, whose variances add up."
    if near(found["unpaired"], wanted["unpaired"]):
        return "unpaired is right; for the other column take the difference within each seed first."
    return "take one number for each arm and seed, times 100, then the interval of the mean over seeds."


@exercise("10.3")
def seeds(answer: object, effect: pd.DataFrame) -> str | None:
    """Seeds that half a point takes."""
    table = removal.needed(effect, 0.5, ["dataset"]).set_index("dataset")
    found = aligned(answer, table["seeds"])
    if near(found, table["seeds"]):
        return None
    if near(found, 8 * (table["sd"] / 0.5) ** 2, 0.02):
        return "that is the rule of thumb; the exact number knows that the deviation is estimated too."
    return "the difference is half a point and the deviation that of the paired differences, both in points."
