"""Exercises of the page on the definition."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist, squareform

from . import exercise
from .comparing import near, numbers


@exercise("01.1")
def unit(answer: object) -> str | None:
    """By how much m and m_rel change when both encoders put out three times as much."""
    found = numbers(answer, 2)
    if near(found, (3, 1)):
        return None
    if near(found, (1, 3)):
        return "the factor of m comes first."
    if near(found[0], 3):
        return "m is right; the relative score is a difference of distances over a sum of distances."
    return "d is a distance: what happens to the distance of two points when both are moved three times as far out?"


@exercise("01.2")
def estimator(answer: object) -> str | None:
    """Mean distance over all pairs of views."""
    if not callable(answer):
        return "the answer should be the function itself, without brackets behind its name."
    z = np.random.default_rng(0).normal(size=(7, 3))
    try:
        found = float(answer(z.copy()))
    except Exception as error:  # whatever a wrong function does
        return f"the function fails on an array of the shape (7, 3): {type(error).__name__}: {error}"
    apart = pdist(z)
    others = {
        "this counts the distance of each view to itself, which is 0; pairs have i < j.": squareform(apart).mean(),
        "these are squared distances.": np.mean(apart**2),
        "this is the sum over the pairs; the mean is asked for.": apart.sum(),
        "this is the l1 distance; the Euclidean one is asked for.": pdist(z, "cityblock").mean(),
        "this is the distance to the mean of the views; compare the views in pairs.": np.linalg.norm(
            z - z.mean(0), axis=1
        ).mean(),
    }
    if near(found, apart.mean()):
        return None
    return next(
        (hint for hint, value in others.items() if near(found, value)),
        "for three views on a line, at 0, 1 and 3, the three pairs are 1, 2 and 3 apart, so that it should return 2.",
    )
