"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image attract, all other images repel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import ProjectionHead, SimCLRProjectionHead
from torch import Tensor
from torch.nn.functional import normalize

from ..encoders import Encoder
from . import METHODS, Batch, Method, gathers, stacked
from .parts import normed, without_diagonal


class NTXent(NTXentLoss):
    """lightly's loss to the last bit; in one process similarities of views to themselves go by a change of shape.

    lightly does it with a boolean mask, for which the host must wait until a GPU has counted what is left.
    """

    def forward(self, out0: Float[Tensor, "b p"], out1: Float[Tensor, "b p"]) -> Float[Tensor, ""]:
        if self.gather_distributed:
            return super().forward(out0, out1)
        z = normalize(out0, dim=1), normalize(out1, dim=1)
        z00, z01, z10, z11 = (torch.einsum("nc,mc->nm", a, b) / self.temperature for a in z for b in z)
        rows = [torch.cat([z01, without_diagonal(z00)], dim=1), torch.cat([z10, without_diagonal(z11)], dim=1)]
        labels = torch.arange(len(out0), device=out0.device).repeat(2)
        return self.cross_entropy(torch.cat(rows), labels)


@METHODS.register("simclr")
class SimCLR(Method):
    """NT-Xent on a projector of `layers` layers. The paper: temperature 0.5, layers 2, hidden 512, output 128."""

    DEFAULTS = {
        "temperature": 0.2,  # with 0.5 small encoders need minutes to show memorization, with 0.2 seconds
        "layers": 2,  # 1 is linear: nothing learned is left behind in the projector
        "hidden": 256,
        "output": 64,
        "norm": "batch",  # "layer": independent of the rest of the batch
    }

    def __init__(self, encoder: Encoder, temperature: float, layers: int, hidden: int, output: int, norm: str) -> None:
        super().__init__(encoder)
        head = (
            SimCLRProjectionHead(encoder.dim, hidden, output, layers)
            if layers > 1
            else ProjectionHead([(encoder.dim, output, None, None)])
        )
        self.projector = normed(head, norm)
        self.criterion = NTXent(temperature, gather_distributed=gathers())

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        x = batch.views[0]
        z = self.projector(self.encoder(stacked(x)))
        return self.criterion(*z.unflatten(0, (x.shape[1], x.shape[0])))
