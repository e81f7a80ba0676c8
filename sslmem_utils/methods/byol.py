"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict what a slowly moving teacher says of the other view."""

from __future__ import annotations

import torch
from jaxtyping import Float
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead
from torch import Tensor, nn

from ..encoders import Encoder
from . import METHODS, Batch, Method, stacked
from .parts import follow, frozen_copy, in_full, normed, swapped


@METHODS.register("byol")
class BYOL(Method):
    """Negative cosine of each view's prediction and the teacher's projection of the other view.

    That is the paper's loss, 2 - 2 cos summed over both directions, divided by 4 and shifted by 1. The paper:
    momentum 0.996 (in 1000 epochs), hidden 4096, output 256, batch norm.
    """

    DEFAULTS = {
        "momentum": 0.99,  # of the teacher at the start; 0.996 hardly moves in a few thousand steps
        "hidden": 256,
        "output": 64,
        "norm": "batch",  # "layer": independent of the rest of the batch
    }

    def __init__(self, encoder: Encoder, momentum: float, hidden: int, output: int, norm: str) -> None:
        super().__init__(encoder)
        self.projector = normed(BYOLProjectionHead(encoder.dim, hidden, output), norm)
        self.predictor = normed(BYOLPredictionHead(output, hidden, output), norm)
        self.teacher = frozen_copy(nn.Sequential(encoder, self.projector))
        self.criterion, self.momentum = NegativeCosineSimilarity(), momentum

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        x = stacked(batch.views[0])
        with torch.no_grad():
            z = self.teacher(x)
        return in_full(self.criterion, self.predictor(self.projector(self.encoder(x))), swapped(z))

    def after_step(self, done: float) -> None:
        follow(nn.Sequential(self.encoder, self.projector), self.teacher, self.momentum, done)
