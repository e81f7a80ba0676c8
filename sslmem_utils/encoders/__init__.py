"""Encoders f and g: one interface, `features(x, representation, hidden)`, over small and large architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..errors import SpecError
from ..registry import Registry, resolve
from ..specs import EncoderSpec, Scalar
from . import weights
from .parts import choice
from .weights import weights_digest

LAYER = "layer:"  # representation `layer:NAME`: the output of the module NAME of the encoder
# Mean and deviation that pixels in [0, 1] are normalised with: constants rather than statistics of the data, so that
# nothing about images that g never saw reaches g. Weights trained elsewhere need those they were trained with.
PIXELS = {"half": ((0.5,), (0.5,)), "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}


class Encoder(nn.Module, ABC):
    """Base of all encoders. Subclasses set `dim`, define `pooled` on normalised images, and `layers` where blocks nest.

    `shape` (c, h, w) is that of the images it was built for.
    """

    DEFAULTS: Mapping[str, Scalar] = {}
    patches = False  # whether the image is read as patches, some of which can be hidden
    representations: tuple[str, ...] = ("pooled",)
    dim: int
    shape: tuple[int, int, int]

    def __init__(self, pixels: str = "half") -> None:
        super().__init__()
        mean, std = PIXELS[choice("pixels", pixels, PIXELS)]
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @abstractmethod
    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The backbone's output, one vector an image."""

    def represent(
        self, x: Float[Tensor, "b c h w"], representation: str, hidden: Bool[Tensor, "b t"] | None
    ) -> Float[Tensor, "b d"]:
        """One of `representations` of normalised images."""
        return self.pooled(x)

    def layers(self) -> list[str]:
        """Names of the layers to score, one a block, in order of depth; `layer:NAME` is such a representation.

        Unless a subclass knows better, the modules that it is made of.
        """
        return [name for name, _ in self.named_children()]

    def modules_by_name(self) -> dict[str, nn.Module]:
        """Every module whose output may be asked for as a layer."""
        return {name: module for name, module in self.named_modules() if name}

    def vector(self, name: str, out: object) -> Float[Tensor, "b d"]:
        """One vector an image of a layer's output: maps (b, c, h, w) averaged over positions, flat ones kept."""
        if isinstance(out, Tensor) and out.dim() == 4:
            return out.mean((2, 3))
        if isinstance(out, Tensor) and out.dim() == 2:
            return out.clone()
        raise SpecError(f"layer {name!r} gives no vector an image; choose another one: {self._some_layers(name)}.")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Pooled representation of images in [0, 1]."""
        return self.pooled(self.normalised(x))

    def normalised(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images in [0, 1] as the network reads them."""
        return (x - self.mean).div_(self.std)

    def features(
        self,
        x: Float[Tensor, "b c h w"],
        representation: str = "pooled",
        hidden: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "b d"]:
        """The named representation of images in [0, 1]; SpecError when this encoder has no such one.

        `hidden` marks patches that the encoder may not see (vision transformers only). `layer:NAME` is the output of
        the module NAME, see `layers` and `activations`.
        """
        if representation.startswith(LAYER):
            name = representation.removeprefix(LAYER)
            return self.activations(x, [name], hidden)[name]
        self._check(hidden)
        if representation not in self.representations:
            raise SpecError(
                f"{type(self).__name__} has the representations {', '.join(self.representations)}, {LAYER}NAME (and "
                f"projector), found {representation!r}; choose one of them."
            )
        return self.represent(self.normalised(x), representation, hidden)

    def activations(
        self, x: Float[Tensor, "b c h w"], names: Sequence[str], hidden: Bool[Tensor, "b t"] | None = None
    ) -> dict[str, Float[Tensor, "b _"]]:
        """Outputs of several layers in one forward pass, as one vector an image each.

        Taken with forward hooks, so that a block's residual addition is part of its output; a module that is called
        several times counts with its last call. SpecError for a layer that is unknown or gives no vector.
        """
        self._check(hidden)
        modules, found = self.modules_by_name(), {}
        for name in names:
            if name not in modules:
                raise SpecError(
                    f"{type(self).__name__} has no layer {name!r} to score; choose another one: "
                    f"{self._some_layers(name)}."
                )

        def keep(name: str):
            # The vector is taken at once: an activation behind the layer may work in place.
            return lambda _module, _inputs, out: found.update({name: self.vector(name, out)})

        hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
        try:
            self.represent(self.normalised(x), "pooled", hidden)
        finally:
            for hook in hooks:
                hook.remove()
        for name in names:
            if name not in found:
                raise SpecError(
                    f"layer {name!r} takes no part in a forward pass; choose another one: {self._some_layers(name)}."
                )
        return {name: found[name] for name in names}

    def adapted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict read from a file, changed where this encoder can make it fit."""
        return state

    def _check(self, hidden: Tensor | None) -> None:
        if hidden is not None and not self.patches:
            raise SpecError(
                f"{type(self).__name__} has no patches to hide; use a ViT, or a view policy without a mask."
            )

    def _some_layers(self, name: str) -> str:
        known = self.layers()
        close = get_close_matches(name, [*known, *self.modules_by_name()], n=2)
        return ", ".join(dict.fromkeys([*close, *known[:2], known[-1]]))


ENCODERS: Registry[type[Encoder]] = Registry("encoder", __name__)


def options(spec: EncoderSpec) -> dict[str, Scalar]:
    """All options of the encoder with defaults filled in; SpecError for an unknown name, option or type."""
    return resolve("encoder", spec.name, ENCODERS.get(spec.name).DEFAULTS, spec.options)


def build(spec: EncoderSpec, shape: tuple[int, int, int]) -> Encoder:
    """An encoder for images of shape (c, h, w), initialised from torch's global generator, then from `spec.weights`.

    SpecError for options or weights that do not fit, DataError for weights that cannot be read or downloaded.
    """
    encoder = ENCODERS.get(spec.name)(shape, **options(spec))
    encoder.shape = tuple(shape)
    if len(encoder.mean) not in (1, shape[0]):
        raise SpecError(
            f"pixels 'imagenet' are of 3 channels, the images have {shape[0]}; use the option pixels 'half'."
        )
    if spec.weights is not None:
        weights.load(encoder, spec.weights)
    return encoder


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters())


__all__ = ["ENCODERS", "LAYER", "Encoder", "build", "options", "parameters", "weights_digest"]
