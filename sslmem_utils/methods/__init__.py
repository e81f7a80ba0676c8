"""SSL methods: an encoder, its heads and a loss over views; heads and losses come from lightly."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ..encoders import Encoder
from ..registry import Registry, resolve
from ..specs import MethodSpec, Scalar


class Method(nn.Module):
    """Base of all methods: holds the encoder and the heads that are used for training only.

    `views` is how many views of each image one step needs. Subclasses define `loss` and, when they have one,
    `projector`, a module from pooled features (b, d) to (b, p).
    """

    DEFAULTS: Mapping[str, Scalar] = {}
    views = 2
    projector: nn.Module

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def loss(self, x: Float[Tensor, "n k c h w"]) -> Float[Tensor, ""]:
        """Training loss of a batch of n images in k views each, values in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(x)")

    def features(self, x: Float[Tensor, "b c h w"], representation: str = "pooled") -> Float[Tensor, "b d"]:
        """A representation of the encoder, or the `projector` output, for images in [0, 1]."""
        if representation == "projector":
            return self.projector(self.encoder(x))
        return self.encoder.features(x, representation)


METHODS: Registry[type[Method]] = Registry("method", __name__)


def options(spec: MethodSpec) -> dict[str, Scalar]:
    """All options of the method with defaults filled in; SpecError for an unknown name, option or type."""
    return resolve("method", spec.name, METHODS.get(spec.name).DEFAULTS, spec.options)


def build(spec: MethodSpec, encoder: Encoder) -> Method:
    """The method around a freshly initialised encoder; heads are initialised from torch's global generator."""
    return METHODS.get(spec.name)(encoder, **options(spec))
