"""Multi-layer perceptron: the laptop's encoder for small grey images."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from . import ENCODERS, Encoder


@ENCODERS.register("mlp")
class MLP(Encoder):
    """`depth` layers of `width` units, each linear, batch norm, ReLU; the last output is the representation."""

    DEFAULTS = {"width": 256, "depth": 3}

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int) -> None:
        super().__init__()
        sizes = [math.prod(shape), *[width] * depth]
        layers = [
            layer
            for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
            for layer in (nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU())
        ]
        self.layers = nn.Sequential(nn.Flatten(), *layers)
        self.dim = width

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.layers(x)
