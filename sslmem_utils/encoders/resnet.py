"""ResNets with a stem for small images (torchvision's blocks; He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet18

from . import ENCODERS, Encoder


@ENCODERS.register("resnet18")
class ResNet18(Encoder):
    """ResNet-18, 3x3 stride-1 stem without max-pooling: a 7x7 stride-2 stem would throw small images away."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.body = resnet18(weights=None)
        self.body.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.body.maxpool = nn.Identity()
        self.body.fc = nn.Identity()
        self.dim = 512

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.body(x)
