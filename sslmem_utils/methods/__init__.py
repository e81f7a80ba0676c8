"""SSL methods: an encoder, its heads and a loss over views; heads and losses come from lightly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..encoders import Encoder
from ..errors import SpecError
from ..registry import Registry, resolve
from ..specs import MethodSpec, Scalar, TrainSpec, ViewSpec


@dataclass(frozen=True)
class Batch:
    """What one step sees of n images: their views by policy, as `Method.plan` asked for them, and their labels.

    `views[i]` is (n, k, c, h, w), in [0, 1], with its policy's own k and side; `hidden` (n, k, t) marks the patches
    that the first policy hides from the encoder (None without a mask); `labels` (n,) are -1 where there is none; `ids`
    (n,) say which images these are (None where nobody asks).
    """

    views: tuple[Float[Tensor, "n _ c _ _"], ...]
    labels: Int64[Tensor, " n"]
    hidden: Bool[Tensor, "n _ t"] | None = None
    ids: Int64[Tensor, " n"] | None = None


class Method(nn.Module, ABC):
    """Base of all methods: holds the encoder and the heads that are used for training only.

    Subclasses define `forward(batch)`, the training loss, and, when they have one, `projector`, a module from pooled
    features (b, d) to (b, p). `views` is how many views of each image one step needs.
    """

    DEFAULTS: Mapping[str, Scalar] = {}
    views = 2
    masks = False  # whether views may hide patches from the encoder
    labelled = False  # whether training needs labels
    projector: nn.Module | None

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = None  # not a class attribute: that would hide the module of the same name

    @classmethod
    def check(cls, spec: TrainSpec) -> None:
        """Raise SpecError for a spec that this method cannot train, before anything is built; options are resolved."""

    def plan(self, view: ViewSpec) -> tuple[tuple[ViewSpec, int], ...]:
        """The policies of one step and how many views of each image they draw."""
        return ((view, self.views),)

    @abstractmethod
    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """Training loss of a batch."""

    def late(self) -> list[nn.Parameter]:
        """Weight matrices that may stand still at first, without gradients."""
        return []

    def before_step(self, done: float) -> None:
        """What comes between the gradients and an optimizer step; `done` is the share of all steps taken so far."""

    def after_step(self, done: float) -> None:
        """What follows an optimizer step, such as a moving average; `done` is the share of all steps taken."""

    def features(
        self,
        x: Float[Tensor, "b c h w"],
        representation: str = "pooled",
        hidden: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """A representation of the encoder, or the `projector` output, for images in [0, 1].

        `hidden` marks the patches that the encoder may not see.
        """
        if representation != "projector":
            return self.encoder.features(x, representation, hidden)
        if self.projector is None:
            raise SpecError(f"{type(self).__name__} has no projector; score another representation, 'pooled' say.")
        return self.projector(self.encoder.features(x, "pooled", hidden))


METHODS: Registry[type[Method]] = Registry("method", __name__)


def options(spec: MethodSpec) -> dict[str, Scalar]:
    """All options of the method with defaults filled in; SpecError for an unknown name, option or type."""
    return resolve("method", spec.name, METHODS.get(spec.name).DEFAULTS, spec.options)


def build(spec: MethodSpec, encoder: Encoder) -> Method:
    """The method around a freshly initialised encoder; heads are initialised from torch's global generator."""
    return METHODS.get(spec.name)(encoder, **options(spec))


def stacked(x: Float[Tensor, "n k c h w"]) -> Float[Tensor, "b c h w"]:
    """All first views, then all second ones, and so on: (k n, c, h, w)."""
    return x.transpose(0, 1).flatten(0, 1)


def gathers() -> bool:
    """Whether losses must gather other ranks' embeddings: several processes share one training."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
