"""ResNet-9 of the paper's CIFAR-10 runs (Wang et al. 2024, arXiv 2409.19069, Table 8)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from ..errors import SpecError
from . import ENCODERS, Encoder
from .parts import conv_block


class Residual(nn.Sequential):
    """Blocks whose input is added to their output, without an activation behind the sum."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + super().forward(x)


@ENCODERS.register("resnet9")
class ResNet9(Encoder):
    """32 (pool), 64 (pool), 64 and 64 added, 128 (pool), 256 (pool), 256 and 256 added, max-pooled.

    1,644,672 parameters; the paper's 1.65 million are 1,647,242 with its classifier of ten classes. Convolutions have
    a bias as there. `norm` is batch or group.
    """

    DEFAULTS = {"norm": "batch"}

    def __init__(self, shape: tuple[int, int, int], norm: str) -> None:
        super().__init__()
        channels, *side = shape
        if min(side) < 16:
            raise SpecError(
                f"resnet9 halves the sides four times and needs 16 pixels, found {side[0]}x{side[1]}; use the cnn."
            )

        def block(fan_in: int, fan_out: int, pool: bool = False) -> nn.Sequential:
            return conv_block(fan_in, fan_out, norm, bias=True, pool=pool)

        self.stages = nn.Sequential(
            block(channels, 32, pool=True),
            block(32, 64, pool=True),
            Residual(block(64, 64), block(64, 64)),
            block(64, 128, pool=True),
            block(128, 256, pool=True),
            Residual(block(256, 256), block(256, 256)),
        )
        self.dim = 256

    def layers(self) -> list[str]:
        """Table 1's rows: the eight convolutions, and the two sums behind the fourth and the eighth."""
        names = []
        for number, stage in enumerate(self.stages):
            if isinstance(stage, Residual):
                names += [f"stages.{number}.{inside}" for inside in range(len(stage))]
            names.append(f"stages.{number}")
        return names

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return nn.functional.adaptive_max_pool2d(self.stages(x), 1).flatten(1)
