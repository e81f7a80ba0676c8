"""VICReg (Bardes et al. 2022, arXiv 2105.04906): equal views, each feature spread out, features uncorrelated."""

from __future__ import annotations

import torch
from jaxtyping import Float
from lightly.loss import VICRegLoss
from lightly.loss.vicreg_loss import invariance_loss, variance_loss
from lightly.models.modules.heads import VICRegProjectionHead
from torch import Tensor

from ..encoders import Encoder
from . import METHODS, Batch, Method, gathers, stacked
from .parts import in_full, normed, without_diagonal


class Regularized(VICRegLoss):
    """lightly's loss to the last bit; in one process variances leave the covariances by a change of shape."""

    def forward(self, z_a: Float[Tensor, "b p"], z_b: Float[Tensor, "b p"]) -> Float[Tensor, ""]:
        if self.gather_distributed:
            return super().forward(z_a, z_b)
        invariance = invariance_loss(z_a, z_b)  # first: gradients are summed in the order in which terms were made
        variance = 0.5 * (variance_loss(z_a, self.eps) + variance_loss(z_b, self.eps))
        covariance = _covariance(z_a) + _covariance(z_b)
        return self.lambda_param * invariance + self.mu_param * variance + self.nu_param * covariance


def _covariance(z: Float[Tensor, "b p"]) -> Float[Tensor, ""]:
    z = z - z.mean(dim=0)
    covariances = torch.einsum("bc,bd->cd", z, z) / (len(z) - 1)
    return without_diagonal(covariances).pow(2).sum() / z.shape[1]


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
        self.criterion = Regularized(invariance, variance, covariance, gather_distributed=gathers())

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        return in_full(self.criterion, *self.projector(self.encoder(stacked(batch.views[0]))).chunk(2))
