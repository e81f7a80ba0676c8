"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of an image attract, all other images repel."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import ProjectionHead, SimCLRProjectionHead
from torch import Tensor

from ..encoders import Encoder
from . import METHODS, Method


@METHODS.register("simclr")
class SimCLR(Method):
    """NT-Xent on a projector of `layers` layers. The paper: temperature 0.5, layers 2, hidden 512, output 128."""

    DEFAULTS = {
        "temperature": 0.2,  # with 0.5 small encoders need minutes to show memorization, with 0.2 seconds
        "layers": 2,  # 1 is linear: nothing learned is left behind in the projector
        "hidden": 256,
        "output": 64,
    }

    def __init__(self, encoder: Encoder, temperature: float, layers: int, hidden: int, output: int) -> None:
        super().__init__(encoder)
        self.projector = (
            SimCLRProjectionHead(encoder.dim, hidden, output, layers)
            if layers > 1
            else ProjectionHead([(encoder.dim, output, None, None)])
        )
        self.criterion = NTXentLoss(temperature)

    def loss(self, x: Float[Tensor, "n k c h w"]) -> Float[Tensor, ""]:
        n, k = x.shape[:2]
        z = self.projector(self.encoder(x.transpose(0, 1).flatten(0, 1)))  # all first views, then all second ones
        return self.criterion(*z.unflatten(0, (k, n)))
