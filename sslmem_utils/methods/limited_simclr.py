"""SimCLR whose alignment is limited on all or on some images: Eq. (3) of Wang et al. (ICLR 2024, arXiv 2401.12233).

The loss is (1 - l) L_SimCLR - l D with D the angle between two views of an image over pi, so that a larger D, views
further apart, lowers the loss. The released code subtracts asin(cos) / pi, which grows with the *similarity* of views:
minimised, it rewards the alignment that it means to limit.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from ..encoders import Encoder
from ..errors import SpecError
from ..specs import TrainSpec
from . import METHODS, Batch, stacked
from .parts import in_full
from .simclr import SimCLR

EVERY = "all"


def angles(a: Float[Tensor, "b d"], b: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Angles between the rows of `a` and of `b` over pi, in [0, 1]; the gradient is finite where they are equal."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    return 2 / math.pi * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


@METHODS.register("limited_simclr")
class LimitedSimCLR(SimCLR):
    """SimCLR less `limit` times the angle between views at the backbone, on the images `ids`, from `start` on."""

    DEFAULTS = SimCLR.DEFAULTS | {
        "limit": 0.1,  # l of Eq. (3), the released code's; 0 is SimCLR
        "start": 0.25,  # share of the training before which nothing is limited: epoch 200 of 800
        "ids": EVERY,  # images that are limited: "all", or their ids in words, "3 17 40"
    }

    def __init__(self, encoder: Encoder, limit: float, start: float, ids: str, **simclr: object) -> None:
        super().__init__(encoder, **simclr)
        self.limit, self.start, self.every = limit, start, ids == EVERY
        self.register_buffer("chosen", torch.tensor(_ids(ids), dtype=torch.int64), persistent=False)
        self.register_buffer("done", torch.tensor(0.0))  # persistent: a checkpoint goes on where it was

    @classmethod
    def check(cls, spec: TrainSpec) -> None:
        """Refuse a weight or a start outside of [0, 1], and ids that are no numbers."""
        for name in ("limit", "start"):
            value = spec.method.options.get(name, cls.DEFAULTS[name])
            if not 0 <= value <= 1:
                raise SpecError(f"{name} of limited_simclr must lie between 0 and 1, found {value:g}; change it.")
        _ids(spec.method.options.get("ids", EVERY))

    def after_step(self, done: float) -> None:
        self.done.fill_(done)

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        x = batch.views[0]
        h = self.encoder(stacked(x))
        first, second = self.projector(h).unflatten(0, (x.shape[1], x.shape[0]))
        chosen = 1 if self.every else torch.isin(_of(batch), self.chosen)
        apart = in_full(lambda a, b: (angles(a, b) * chosen).mean(), *h.chunk(2))
        weight = self.limit * (self.done >= self.start)
        return (1 - weight) * self.criterion(first, second) - weight * apart


def _of(batch: Batch) -> Int64[Tensor, " n"]:
    if batch.ids is None:
        raise SpecError("limiting some images needs to know which are in a batch, found no ids; give Batch(ids=).")
    return batch.ids


def _ids(text: str) -> list[int]:
    words = [] if text == EVERY else text.split()
    if not all(word.isdigit() for word in words) or (not words and text != EVERY):
        raise SpecError(f"ids of limited_simclr must be 'all' or numbers with spaces between, found {text[:40]!r}.")
    return [int(word) for word in words]
