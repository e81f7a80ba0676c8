"""Exercises of the page on choosing data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers, one_of

SEEDS = (2, 3, 5, 20)


@exercise("20.1")
def wrong_g(answer: object) -> str | None:
    """Where removed images lie when the score uses the g that chose them."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "the answer should be two words in brackets: for the most memorized, and for random images."
    for one in answer:
        one_of(one, ("above", "at", "below"))
    most, random = answer
    if random != "at":
        return "random images were chosen without any g; what is special about them under this one?"
    if most != "above":
        return "the images were chosen because this very g aligns them badly; does retraining f change g?"
    return None


@exercise("20.2")
def precision(answer: object, damaged: pd.DataFrame, n: int, corrupted: float) -> str | None:
    """Share of the removed images that were corrupted."""
    some, planted = damaged[damaged["removed"] > 0], max(1, round(corrupted * n))
    by = [some[key] for key in ("dataset", "arm", "fraction")]
    recall = some["caught"].groupby(by, sort=False).mean()
    wanted = (some["caught"] * planted / some["removed"]).groupby(by, sort=False).mean()
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, recall):
        return "that is `caught`, the share of the corrupted images; divide by the removed ones."
    return "`caught` times the number planted is how many corrupted images were removed."


@exercise("20.3")
def few_seeds(answer: object) -> str | None:
    """Half widths of an interval over few seeds, at a deviation of 1."""
    from scipy.special import stdtrit

    counts = np.array(SEEDS)
    found = numbers(answer, len(SEEDS))
    if near(found, stdtrit(counts - 1, 0.975) / np.sqrt(counts), 0.02):
        return None
    if near(found, 1.96 / np.sqrt(counts), 0.02):
        return "1.96 is for a deviation that is known; here few seeds have to tell it."
    if near(found, stdtrit(counts - 1, 0.95) / np.sqrt(counts), 0.02):
        return "two-sided: 2.5 % are left out on either side."
    return "Student's quantile has n - 1 degrees of freedom; divide by the root of n."
