"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230): features of two views correlate one to one."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import BarlowTwinsLoss
from lightly.models.modules.heads import BarlowTwinsProjectionHead
from torch import Tensor

from ..encoders import Encoder
from . import METHODS, Batch, Method, stacked
from .parts import gathered, in_full, normed


@METHODS.register("barlow_twins")
class BarlowTwins(Method):
    """Squared distance of the cross-correlation matrix from the identity. The paper: hidden and output 8192.

    The loss sees the rows of all ranks: lightly's own gathering averages correlations of parts, each standardised by
    its own mean and deviation, which is another loss.
    """

    DEFAULTS = {
        "redundancy": 0.005,  # weight of the entries off the diagonal; the paper's
        "hidden": 512,
        "output": 512,
        "norm": "batch",  # "layer": independent of the rest of the batch
    }

    def __init__(self, encoder: Encoder, redundancy: float, hidden: int, output: int, norm: str) -> None:
        super().__init__(encoder)
        self.projector = normed(BarlowTwinsProjectionHead(encoder.dim, hidden, output), norm)
        self.criterion = BarlowTwinsLoss(redundancy)

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        z = self.projector(self.encoder(stacked(batch.views[0])))
        return in_full(lambda z0, z1: self.criterion(gathered(z0), gathered(z1)), *z.chunk(2))
