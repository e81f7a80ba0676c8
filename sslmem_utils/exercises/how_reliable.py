"""Exercises of the page on reliability."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import stats
from . import exercise
from .comparing import aligned, near, numbers

WIDE = {"index": "replica", "columns": "row", "values": "m_rel"}


@exercise("18.1")
def bound(answer: object, reliability: float) -> str | None:
    """Largest correlation with the truth that a reliability leaves room for."""
    found = numbers(answer, 1)
    if near(found, [reliability**0.5]):
        return None
    if near(found, [reliability]):
        return "the reliability is the correlation of two noisy rankings; the truth has no noise of its own."
    if near(found, [reliability**2]):
        return "noise in one of two variables takes away less than noise in both, not more."
    return (
        "put 1 for the correlation without noise and 1 for the reliability of the truth into the correction for noise."
    )


def _candidates(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    return scores[(scores["set"] == "candidate") & (scores["representation"] == name)]


@exercise("18.2")
def pairs_needed(answer: object, scores: pd.DataFrame) -> str | None:
    """Reliability of one pair on its split, and the pairs that .9 takes, for each representation."""
    one = {}
    for name in scores["representation"].unique():
        parts = _candidates(scores, name).groupby("split")
        one[name] = parts.apply(lambda part: stats.reliability(part.pivot(**WIDE)).single).mean()
    single = pd.Series(one)
    wanted = pd.DataFrame({"single": single, "pairs": 0.9 * (1 - single) / (single * (1 - 0.9))})
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if not near(found["single"], wanted["single"]):
        return "single is the mean over splits of `stats.reliability(...).single`, of replicas by candidates."
    if near(found["pairs"], 2 * wanted["pairs"]):
        return "these are encoders; a pair has two."
    if near(found["pairs"], 0.9 / single):
        return (
            "reliability does not grow in proportion to the number of pairs; solve Spearman and Brown's formula for it."
        )
    return "single is right; solve 0.9 = k r / (1 + (k - 1) r) for k."


@exercise("18.3")
def reliable_or_valid(answer: object, scores: pd.DataFrame) -> str | None:
    """Agreement of m and of f's alignment with themselves, and with m, in another replica of the same split."""
    rows = []
    for _, part in _candidates(scores, "pooled").groupby("split"):
        m, align = (part.pivot(**WIDE | {"values": name}).rank(axis=1) for name in ("m_rel", "align_f"))
        other = ~np.eye(len(m), dtype=bool)
        for name, own in {"m_rel": m, "align_f": -align}.items():
            again, truth = np.corrcoef(own)[other].mean(), np.corrcoef(own, m)[: len(m), len(m) :][other].mean()
            rows.append({"score": name, "reliability": again, "validity": truth})
    wanted = pd.DataFrame(rows).groupby("score").mean()
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found["reliability"], wanted["reliability"]):
        turned = wanted["validity"] * pd.Series({"m_rel": 1, "align_f": -1})
        if near(found["validity"], turned):
            return "a low alignment loss stands for memorization: turn the sign of `align_f`."
        return "reliability is right; for validity the other replica's score is `m_rel` in both rows."
    return "Spearman over the candidates at the backbone, between two replicas of one split; the mean over all of them."
