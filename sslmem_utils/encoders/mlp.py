"""Multi-layer perceptron: the laptop's encoder for small grey images."""

from __future__ import annotations

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from . import ENCODERS, Encoder
from .parts import choice

NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


@ENCODERS.register("mlp")
class MLP(Encoder):
    """`depth` blocks of linear, `norm` (batch or layer), ReLU, `width` units each; the last is the representation."""

    DEFAULTS = {"width": 256, "depth": 3, "norm": "batch"}

    def __init__(self, shape: tuple[int, int, int], width: int, depth: int, norm: str) -> None:
        super().__init__()
        normed = NORMS[choice("norm", norm, NORMS)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(fan_in, fan_out, bias=False), normed(fan_out), nn.ReLU())
                for fan_in, fan_out in pairwise([math.prod(shape), *[width] * depth])
            )
        )
        self.dim = width

    def layers(self) -> list[str]:
        return [f"blocks.{number}" for number in range(len(self.blocks))]

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.blocks(x.flatten(1))
