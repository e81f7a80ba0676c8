"""What is drawn: the parameters of every view, from counter-based uniform numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from ..errors import SpecError
from ..specs import ViewSpec
from .counter import uniform

CROP_TRIES = 10  # as in torchvision
# Slots of the counter. Fixed, so that switching one operation on leaves the draws of all others as they were.
SLOTS = {
    "flip": range(0, 1),
    "vertical_flip": range(1, 2),
    "grayscale": range(2, 3),
    "invert": range(3, 4),
    "blur": range(4, 6),  # whether, sigma
    "jitter": range(6, 12),  # whether, order, brightness, contrast, saturation, hue
    "crop": range(16, 16 + 2 + 2 * CROP_TRIES),  # top, left, then area and aspect ratio of each try
}
MASK = 64  # first of the slots of masks
LINEAR = ("brightness", "contrast", "saturation")  # columns of Draw.factors
ORDERS = tuple(itertools.permutations((*LINEAR, "hue")))


def view_shape(spec: ViewSpec, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels, height and width of the views of images of `shape` (c, h, w)."""
    return (shape[0], *(shape[1:] if spec.size is None else (spec.size, spec.size)))


@dataclass(frozen=True)
class Draw:
    """Parameters of k views of each of n images of `shape` (c, h, w); None marks an operation that is switched off.

    `side`: height and width of the views. `crop`: top, left, height, width in pixels of the image. `factors`:
    brightness, contrast, saturation; 1 where not applied. `order`: columns of `factors` in the order of application.
    `hue`: shift in turns, applied after the first `hue_at` of `order`; `hue_at` is o + 1 where the jitter is off.
    `sigma`: of the blur, in pixels of the view, with a kernel of `kernel` pixels; 0 where off.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int]  # n, k
    side: tuple[int, int]
    crop: Int64[Tensor, "n k 4"] | None = None
    flip: Bool[Tensor, "n k"] | None = None
    vertical_flip: Bool[Tensor, "n k"] | None = None
    order: Int64[Tensor, "n k o"] | None = None
    factors: Float32[Tensor, "n k 3"] | None = None
    hue_at: Int64[Tensor, "n k"] | None = None
    hue: Float32[Tensor, "n k"] | None = None
    grayscale: Bool[Tensor, "n k"] | None = None
    sigma: Float32[Tensor, "n k"] | None = None
    kernel: int = 0
    invert: Bool[Tensor, "n k"] | None = None


def draw(spec: ViewSpec, ids: Tensor, numbers: Tensor, seed: int, shape: tuple[int, int, int]) -> Draw:
    """Draw the parameters of k views of each of n images of `shape` (c, h, w), on the device of `ids`.

    `ids` int64 (n,) names the images for good, `numbers` int64 (n, k) or (k,) their views; `seed` comes from
    specs.seed_of. Raises SpecError where the spec does not suit the shape.
    """
    side = view_shape(spec, shape)[1:]
    _check(spec, shape[0], side)
    active = _active(spec, colour=shape[0] == 3)
    numbers = numbers.to(ids.device)
    size = (len(ids), numbers.shape[-1])
    # Nine in ten crops fit at the first try. The other tries are drawn where needed if that saves more than it costs.
    tries = 1 if ids.device.type == "cpu" and size[0] * size[1] > 1000 else CROP_TRIES
    slots = {**SLOTS, "crop": SLOTS["crop"][: 2 + 2 * tries]}
    numbers_of = uniform(seed, ids, numbers, [slot for name in active for slot in slots[name]])
    numbers_of = numbers_of.split([len(slots[name]) for name in active], -1) if active else ()
    found: dict[str, Tensor] = {}
    for name, u in zip(active, numbers_of, strict=True):
        if name == "crop":
            more = partial(_more_tries, seed, ids, numbers, slots=SLOTS["crop"][2 + 2 * tries :])
            found["crop"] = _crop(spec, u, more if tries < CROP_TRIES else None, tuple(shape[1:]))
        elif name == "jitter":
            found.update(_jitter(spec, u, colour=shape[0] == 3))
        elif name == "blur":
            low, high = spec.blur_sigma
            found["sigma"] = (u[..., 1] * (high - low) + low) * (u[..., 0] < spec.blur)
        else:
            found[name] = u[..., 0] < getattr(spec, name)
    if "crop" not in found and side != tuple(shape[1:]):
        found["crop"] = torch.tensor([0, 0, *shape[1:]], device=ids.device).expand(*size, 4)
    return Draw(shape=tuple(shape), size=size, side=side, kernel=spec.blur_kernel if spec.blur else 0, **found)


def _check(spec: ViewSpec, channels: int, side: tuple[int, int]) -> None:
    if channels not in (1, 3):
        asked = [name for name in (*LINEAR, "hue") if spec.jitter and getattr(spec, name)]
        asked += ["grayscale"] if spec.grayscale else []
        if asked:
            raise SpecError(
                f"Images must have 1 or 3 channels for {' and '.join(asked)}, found {channels}; set them to 0."
            )
    if spec.blur and spec.blur_kernel // 2 >= min(side):
        raise SpecError(
            f"blur_kernel must be below {2 * min(side)} for views of {side[0]} x {side[1]} pixels, "
            f"found {spec.blur_kernel}; lower it."
        )


def changes(spec: ViewSpec, channels: int = 3) -> bool:
    """Whether two views of an image of so many channels can differ."""
    return bool(_active(spec, channels == 3) or spec.mask)


def _active(spec: ViewSpec, colour: bool) -> list[str]:
    """Operations that can change an image; on grey ones saturation, hue and grayscale do nothing, as in torchvision."""
    strengths = [spec.brightness, spec.contrast, *([spec.saturation, spec.hue] if colour else [])]
    on = {
        "crop": (spec.crop_scale, spec.crop_ratio) != ((1.0, 1.0), (1.0, 1.0)),
        "flip": spec.flip,
        "vertical_flip": spec.vertical_flip,
        "grayscale": spec.grayscale if colour else 0,
        "invert": spec.invert,
        "blur": spec.blur,
        "jitter": spec.jitter if any(strengths) else 0,
    }
    return [name for name, value in on.items() if value]


def _crop(
    spec: ViewSpec, u: Float32[Tensor, "n k s"], more: Callable[[Tensor], Tensor] | None, size: tuple[int, int]
) -> Int64[Tensor, "n k 4"]:
    """torchvision's RandomResizedCrop.get_params: the first of ten boxes that fits, else a central one.

    `more` draws the tries that `u` does not hold, for the views of given rows.
    """
    corner, tries = u.flatten(0, 1).double().split([2, u.shape[-1] - 2], -1)
    sides, fits = _first_fit(spec, tries, size)
    if more is not None:
        rows = fits.logical_not().flatten().nonzero().squeeze(1)
        sides[rows], fits[rows] = _first_fit(spec, more(rows).double(), size)
    whole, central = torch.tensor([size, _central(spec, *size)], dtype=torch.float64).to(u.device)
    sides = torch.where(fits, sides, central)
    room = whole - sides
    corner = torch.where(fits, corner * (room + 1), room / 2).floor_()
    return torch.cat((corner, sides), -1).to(torch.int64).unflatten(0, u.shape[:2])


def _more_tries(
    seed: int, ids: Tensor, numbers: Tensor, rows: Int64[Tensor, " b"], slots: range
) -> Float32[Tensor, "b s"]:
    """Uniform numbers of these `rows` of the n k views."""
    k = numbers.shape[-1]
    return uniform(seed, ids[rows // k], numbers.expand(len(ids), k).flatten()[rows, None], slots).squeeze(1)


def _first_fit(
    spec: ViewSpec, u: Float64[Tensor, "b s"], size: tuple[int, int]
) -> tuple[Float64[Tensor, "b 2"], Bool[Tensor, "b 1"]]:
    """Height and width of the first of the boxes drawn by `u` that fits, and whether one does.

    In float64, so that a last-bit difference of `exp` between devices cannot move a rounded side.
    """
    area = size[0] * size[1]
    (low, high), (narrow, wide) = spec.crop_scale, (math.log(ratio) / 2 for ratio in spec.crop_ratio)
    start, span = torch.tensor([[low * area, narrow], [(high - low) * area, wide - narrow]], dtype=u.dtype).to(u.device)
    side, stretch = (u.unflatten(1, (-1, 2)) * span + start).unbind(-1)
    side, stretch = side.sqrt(), stretch.exp()  # a side stretches by the root of the aspect ratio
    sides = torch.stack((side / stretch, side * stretch), -1).round_()
    fits = ((sides > 0) & (sides <= torch.tensor(size, device=u.device))).all(-1)
    first = fits.to(torch.uint8).argmax(1)  # of equal maxima the first
    return sides.take_along_dim(first[:, None, None], 1).squeeze(1), fits.any(1, keepdim=True)


def _central(spec: ViewSpec, height: int, width: int) -> list[int]:
    """Height and width of torchvision's fallback crop: the whole image, cut to the allowed aspect ratios."""
    narrow, wide = spec.crop_ratio
    if width / height < narrow:
        return [round(width / narrow), width]
    if width / height > wide:
        return [height, round(height * wide)]
    return [height, width]


