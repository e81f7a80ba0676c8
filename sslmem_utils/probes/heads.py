"""Dense features of frozen encoders, and the heads that read a number or a class for every pixel from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from ..encoders.parts import group_norm
from ..errors import DataError, SpecError
from ..methods import Method
from ..specs import seed_of

LEVELS = 4  # maps of different sizes that the UPerNet-style head reads, at most
FINEST = 2  # pixels between the positions of the finest of them
POOLS = (1, 2, 3, 6)  # of the pyramid (Zhao et al. 2017, arXiv 1612.01105)
WIDTH = 32  # channels of the UPerNet-style head
BATCH = 16
DEAD = 1e-3  # share of the largest standard deviation below which a feature is left as it is
EPOCHS = {"linear": 12, "upernet": 6}
LEAST = 100  # steps of a head on few scenes, whose epochs are raised
RATES = {"linear": 0.02, "upernet": 0.004}
SETTINGS = [DEAD, LEVELS, FINEST, POOLS, WIDTH, BATCH, EPOCHS, LEAST, RATES]  # all that a result depends on
_ROWS = 50  # images of a forward pass

Maps = list[Float32[Tensor, "n _ _ _"]]  # finest first


@torch.no_grad()
def maps(model: Method, pixels: UInt8[Tensor, "n c h w"]) -> Maps:
    """The outputs of a frozen encoder's blocks as maps (n, d, h, w), finest first, on the CPU.

    Of the blocks with maps of one size the last one counts; sizes of more than half the image's are left out, and the
    LEVELS coarsest kept. A ViT gives its patch tokens after each quarter of its blocks. The encoder is in evaluation
    mode meanwhile. All maps are in memory at once: 4 bytes times n d h w. SpecError for an encoder without maps,
    DataError for a feature that is not finite.
    """
    encoder, device, mode = model.encoder, next(model.parameters()).device, model.training
    modules, found = dict(encoder.named_modules()), {}
    names = encoder.layers()
    model.eval()
    hooks = [
        modules[name].register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out.detach().clone()}))
        for name in names
    ]
    kept, parts = None, []
    try:
        for some in pixels.split(_ROWS):
            encoder(some.to(device).float() / 255)
            grids = {name: _grid(found[name], encoder, some.shape) for name in names}
            if kept is None:
                kept = _chosen(grids, pixels.shape[2:], tokens=encoder.patches)
            parts.append([grids[name].float().cpu() for name in kept])
    finally:
        for hook in hooks:
            hook.remove()
        model.train(mode)
    levels = [torch.cat(level) for level in zip(*parts, strict=True)]
    if not all(level.isfinite().all() for level in levels):
        raise DataError("a feature of some image is not finite; this encoder cannot be probed.")
    return levels


def _grid(out: Tensor, encoder: nn.Module, shape: Sequence[int]) -> Tensor:
    if out.dim() == 4:
        return out
    if out.dim() == 3 and encoder.patches:
        side = [length // encoder.patch for length in shape[2:]]
        return out[:, 1:].transpose(1, 2).unflatten(2, side)
    raise SpecError(
        f"{type(encoder).__name__} has no map of an image, only one vector; dense probes need cnn, a resnet or a vit."
    )


def _chosen(grids: dict[str, Tensor], size: Sequence[int], tokens: bool) -> list[str]:
    names = list(grids)
    if tokens:
        quarters = [math.ceil(len(names) * (at + 1) / LEVELS) - 1 for at in range(LEVELS)]
        return [names[at] for at in dict.fromkeys(quarters)]
    last = {tuple(grid.shape[2:]): name for name, grid in grids.items()}
    fine = [name for shape, name in last.items() if shape[0] * FINEST <= size[0]]
    return fine[-LEVELS:] or names[-1:]


def pixel_maps(pixels: UInt8[Tensor, "n c h w"], strides: Sequence[int]) -> Maps:
    """The pixels themselves as maps: at each stride, a square of so many pixels at every position."""
    x = pixels.float() / 255
    return [F.pixel_unshuffle(_padded(x, stride), stride) for stride in strides]


def _padded(x: Tensor, stride: int) -> Tensor:
    """Sides raised to multiples of the stride by repeating the edge."""
    height, width = (-length % stride for length in x.shape[2:])
    return F.pad(x, (0, width, 0, height), mode="replicate") if height or width else x


class Linear(nn.Module):
    """A linear map of the coarsest features to `out` channels, then bilinear interpolation."""

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(channels[-1], out, 1)

    def forward(self, levels: Maps) -> Float32[Tensor, "b o h w"]:
        """What it says at the positions of the coarsest map."""
        return self.last(levels[-1])


class UPerNet(nn.Module):
    """A head in the style of UPerNet (Xiao et al. 2018, arXiv 1807.10221), narrow and with group norm.

    A pyramid of averages on the coarsest features, a path from coarse to fine that adds them to each finer level, a
    convolution on each level, and one on all of them together.
    """

    def __init__(self, channels: Sequence[int], out: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(_block(channels[-1], WIDTH // 4, 1) for _ in POOLS)
        self.coarsest = _block(channels[-1] + len(POOLS) * (WIDTH // 4), WIDTH, 3)
        self.sides = nn.ModuleList(_block(fan_in, WIDTH, 1) for fan_in in channels[:-1])
        self.smooth = nn.ModuleList(_block(WIDTH, WIDTH, 3) for _ in channels[:-1])
        self.fuse = _block(WIDTH * len(channels), WIDTH, 3)
        self.last = nn.Conv2d(WIDTH, out, 1)

    def forward(self, levels: Maps) -> Float32[Tensor, "b o h w"]:
        """What it says at the positions of the finest map."""
        top = levels[-1]
        pooled = [
            _sized(pool(F.adaptive_avg_pool2d(top, size)), top) for size, pool in zip(POOLS, self.pools, strict=True)
        ]
        down = [self.coarsest(torch.cat([top, *pooled], 1))]
        for side, level in zip(reversed(self.sides), reversed(levels[:-1]), strict=True):
            found = side(level)
            down.append(found + _sized(down[-1], found))
        smoothed = [down[0], *(block(one) for block, one in zip(reversed(self.smooth), down[1:], strict=True))]
        return self.last(self.fuse(torch.cat([_sized(one, smoothed[-1]) for one in smoothed], 1)))


HEADS: dict[str, type[nn.Module]] = {"linear": Linear, "upernet": UPerNet}


def _block(fan_in: int, fan_out: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(fan_in, fan_out, side, padding=side // 2, bias=False), group_norm(fan_out), nn.ReLU()
    )


def _spread(level: Float32[Tensor, "n d h w"]) -> Float32[Tensor, "1 d 1 1"]:
    """Standard deviation of each feature; 1 for one that is hardly ever active, lest it explode on other images."""
    std = level.std((0, 2, 3), keepdim=True)
    return torch.where(std > DEAD * std.max(), std, 1.0)


def _sized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Head:
    """A head with the standardisation of its features, fitted on the maps of the images for fitting.

    `out`: channels, one a class, or one for a number. `loss(found, targets)` gets (b, out, h, w) at the size of the
    targets (b, h, w). Initialisation and order depend on the kind and the number of images alone.
    """

    def __init__(
        self,
        kind: str,
        levels: Maps,
        targets: UInt8[Tensor, "n h w"] | Float32[Tensor, "n h w"],
        out: int,
        loss: Callable[[Tensor, Tensor], Tensor],
        device: str,
    ) -> None:
        if kind not in HEADS:
            raise SpecError(f"a head must be {' or '.join(HEADS)}, found {kind!r}; choose one of them.")
        self.size, self.device = tuple(targets.shape[1:]), device
        self.means = [level.mean((0, 2, 3), keepdim=True) for level in levels]
        self.stds = [_spread(level) for level in levels]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("dense head", kind))
            self.module = HEADS[kind]([level.shape[1] for level in levels], out).to(device)
        each = math.ceil(len(targets) / BATCH)
        epochs = max(EPOCHS[kind], math.ceil(LEAST / each))
        optimizer = torch.optim.AdamW(self.module.parameters(), RATES[kind], weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * each)
        order = torch.Generator().manual_seed(seed_of("dense order", len(targets)))
        for _ in range(epochs):
            for rows in torch.randperm(len(targets), generator=order).split(BATCH):
                optimizer.zero_grad()
                loss(self._of([level[rows] for level in levels]), targets[rows].to(device)).backward()
                optimizer.step()
                schedule.step()

    def _of(self, levels: Maps) -> Float32[Tensor, "b o h w"]:
        standard = [
            ((level - mean) / std).to(self.device)
            for level, mean, std in zip(levels, self.means, self.stds, strict=True)
        ]
        return F.interpolate(self.module(standard), size=self.size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def __call__(self, levels: Maps) -> Float32[Tensor, "n o h w"]:
        """What the head says of every pixel, on the CPU, batch by batch."""
        self.module.eval()
        count = len(levels[0])
        return torch.cat([
            self._of([level[at : at + BATCH] for level in levels]).cpu() for at in range(0, count, BATCH)
        ])  # fmt: skip
