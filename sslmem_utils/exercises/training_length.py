"""Exercises of the page on training length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers


@exercise("09.1")
def doublings(answer: object, slope: float) -> str | None:
    """What a slope per doubling comes to between 100 and 800 epochs."""
    found = numbers(answer, 1)
    if near(found, [3 * slope]):
        return None
    if near(found, [7 * slope]) or near(found, [700 * slope]):
        return "that would be a straight line over the epochs; the slope is one over their logarithm."
    if near(found, [8 * slope]):
        return "eight times as long is not eight doublings."
    return "how often must 100 be doubled to become 800?"


def _mean_slopes(
    curves: pd.DataFrame,
    plateaus: pd.DataFrame,
    scale: Callable[[pd.Series], pd.Series] = np.log2,
    all_of: bool = False,
) -> pd.Series:
    """Mean slope of the candidates over the seeds of each dataset, past the plateau or over all checkpoints."""
    start, found = plateaus.set_index("dataset")["plateau"], {}
    for name, part in curves.groupby("dataset", sort=False):
        some = part if all_of else part[part["epoch"] >= start[name]]
        found[name] = np.mean([np.polyfit(scale(x["epoch"]), x["candidate"], 1)[0] for _, x in some.groupby("seed")])
    return pd.Series(found)


@exercise("09.2")
def per_doubling(answer: object, curves: pd.DataFrame, plateaus: pd.DataFrame) -> str | None:
    """Slope of the candidates' mean per doubling of the epochs, past the plateau."""
    wanted = _mean_slopes(curves, plateaus)
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, _mean_slopes(curves, plateaus, np.log)):
        return "this is per factor e; a doubling is 1 on the scale of the logarithm to the base 2."
    if near(found, _mean_slopes(curves, plateaus, np.log10)):
        return "this is per factor ten; a doubling is 1 on the scale of the logarithm to the base 2."
    if near(found, _mean_slopes(curves, plateaus, lambda epochs: epochs)):
        return "this is per epoch; the slope is over the logarithm of the epochs."
    if near(found, _mean_slopes(curves, plateaus, all_of=True)):
        return "this takes all checkpoints; leave out those before the plateau of the data set."
    return "one fit for each dataset and seed, of the column candidate, and then the mean over the seeds."