def _jitter(spec: ViewSpec, u: Float32[Tensor, "n k 6"], colour: bool) -> dict[str, Tensor]:
    """Factors of the colour jitter and the order of its operations: one of the 24 permutations, as in torchvision."""
    on = u[..., 0] < spec.jitter
    strengths = [getattr(spec, name) if colour or name != "saturation" else 0.0 for name in LINEAR]
    used = [name for name, strength in zip(LINEAR, strengths, strict=True) if strength]
    # One row a permutation: the used linear operations in its order, then how many of them come before the hue.
    table = [
        [LINEAR.index(name) for name in order if name in used] + [sum(o in used for o in order[: order.index("hue")])]
        for order in ORDERS
    ]
    chosen = torch.tensor(table, device=u.device)[(u[..., 1] * len(ORDERS)).to(torch.int64)]
    found: dict[str, Tensor] = {}
    if used:
        low = torch.tensor([max(0.0, 1.0 - strength) for strength in strengths], device=u.device)
        high = torch.tensor([1.0 + strength for strength in strengths], device=u.device)
        found["order"] = chosen[..., :-1]
        found["factors"] = torch.where(on[..., None], u[..., 2:5] * (high - low) + low, 1.0)
    if colour and spec.hue:
        found["hue_at"] = torch.where(on, chosen[..., -1], len(used) + 1)
        found["hue"] = (u[..., 5] * (2 * spec.hue) - spec.hue) * on
    return found
