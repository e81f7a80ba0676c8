"""Votes of an image's neighbours on its class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import DataError


@dataclass(frozen=True)
class Votes:
    """What n images' neighbours say.

    `inferred`: the class with most votes; `confidence`: minus the entropy of the votes in nats (0: all agree);
    `margin`: share of the votes by which it leads; `rank`: place of the true class, 1 the first, NaN without a vote;
    `share`: votes for the true class.
    """

    inferred: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    margin: Float[np.ndarray, " n"]
    rank: Float[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]

    def right(self) -> Bool[np.ndarray, " n"]:
        """Whether the class with most votes is the true one."""
        return self.rank == 1


def vote(
    labels: Int[np.ndarray, "n k"], distances: Float[np.ndarray, "n k"], true: Int[np.ndarray, " n"], classes: int
) -> Votes:
    """One vote of every neighbour, by its label and distance; `true` are the images' own labels.

    Of classes with as many votes the one with the smaller sum of distances comes first, then the one with the lower
    number. DataError for a neighbour without a label.
    """
    n, k = labels.shape
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(f"neighbours vote with labels 0 to {classes - 1}, found {labels.min()} to {labels.max()}.")
    rows = np.arange(n)
    counts, sums = np.zeros((n, classes), dtype=int), np.zeros((n, classes))
    for at in range(k):  # in order of distance, so that sums do not depend on anything else
        counts[rows, labels[:, at]] += 1
        sums[rows, labels[:, at]] += distances[:, at]
    order = np.lexsort((np.broadcast_to(np.arange(classes), counts.shape), sums, -counts), axis=-1)
    share = counts / k
    falling = np.sort(share, axis=1)  # equal votes have equal entropies to the last bit, whatever classes they are for
    spread = -np.sum(falling * np.log(np.where(falling > 0, falling, 1.0)), axis=1)
    leading = np.take_along_axis(share, order[:, :2], axis=1)
    second = leading[:, 1] if classes > 1 else 0.0
    place = np.argmax(order == true[:, None], axis=1) + 1.0
    mine = share[rows, true]
    return Votes(order[:, 0], 0.0 - spread, leading[:, 0] - second, np.where(mine > 0, place, np.nan), mine)
