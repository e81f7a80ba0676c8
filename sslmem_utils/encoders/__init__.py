"""Encoders f and g: one interface, `features(x, representation)`, over small and large architectures."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import SpecError
from ..registry import Registry, resolve
from ..specs import EncoderSpec, Scalar


class Encoder(nn.Module):
    """Base of all encoders. Subclasses set `dim` and define `pooled` on normalised images (b, c, h, w) -> (b, d).

    Images enter in [0, 1]; normalisation is (x - 0.5) / 0.5, constants rather than statistics of the data, so that
    nothing about images that g never saw reaches g.
    """

    DEFAULTS: Mapping[str, Scalar] = {}
    dim: int

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The backbone's output, one vector an image."""
        raise NotImplementedError(f"{type(self).__name__} must define pooled(x)")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Pooled representation of images in [0, 1]."""
        return self.pooled((x - 0.5) / 0.5)

    def features(self, x: Float[Tensor, "b c h w"], representation: str = "pooled") -> Float[Tensor, "b d"]:
        """The named representation of images in [0, 1]; SpecError when this encoder has no such one."""
        if representation != "pooled":
            name = type(self).__name__
            raise SpecError(f"{name} has the representation 'pooled' (and 'projector'), found {representation!r}.")
        return self(x)


ENCODERS: Registry[type[Encoder]] = Registry("encoder", __name__)


def options(spec: EncoderSpec) -> dict[str, Scalar]:
    """All options of the encoder with defaults filled in; SpecError for an unknown name, option or type."""
    return resolve("encoder", spec.name, ENCODERS.get(spec.name).DEFAULTS, spec.options)


def build(spec: EncoderSpec, shape: tuple[int, int, int]) -> Encoder:
    """A freshly initialised encoder for images of shape (c, h, w); initialisation uses torch's global generator."""
    return ENCODERS.get(spec.name)(shape, **options(spec))


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


__all__ = ["ENCODERS", "Encoder", "build", "options", "parameters"]
