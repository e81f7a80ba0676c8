"""Small convolutional network: the laptop's encoder for 28 and 32 pixel images."""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from . import ENCODERS, Encoder
from .parts import conv_block


@ENCODERS.register("cnn")
class CNN(Encoder):
    """Three stages of 3x3 convolution, norm, ReLU at `width`, 2 and 4 times `width` channels, average pooled.

    Each stage but the first halves the side, so that images down to 4 pixels fit. `norm` is batch or group.
    """

    DEFAULTS = {"width": 32, "norm": "batch"}

    def __init__(self, shape: tuple[int, int, int], width: int, norm: str) -> None:
        super().__init__()
        channels = [shape[0], width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                conv_block(fan_in, fan_out, norm, stride=2 if number else 1)
                for number, (fan_in, fan_out) in enumerate(pairwise(channels))
            )
        )
        self.dim = channels[-1]

    def layers(self) -> list[str]:
        return [f"stages.{number}" for number in range(len(self.stages))]

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.stages(x).flatten(2).mT.mean(1)  # this way round, the gradient comes back in channels-last layout
