"""VICReg (Bardes et al. 2022, arXiv 2105.04906): equal views, each feature spread out, features uncorrelated."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from ..encoders import Encoder
from . import METHODS, Batch, Method, gathers, stacked
from .parts import in_full, normed


@METHODS.register("vicreg")
class VICReg(Method):
    """The three terms of the paper on an expander of three layers; the variance term is the mean over both views.

    The paper: coefficients 25, 25, 1, hidden and output 8192; LARS with warm-up (SGD at its rates ends in NaN).
    """

    DEFAULTS = {
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
        "hidden": 512,
        "output": 512,
        "norm": "batch",  # "layer": independent of the rest of the batch
    }

    def __init__(
        self,
        encoder: Encoder,
        invariance: float,
        variance: float,
        covariance: float,
        hidden: int,
        output: int,
        norm: str,
    ) -> None:
        super().__init__(encoder)
        self.projector = normed(VICRegProjectionHead(encoder.dim, hidden, output), norm)
        self.criterion = VICRegLoss(invariance, variance, covariance, gather_distributed=gathers())

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        return in_full(self.criterion, *self.projector(self.encoder(stacked(batch.views[0]))).chunk(2))
