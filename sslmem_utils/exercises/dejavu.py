"""Exercises of the page on deja vu."""

from __future__ import annotations

import pandas as pd

from .. import dejavu
from . import exercise
from .comparing import aligned, half_width, near, numbers

KEYS = ["dataset", "seed", "replica"]


@exercise("14.1")
def same_encoder(answer: object) -> str | None:
    """The DV score of an encoder against itself."""
    found = numbers(answer, 1)
    return None if found[0] == 0 else "the score is the difference of two accuracies of the very same votes."


def _tested(attacks: pd.DataFrame, sets: list[str]) -> pd.DataFrame:
    rows = {}
    for key, part in attacks[attacks["set"].isin(sets)].groupby(KEYS, sort=False):
        counts = {name: int((part["quadrant"] == name).sum()) for name in ("memorized", "misrepresented")}
        rows[key] = counts | {"p": dejavu.mcnemar(**counts)}
    return pd.DataFrame(rows).T.rename_axis(KEYS)


@exercise("14.2")
def mcnemar(answer: object, attacks: pd.DataFrame) -> str | None:
    """Counts of the images that change sides, and McNemar's p, for every pair of encoders."""
    wanted = _tested(attacks, ["candidate", "independent"])
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    counts = ["memorized", "misrepresented"]
    if near(found[counts], wanted[counts]):
        return "the counts are right; p is two-sided, of one count out of the sum of both, one half either way."
    if near(found[counts], wanted[counts[::-1]]):
        return "the columns have changed places: memorized is where the target alone is right."
    if near(found[counts], _tested(attacks, list(attacks["set"].unique()))[counts]):
        return "only candidates and independents: one of the two encoders was trained on them."
    return "count images of each quadrant for every pair, candidates and independents together."


@exercise("14.3")
def splits(answer: object, tested: pd.DataFrame) -> str | None:
    """Half widths of the intervals over images and over splits."""
    whole, rows, other = tested[tested["share"] == 1], {}, {}
    for name, part in whole.groupby("dataset", sort=False):
        images = float((part["high"] - part["low"]).mean()) / 2
        rows[name] = {"images": images, "splits": half_width(part.groupby("seed")["dv"].mean())}
        other[name] = half_width(part["dv"])
    wanted = pd.DataFrame(rows).T
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, 2 * wanted):
        return "these are whole widths, from low to high; half of each is asked for."
    if near(found["images"], wanted["images"]) and near(found["splits"], pd.Series(other)):
        return "replicas of one split share its images: average over them first, then there is one number a split."
    return "use the rows with share 1; over splits, one number a seed and `stats.interval`."
