"""Small convolutional network: the laptop's encoder for 28 and 32 pixel images."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from . import ENCODERS, Encoder


@ENCODERS.register("cnn")
class CNN(Encoder):
    """Three stages of 3x3 convolution, batch norm, ReLU at `width`, 2 and 4 times `width` channels, average pooled.

    Each stage but the first halves the side, so that images down to 4 pixels fit.
    """

    DEFAULTS = {"width": 32}

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels = [shape[0], width, 2 * width, 4 * width]
        stages = [
            layer
            for number, (fan_in, fan_out) in enumerate(zip(channels, channels[1:], strict=False))
            for layer in (
                nn.Conv2d(fan_in, fan_out, 3, stride=1 if number == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(fan_out),
                nn.ReLU(),
            )
        ]
        self.stages = nn.Sequential(*stages)
        self.dim = channels[-1]

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.stages(x).mean((2, 3))
