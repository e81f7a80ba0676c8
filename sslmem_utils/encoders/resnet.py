"""ResNet-18, 34 and 50 (torchvision's; He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from . import ENCODERS, Encoder
from .parts import NORMS, choice

STEMS = {  # kernel, stride, padding of the first convolution, and whether a max-pooling follows
    "small": (3, 1, 1, False),  # 32 pixels: the other one would throw small images away
    "imagenet": (7, 2, 3, True),
}


class ResNet(Encoder):
    """A ResNet with a `stem` for small images or ImageNet's, `norm` batch or group, `pixels` half or imagenet."""

    DEFAULTS = {"stem": "small", "norm": "batch", "pixels": "half"}
    network: Callable[..., resnet.ResNet]

    def __init__(self, shape: tuple[int, int, int], stem: str, norm: str, pixels: str) -> None:
        super().__init__(pixels)
        kernel, stride, padding, pool = STEMS[choice("stem", stem, STEMS)]
        self.body = self.network(weights=None, norm_layer=NORMS[choice("norm", norm, NORMS)])
        self.body.conv1 = nn.Conv2d(shape[0], 64, kernel, stride, padding, bias=False)
        nn.init.kaiming_normal_(self.body.conv1.weight, mode="fan_out", nonlinearity="relu")
        if not pool:
            self.body.maxpool = nn.Identity()
        self.dim = self.body.fc.in_features
        self.body.fc = nn.Identity()

    def layers(self) -> list[str]:
        """The stem and every residual block, its addition and activation included."""
        blocks = (name for name, module in self.named_modules() if isinstance(module, BasicBlock | Bottleneck))
        return ["body.relu", *blocks]

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return self.body(x)


@ENCODERS.register("resnet18")
class ResNet18(ResNet):
    """11.2 million parameters, 512 features."""

    network = staticmethod(resnet.resnet18)


@ENCODERS.register("resnet34")
class ResNet34(ResNet):
    """21.3 million parameters, 512 features."""

    network = staticmethod(resnet.resnet34)


@ENCODERS.register("resnet50")
class ResNet50(ResNet):
    """23.5 million parameters, 2048 features."""

    network = staticmethod(resnet.resnet50)
