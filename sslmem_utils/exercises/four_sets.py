"""Exercises of the page on the four sets."""

from __future__ import annotations

from typing import get_args

import pandas as pd

from ..claims import Verdict
from . import exercise
from .comparing import aligned, half_width, near, numbers, one_of


@exercise("03.1")
def swapped(answer: object) -> str | None:
    """The verdict when both encoders change their roles and the sets keep their names."""
    one_of(answer, get_args(Verdict))
    if answer == "supported":
        return "the sets keep their names: which of the two encoders has seen the candidates then?"
    if answer != "contradicted":
        return "all intervals are as narrow as before; think of where they lie."
    return None


def _widths(scores: pd.DataFrame, **how: str) -> pd.DataFrame:
    """Half widths over seeds of the candidates' mean, as it is and less that of the external images."""
    some = scores[scores["representation"] == how.get("representation", "pooled")]
    means = some.groupby(["dataset", "seed", "set"], sort=False)["m_rel"].mean().unstack("set")
    kinds = {"raw": means["candidate"], "centred": means["candidate"] - means[how.get("control", "external")]}
    return pd.DataFrame({name: one.groupby("dataset", sort=False).agg(half_width) for name, one in kinds.items()})


@exercise("03.2")
def centring(answer: object, scores: pd.DataFrame) -> str | None:
    """Half widths with and without the control."""
    wanted = _widths(scores)
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, 2 * wanted):
        return "these are whole widths, from low to high; half of each is asked for."
    if near(found, _widths(scores, representation="projector")):
        return "this is the projector; keep the rows whose representation is `pooled`."
    if near(found["raw"], wanted["raw"]) and near(found["centred"], wanted["raw"]):
        return "one constant taken from all seeds changes no width; subtract each seed's own external mean."
    if near(found["raw"], wanted["raw"]):
        return "raw is right; the other column needs the external images of the same seed."
    return "take one number a seed first, the mean of `m_rel` over its candidates, then `stats.interval` of these."


@exercise("03.3")
def four_times(answer: object) -> str | None:
    """By how much t and d change with four times as many images."""
    found = numbers(answer, 2)
    if near(found, (2, 1)):
        return None
    if near(found, (1, 2)):
        return "the factor of t comes first."
    if near(found[1], 1):
        return "d is right; t is a difference over its standard error. How does that fall as the number grows?"
    return "d is a difference in units of the spread of single images; does that spread know how many there are?"
