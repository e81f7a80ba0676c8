"""Membership inference: how well a score tells images that were trained on from images that were not."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from .. import comparison, stats

ABOVE = 10  # images that a threshold has above it, so that it is more than the luck of the largest


def at_rate(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " e"], fpr: stats.Number) -> float:
    """Share of members above the threshold that a share `fpr` of the others passes; larger scores speak for members.

    NaN below 10 / fpr others, 1,000 for 1 % and 10,000 for 0.1 %.
    """
    if len(others) * fpr < ABOVE - 1e-9:
        return math.nan
    return comparison.above(members, others, 1 - fpr)


def attack(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " e"]) -> dict[str, float]:
    """auc, tpr_1 (at 1 % false positives) and tpr_01 (at 0.1 %) of one score on one encoder."""
    rates = {"tpr_1": 0.01, "tpr_01": 0.001}
    return {"auc": stats.auc(members, others), **{name: at_rate(members, others, rate) for name, rate in rates.items()}}
