"""Exercises of the page on who is memorized."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers


@exercise("04.1")
def luck(answer: object, candidate: int, replicas: int) -> str | None:
    """Candidates with a P of 0.5 or more when all rankings are random."""
    found = numbers(answer, 1)
    chances = [math.comb(replicas, hits) * 0.1**hits * 0.9 ** (replicas - hits) for hits in range(replicas + 1)]
    tail = sum(chances[math.ceil(replicas / 2) :])
    if near(found[0], candidate * tail, 0.01):
        return None
    if near(found[0], tail, 0.01):
        return "that is the probability for one image; the expected number of all candidates is asked for."
    if near(found[0], candidate * chances[-1], 0.01):
        return "that is being at the top in every pair; a half of them is enough."
    if near(found[0], candidate * 0.1, 0.01):
        return "that is the top tenth of one pair."
    return "the number of pairs in which an image is at the top is binomial; P is that number over the pairs."


def _shares(inside: pd.DataFrame, weighted: bool = True) -> pd.DataFrame:
    rows = {}
    for (name, method, seed), part in inside.groupby(["dataset", "method", "seed"], sort=False):
        m = part["m_rel"].to_numpy(np.float64)
        classes = part.groupby("label")["m_rel"].agg(["mean", "size"])
        between = (classes["size"] if weighted else 1) * (classes["mean"] - m.mean()) ** 2
        chance = (len(classes) - 1) / (len(part) - 1)
        rows[name, method, seed] = {"share": between.sum() / ((m - m.mean()) ** 2).sum(), "chance": chance}
    return pd.DataFrame(rows).T.groupby(level=[0, 1], sort=False).mean()


@exercise("04.2")
def between_classes(answer: object, scores: pd.DataFrame) -> str | None:
    """Share of the variance of the score between classes, and what random labels give."""
    inside = scores[scores["set"] == "candidate"]
    wanted = _shares(inside)
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found["share"], _shares(scores)["share"]):
        return "keep the candidates; the other sets are in the table as well."
    if near(found["share"], _shares(inside.assign(seed=0))["share"]):
        return "this takes the images of all seeds at once; one share a seed, then their mean."
    if near(found["share"], _shares(inside, weighted=False)["share"]):
        return "each class counts with its number of images."
    if near(found["share"], 1 - wanted["share"]):
        return "that is the share *within* the classes."
    if near(found["share"], wanted["share"]):
        return "share is right; chance has the number of classes and of images of one seed."
    return "two sums of squares in each seed: of the class means, and of the images, both about the mean of all."
