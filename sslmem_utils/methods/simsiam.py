"""SimSiam (Chen & He 2021, arXiv 2011.10566): predict one view from the other, without negatives or a teacher."""

from __future__ import annotations

from jaxtyping import Float
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
from torch import Tensor

from ..encoders import Encoder
from . import METHODS, Batch, Method, stacked
from .parts import in_full, normed, swapped


@METHODS.register("simsiam")
class SimSiam(Method):
    """Negative cosine of each view's prediction and the other's projection, which gets no gradient (or all collapses).

    The paper: output 2048, bottleneck 512 (a quarter of the output), batch norm; SGD with lr 0.05 a batch of 256.
    """

    DEFAULTS = {
        "output": 256,  # of the projector and its hidden layers
        "bottleneck": 64,  # of the predictor
        "norm": "batch",  # "layer": independent of the rest of the batch
    }

    def __init__(self, encoder: Encoder, output: int, bottleneck: int, norm: str) -> None:
        super().__init__(encoder)
        self.projector = normed(SimSiamProjectionHead(encoder.dim, output, output), norm)
        self.predictor = normed(SimSiamPredictionHead(output, bottleneck, output), norm)
        self.criterion = NegativeCosineSimilarity()

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        z = self.projector(self.encoder(stacked(batch.views[0])))
        return in_full(self.criterion, self.predictor(z), swapped(z.detach()))
