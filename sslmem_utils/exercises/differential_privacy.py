"""Exercises of the page on differential privacy."""

from __future__ import annotations

import math

import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers

RATE = 0.01  # of false positives


@exercise("13.1")
def why_delta(answer: object, images: int, delta: float) -> str | None:
    """The smallest epsilon of Gaussian noise without delta, and what a delta may give away."""
    found = numbers(answer, 2)
    if near(found, [math.inf, images * delta]):
        return None
    if found[0] != math.inf:
        return "(a) is the largest value of the logarithm of the ratio: how far does it grow with o?"
    if near(found[1], delta):
        return "(b) delta is the chance of one image; how many does the training set of one encoder have?"
    return "(b) is the mean number of images when each is published with probability delta."


@exercise("13.2")
def promise(answer: object, private: pd.DataFrame) -> str | None:
    """The most that an attack on private encoders can find at 1 % of false positives."""
    named = private["epsilon"].map(math.exp) * RATE + private["delta"]
    others = 1 - (-private["epsilon"]).map(math.exp) * (1 - private["delta"] - RATE)
    wanted = pd.concat([named, others], axis=1).min(axis=1).clip(upper=1.0)
    found = aligned(answer, wanted)
    if near(found, wanted, 1e-5):
        return None
    if (pd.to_numeric(found, errors="coerce") > 1).any():
        return "a rate above 1 says nothing: take the smaller of the two bounds, and no more than 1."
    if near(found, named.clip(upper=1.0), 1e-5):
        return "that is the first bound alone; the second is a little below 1."
    return "alpha is 0.01; epsilon and delta are those of each arm."


@exercise("13.3")
def rates(answer: object, external: int) -> str | None:
    """Between which rates of false positives a threshold at 1 % of so many images lies."""
    from scipy.special import betaincinv

    def between(k: int) -> list[float]:
        return [float(betaincinv(k, external - k + 1, part)) for part in (0.025, 0.975)]

    k = max(1, round(RATE * external))
    found = numbers(answer, 2)
    if near(found, between(k)):
        return None
    if near([one / 100 for one in found], between(k)):
        return "these are per cent; rates lie between 0 and 1."
    if near(found[::-1], between(k)):
        return "the lower rate comes first."
    return "k is one per cent of the external images, at least 1; both points are those of Beta(k, n - k + 1)."
