"""What is watched while an encoder is trained: kNN accuracy and collapse. Neither touches the training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ..data import ImageSet
from ..methods import Method

BANK, QUERIES = 5000, 1000  # images at most: enough to see a trend, a second on a GPU
NEIGHBOURS = 20
_ROWS = 250  # images of a forward pass


@dataclass(frozen=True)
class Monitor:
    """Images on which an encoder is watched: those it learns from (the bank) and some that it never sees (queries)."""

    bank: UInt8[Tensor, "n c h w"]
    bank_labels: Int64[Tensor, " n"]
    queries: UInt8[Tensor, "m c h w"]
    query_labels: Int64[Tensor, " m"]
    every: int

    @staticmethod
    def of(images: ImageSet, trained: np.ndarray, external: np.ndarray, every: int) -> Monitor | None:
        """A monitor that looks every so many epochs and at the last; None for 0, or where no images are left for it.

        trained (n,), external (m,): rows of the images it learns from and of those it never sees. It keeps the first
        5,000 and 1,000 of them in memory, uint8 as they are: 18 MB at 3x32x32, .9 GB at 3x224x224.
        """
        bank, queries = torch.from_numpy(trained[:BANK]), torch.from_numpy(external[:QUERIES])
        if every == 0 or len(queries) == 0:
            return None
        return Monitor(images.rows(bank), images.labels[bank], images.rows(queries), images.labels[queries], every)

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether to look after `epoch` (counted from 1)."""
        return epoch % self.every == 0 or epoch == epochs

    def look(self, model: Method) -> tuple[float, float]:
        """kNN accuracy on the queries (NaN without labels) and spread of their features."""
        training = model.training
        model.eval()
        bank, queries = _features(model, self.bank), _features(model, self.queries)
        model.train(training)
        return knn_accuracy(bank, self.bank_labels, queries, self.query_labels), spread(queries)


def spread(features: Float[Tensor, "n d"]) -> float:
    """Standard deviation of the L2-normalised features (n, d), times the root of d.

    Near 1 when they fill the sphere, 0 when all images have collapsed into one point (arXiv 2011.10566).
    """
    from lightly.utils.debug import std_of_l2_normalized  # here, because scikit-learn and this take seconds to import

    return float(std_of_l2_normalized(features)) * math.sqrt(features.shape[1])


def knn_accuracy(
    bank: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    queries: Float[Tensor, "m d"],
    wanted: Int64[Tensor, " m"],
    neighbours: int = NEIGHBOURS,
) -> float:
    """Share of queries (m, d) whose label their nearest rows of the bank (n, d) vote for; NaN without labels."""
    from sklearn.neighbors import KNeighborsClassifier

    known, asked = labels >= 0, wanted >= 0
    if not known.any() or not asked.any() or not (bank.isfinite().all() and queries.isfinite().all()):
        return math.nan
    bank, queries = (torch.nn.functional.normalize(x, dim=1).numpy() for x in (bank[known], queries[asked]))
    votes = KNeighborsClassifier(min(neighbours, len(bank)), weights="distance").fit(bank, labels[known].numpy())
    return float(votes.score(queries, wanted[asked].numpy()))


@torch.no_grad()
def _features(model: Method, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    """Pooled representations of the images themselves (uint8), float32 on the CPU."""
    device = next(model.parameters()).device
    parts = (model.features(part.to(device).float() / 255).float().cpu() for part in images.split(_ROWS))
    return torch.cat(list(parts))
