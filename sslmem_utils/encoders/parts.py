"""What several encoders are built of: normalisation layers and the convolutional block."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..errors import SpecError


def choice(option: str, value: str, known: Iterable[str]) -> str:
    """The value of an encoder's option, when it is one of those known."""
    if value not in (known := list(known)):
        raise SpecError(f"an encoder's option {option!r} must be {' or '.join(known)}, found {value!r}; choose one.")
    return value


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm (Wu and He 2018, arXiv 1803.08494) of at most 32 groups of at least 4 channels.

    Groups of one channel would be normalised to nothing where the map is a single position.
    """
    groups = next(g for g in range(max(1, min(32, channels // 4)), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


# "group" keeps images apart, as differential privacy and training shared by several processes need it.
NORMS = {"batch": nn.BatchNorm2d, "group": group_norm}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_FUSIONS = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}


def conv_block(
    fan_in: int, fan_out: int, norm: str, *, stride: int = 1, bias: bool = False, pool: bool = False
) -> nn.Sequential:
    """3x3 convolution, norm, ReLU and, with `pool`, 2x2 max-pooling: (b, fan_in, h, w) -> (b, fan_out, h', w')."""
    layers = [
        nn.Conv2d(fan_in, fan_out, 3, stride=stride, padding=1, bias=bias),
        NORMS[choice("norm", norm, NORMS)](fan_out),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def folded(model: nn.Module) -> nn.Module:
    """The model for inference, each batch norm in the layer before it and ReLU in place: the same to rounding, in half
    of the time where there are convolutions. All other weights are shared with the model, which stays as it is.

    For models whose modules stand in the order in which they are called; outputs of single layers change. A norm that
    keeps no statistics, or only those, stays.
    """
    found = model.__new__(type(model))
    found.__dict__ = model.__dict__ | {"training": False}
    children = found._modules = {name: child and folded(child) for name, child in model._modules.items()}
    for (name, layer), (behind, norm) in pairwise(list(children.items())):
        plain = type(layer) in _FUSIONS and "weight" in layer._parameters  # not one computed by weight norm
        if isinstance(norm, BATCH_NORMS) and norm.track_running_stats and norm.affine and plain:
            children[name], children[behind] = _FUSIONS[type(layer)](layer, norm), nn.Identity()
        elif isinstance(norm, nn.ReLU):
            norm.inplace = True
    return found
