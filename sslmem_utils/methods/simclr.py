"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image attract, all other images repel."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import ProjectionHead, SimCLRProjectionHead
from torch import Tensor

from ..encoders import Encoder
from . import METHODS, Batch, Method, gathers, stacked
from .parts import normed


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
        self.criterion = NTXentLoss(temperature, gather_distributed=gathers())

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        x = batch.views[0]
        z = self.projector(self.encoder(stacked(x)))
        return self.criterion(*z.unflatten(0, (x.shape[1], x.shape[0])))
