"""Supervised training: the reference that self-supervised encoders are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..encoders import Encoder
from ..errors import SpecError
from . import METHODS, Batch, Method
from .parts import in_full


@METHODS.register("supervised")
class Supervised(Method):
    """Cross entropy of a linear classifier on pooled features.

    Wang et al. (NeurIPS 2024, arXiv 2409.19069): Adam with lr 5e-3 for 10 epochs, no label smoothing.
    """

    DEFAULTS = {
        "classes": 10,
        "smoothing": 0.0,  # share of the target spread over all classes
    }
    views = 1
    labelled = True

    def __init__(self, encoder: Encoder, classes: int, smoothing: float) -> None:
        super().__init__(encoder)
        self.classifier = nn.Linear(encoder.dim, classes)
        self.smoothing = smoothing

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        if batch.labels.device.type == "cpu":  # a GPU would have to be waited for in every step
            _check(batch.labels, self.classifier.out_features)
        logits = self.classifier(self.encoder(batch.views[0][:, 0]))
        return in_full(lambda y: F.cross_entropy(y, batch.labels, label_smoothing=self.smoothing), logits)


@torch.compiler.disable
def _check(labels: Int64[Tensor, " n"], classes: int) -> None:
    if not bool(((labels >= 0) & (labels < classes)).all()):
        raise SpecError(
            f"supervised training needs a label from 0 to {classes - 1} for every image, found {int(labels.min())} to "
            f"{int(labels.max())}; label the images or set the option classes."
        )
