"""Exercises of the page on canaries."""

from __future__ import annotations

import pandas as pd

from .. import stats
from . import exercise
from .comparing import aligned, near, numbers

NAMES = ["m_rel", "align_f"]


@exercise("19.1")
def most_and_chance(answer: object, images: int, planted: int) -> str | None:
    """Largest recall in the top tenth, and that of chance."""
    found = numbers(answer, 2)
    most = min(1.0, 0.1 * images / planted)
    if near(found, [most, 0.1]):
        return None
    if near(found, [0.1, most]):
        return "the two have changed places."
    if near(found[:1], [most]):
        return "the first is right; a random order puts every image into the top tenth with the same probability."
    if near(found[1:], [0.1]):
        return "the second is right; how many images does the top tenth have room for?"
    return "recall is the share of the *planted* images that are in the top tenth."


def _aucs(scores: pd.DataFrame, ordinary: pd.DataFrame) -> pd.DataFrame:
    planted, rows = scores[scores["kind"] != ""], []
    for (kind, seed), part in planted.groupby(["kind", "seed"]):
        others = ordinary[(ordinary["seed"] == seed) & (ordinary["kind"] != kind)]
        rows.append({"kind": kind, **{name: stats.auc(part[name], others[name]) for name in NAMES}})
    return pd.DataFrame(rows).groupby("kind").mean()


@exercise("19.2")
def auc_by_hand(answer: object, scores: pd.DataFrame) -> str | None:
    """AUC of the planted images of each kind against the ordinary candidates, mean over seeds."""
    inside = scores[scores["set"] == "candidate"]
    wanted = _aucs(scores, inside[inside["kind"] == ""])
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, 1 - wanted):
        return "this counts the ordinary image that is above; in these columns larger always means more memorized."
    if near(found, wanted - 0.5):
        return "this is how far the AUC is from one half; the AUC itself is asked for."
    if near(found, _aucs(scores, inside)):
        return "the other kinds are planted as well: compare with candidates whose kind is empty."
    if near(found, _aucs(scores, scores[scores["kind"] == ""])):
        return "compare with ordinary *candidates*; images that f never saw have lower scores anyway."
    return "the share of pairs, a planted and an ordinary candidate of one seed, in which the planted one is above."
