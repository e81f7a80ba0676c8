"""Exercises of the page on the digits."""

from __future__ import annotations

import pandas as pd

from .. import stats
from . import exercise
from .comparing import aligned, near, numbers

MEASURES = ("knn_distance", "centroid_distance")


@exercise("02.1")
def measurements(answer: object) -> str | None:
    """How many measurements raise a reliability of 0.25 to 0.8."""
    found = numbers(answer, 1)
    if near(found, [12]):
        return None
    if near(found[0], 3.2, 0.3):
        return "reliability does not grow in proportion to the measurements, else four of them would have 1."
    return "solve Spearman and Brown's formula for n, or try numbers in `stats.spearman_brown(0.25, n)`."


def _rhos(both: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of Spearman's correlation with each measure: rows (dataset, set)."""
    rows = [
        {"dataset": name, "set": kind} | {one: stats.spearman(part["m_rel"], part[one]) for one in MEASURES}
        for (name, _, kind), part in both.groupby(["dataset", "seed", "set"], sort=False)
    ]
    return pd.DataFrame(rows).groupby(["dataset", "set"], sort=False)[list(MEASURES)].mean()


@exercise("02.2")
def centroids(answer: object, both: pd.DataFrame) -> str | None:
    """The endpoint of claim 02.1 with two measures of atypicality."""
    rhos = _rhos(both)
    inside, outside = rhos.xs("candidate", level="set"), rhos.xs("external", level="set")
    wanted = inside - outside
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, inside):
        return "that is the candidates alone; the control is missing."
    if near(found, -wanted):
        return "the signs are turned: candidates less external images."
    if near(found, _pooled(both)):
        return "these are correlations over all seeds at once; take one in each seed, then the mean."
    if near(found["knn_distance"], wanted["knn_distance"]):
        return "knn_distance is right; do exactly the same with the other column."
    return "one `stats.spearman` a seed and set, of m_rel and the measure; then means over seeds, then the difference."


def _pooled(both: pd.DataFrame) -> pd.DataFrame:
    at_once = _rhos(both.assign(seed=0))
    return at_once.xs("candidate", level="set") - at_once.xs("external", level="set")


@exercise("02.3")
def luck(answer: object, scores: pd.DataFrame) -> str | None:
    """Mean scores of a tenth of the images, in the seeds that chose it and in the others."""
    rows, chosen_by_all = {}, {}
    for name, part in stats.replications(scores).groupby("dataset", sort=False):
        halves = part.assign(odd=part["seed"] % 2).pivot_table("score", "row", "odd").dropna()
        top = halves.nlargest(max(1, round(len(halves) / 10)), 0)
        rows[name] = {"chosen": top[0].mean(), "again": top[1].mean()}
        over_all = part.groupby("row")["score"].mean().loc[halves.index].nlargest(len(top)).index
        chosen_by_all[name] = halves.loc[over_all, 1].mean()
    wanted = pd.DataFrame(rows).T
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, wanted[["again", "chosen"]].to_numpy()):
        return "the two columns have changed places."
    if near(found["again"], wanted["chosen"]):
        return "`again` is measured in the odd seeds, on the images that the even ones chose."
    if near(found["again"], pd.Series(chosen_by_all)):
        return "the odd seeds took part in the choice."
    if near(found["chosen"], wanted["chosen"]):
        return "chosen is right; now look the same rows up in the odd seeds."
    return "mean score of an image in the even seeds and in the odd ones, a row an image; drop images that miss one."
