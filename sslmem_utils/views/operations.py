"""What is done: drawn parameters applied to batches of images, equal to torchvision's operations to 1e-5.

Crops that shrink to `ViewSpec.size` are read between four pixels each, as by torchvision's resized_crop with
antialias=False: half the time, and photographs of 256 pixels differ from antialiased crops by 0.3 grey levels (root
mean square) at 224 pixels, 2.7 at 96 with a crop_scale of (.05, .4), and 11 where all shrinks to 64.
Views must be equal to the last bit in any batch. A sample's place in the tensor decides whether a vectorised loop, its
scalar remainder or a strided loop computes it, so everything here is built from operations that IEEE 754 rounds exactly
(multiply, add, divide, minimum, maximum, compare), not from fused ones (`add` with `alpha`, `lerp`, `addcmul`) or
float32 `exp`, for which only the build of PyTorch decides whether those loops agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Shaped
from torch import Tensor

from ..errors import SpecError
from ..specs import ViewSpec
from .parameters import Draw, draw

# Floats that a CPU works on at a time: with fewer, calls cost more than work; with more, caches overflow.
BLOCK = 600_000
LUMA = (0.2989, 0.587, 0.114)  # torchvision's grey value of RGB


def views(images: Tensor, ids: Tensor, spec: ViewSpec, numbers: Tensor, seed: int) -> Float32[Tensor, "n k c h w"]:
    """k views of each image, float32 (n, k, c, h, w) in [0, 1], h = w = `spec.size` if given: `draw` and `apply`."""
    return apply(images, draw(spec, ids, numbers, seed, tuple(images.shape[1:])))


@torch.compiler.disable(recursive=False)  # so that blocks are compiled one by one, not all of them into one program
def apply(images: Tensor, draw: Draw) -> Float32[Tensor, "n k c h w"]:
    """Views float32 (n, k, c, h, w) in [0, 1], of the side drawn, of images (n, c, h, w), uint8 or float in [0, 1].

    Raises SpecError when the images are not of the kind the draw was made for.
    """
    n, k = draw.size
    if images.shape != (n, *draw.shape) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise SpecError(
            f"Images must be uint8 or float of shape {(n, *draw.shape)} as drawn, found {images.dtype} "
            f"{tuple(images.shape)}; draw for these images."
        )
    out = torch.empty((n, k, draw.shape[0], *draw.side), dtype=torch.float32, device=images.device)
    plan = _plan(draw)
    largest = max(1, k * math.prod(out.shape[2:]), math.prod(draw.shape))
    step = max(1, BLOCK // largest) if images.device.type == "cpu" else n
    for start in range(0, n, max(1, step)):
        part = {name: values[start * k : (start + step) * k] for name, values in plan.items()}
        _apply_block(images[start : start + step], part, draw.kernel, out[start : start + step])
    return out


def _counts_rows(x: Tensor) -> bool:
    """Whether to work only on the samples that need it: not where counting them stalls a device or breaks a graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _plan(draw: Draw) -> dict[str, Tensor]:
    """What the blocks need of a draw, one row a view (b = n k), computed for all blocks at once."""
    names = ("crop", "flip", "vertical_flip", "order", "factors", "hue_at", "hue", "grayscale", "sigma", "invert")
    plan = {name: getattr(draw, name).flatten(0, 1) for name in names if getattr(draw, name) is not None}
    if "crop" in plan:
        flips = plan.pop("vertical_flip", None), plan.pop("flip", None)
        crop = plan.pop("crop").to(torch.float32)
        for axis, name in enumerate(("rows", "columns")):
            corner, side = crop[:, axis, None], crop[:, axis + 2, None]
            plan[name] = _sources(corner, side, flips[axis], draw.side[axis], draw.shape[axis + 1])
    if "order" in plan:
        order = plan.pop("order")
        amount = plan.pop("factors").gather(1, order)
        rest = 1 - amount
        plan["blends"] = torch.stack((amount, rest * (order == 1), rest * (order == 2)), 2)
    elif "hue" in plan:
        plan["blends"] = plan["hue"].new_empty(len(plan["hue"]), 0, 3)
    return plan


def _sources(
    corner: Float32[Tensor, "b 1"], side: Float32[Tensor, "b 1"], flip: Bool[Tensor, " b"] | None, size: int, whole: int
) -> Float32[Tensor, "b {size}"]:
    """Where each of `size` output pixels is read along one axis of crops of an image of `whole` pixels, in [-1, 1].

    Kept inside the crop: resizing a crop repeats the crop's edge, not what lies beside it. Flips read backwards.
    Relative to an image padded to a power of two, which makes the way to grid_sample's [-1, 1] and back free of
    rounding.
    """
    place = torch.arange(0.5, size, device=corner.device)
    if flip is not None:
        backwards = flip[:, None].to(torch.float32)
        place = place * (1 - 2 * backwards) + backwards * size
    inside = torch.minimum((side / size * place).sub_(0.5).clamp_(min=0), side - 1)
    return inside.add_(corner).add_(0.5).mul_(2 / _padded(whole)).sub_(1)


def _padded(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def _apply_block(
    images: Shaped[Tensor, "n c _ _"], plan: dict[str, Tensor], kernel: int, out: Float32[Tensor, "n k c h w"]
) -> None:
    """Write the views of some images into `out`."""
    x = out.flatten(0, 1)  # shares memory with out; everything below works in place
    if "rows" in plan:
        _resized_crops(images, plan["rows"], plan["columns"], out)
    else:
        out.copy_(_floats(images, *images.shape[2:])[:, None])
        for name, axis in (("vertical_flip", -2), ("flip", -1)):
            if name in plan:
                _change(x, plan[name], lambda part, axis=axis: part.flip(axis))
    if "blends" in plan or "grayscale" in plan:
        (_colours_by_rows if _counts_rows(x) else _colours_of_all)(x.flatten(2), plan)
    if "sigma" in plan:
        _change(x, plan["sigma"] > 0, lambda part, sigma: _blur(part, sigma, kernel), plan["sigma"])
    if "invert" in plan:
        inverted = plan["invert"][:, None, None].to(torch.float32)
        x.flatten(2).mul_(1 - 2 * inverted).add_(inverted)


def _floats(images: Shaped[Tensor, "n c h w"], height: int, width: int) -> Float32[Tensor, "n c {height} {width}"]:
    """Images (n, c, h, w) as float32 in [0, 1], with zeros added below and on the right up to height and width."""
    n, c, h, w = images.shape
    if (h, w) == (height, width):
        floats = images.to(torch.float32)
    else:
        floats = torch.zeros(n, c, height, width, device=images.device)
        floats[..., :h, :w] = images
    return floats.div_(255) if images.dtype == torch.uint8 else floats


def _change(
    x: Float32[Tensor, "b ..."], active: Bool[Tensor, " b"], change: Callable[..., Tensor], *parameters: Tensor
) -> None:
    """Replace the `active` samples of `x` by `change` of them and their parameters, in place."""
    if _counts_rows(x):
        rows = active.nonzero().squeeze(1)
        if len(rows):
            x.index_copy_(0, rows, change(*(values.index_select(0, rows) for values in (x, *parameters))))
    else:
        x.copy_(torch.where(active.view(-1, *[1] * (x.ndim - 1)), change(x, *parameters), x))


def _resized_crops(
    images: Shaped[Tensor, "n c _ _"],
    rows: Float32[Tensor, "b h"],
    columns: Float32[Tensor, "b w"],
    out: Float32[Tensor, "n k c h w"],
) -> None:
    """Bilinear crops resized to the side of the views, into `out`.

    Where views are as large as the image, crops are never larger, so that torchvision's antialiasing changes nothing.
    """
    n, k, c, h, w = out.shape
    images = _floats(images, *map(_padded, images.shape[2:]))
    sample = _sample_apart if images.device.type == "cpu" else _sample
    crops = sample(images, rows.view(n, -1, 1), columns.view(n, k, w))
    torch.clamp(crops.view(n, c, k, h, w).transpose(1, 2), 0, 1, out=out)  # weights may add up to 1 + 1e-7


def _sample(
    images: Float32[Tensor, "n c _ _"], rows: Float32[Tensor, "n kh 1"], columns: Float32[Tensor, "n k w"]
) -> Float32[Tensor, "n c kh w"]:
    """All views of each image as one tall image, so that the image need not be repeated."""
    n, k, w = columns.shape
    # Pairs (column, row) = (column, 0) + row (0, 1): exact, and written in one go.
    pairs = F.pad(columns[..., None], (0, 1)).view(n, k, 1, 2 * w)
    pairs = torch.addcmul(pairs, rows.view(n, k, -1, 1), torch.arange(2.0, device=rows.device).repeat(w))
    return F.grid_sample(images, pairs.view(n, -1, w, 2), mode="bilinear", padding_mode="border", align_corners=False)


_sample_apart = torch.compiler.disable(_sample)  # compiled for a CPU it takes three times as long


def _colours_by_rows(x: Float32[Tensor, "b c p"], plan: dict[str, Tensor]) -> None:
    """Colour jitter, each sample in its own order, and grayscale, in place, of the samples that have them."""
    if "hue" in plan:  # sorted by when the hue comes, each hue shift is one slice
        rows = plan["hue_at"].argsort()
        passes = plan["blends"].shape[1]
        ends = plan["hue_at"].bincount(minlength=passes + 2).cumsum(0).tolist()[:-1]
        rows = rows[: ends[-1]]
        chosen, hue, blends = (values.index_select(0, rows) for values in (x, plan["hue"], plan["blends"]))
        planes = chosen.unbind(1)
        for at, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                part = [plane[start:end] for plane in planes]
                for plane, shifted in zip(part, _shift_hue(part, hue[start:end]), strict=True):
                    plane.copy_(shifted)
            if at < passes:
                _blend_(planes, blends[:, at])
        x.index_copy_(0, rows, chosen)
    elif "blends" in plan:
        for blend in plan["blends"].unbind(1):
            _blend_(x.unbind(1), blend)
    if "grayscale" in plan:
        _change(x, plan["grayscale"], lambda part: _grey(part.unbind(1))[:, None].expand_as(part))


def _colours_of_all(x: Float32[Tensor, "b c p"], plan: dict[str, Tensor]) -> None:
    """The same where rows are not counted: operations that a sample does not have leave it as it is."""
    planes = [plane.clone() for plane in x.unbind(1)]  # tensors of their own, which a compiler keeps in registers
    blends = plan.get("blends", x.new_empty(len(x), 0, 3))
    if "hue" in plan:  # between two rounds of blends, which cost less than the hue
        nothing = torch.tensor([1.0, 0.0, 0.0], device=x.device)
        early = (plan["hue_at"][:, None] > torch.arange(blends.shape[1], device=x.device))[..., None]
        for blend in torch.where(early, blends, nothing).unbind(1):
            _blend_(planes, blend)
        shifted = _shift_hue(planes, plan["hue"])
        on = (plan["hue_at"] <= blends.shape[1])[:, None]
        planes = [torch.where(on, new, plane) for new, plane in zip(shifted, planes, strict=True)]
        blends = torch.where(early, nothing, blends)
    for blend in blends.unbind(1):
        _blend_(planes, blend)
    if "grayscale" in plan:
        grey = _grey(planes)
        planes = [torch.where(plan["grayscale"][:, None], grey, plane) for plane in planes]
    x.copy_(torch.stack(planes, 1))


def _grey(planes: Sequence[Float32[Tensor, "b p"]]) -> Float32[Tensor, "b p"]:
    """Grey values of grey or RGB images, given as planes."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = planes
    return (red * LUMA[0]).add_(green * LUMA[1]).add_(blue * LUMA[2])


def _blend_(planes: Sequence[Float32[Tensor, "b p"]], blend: Float32[Tensor, "b 3"]) -> None:
    """x = clamp(amount x + of_mean mean(grey) + of_grey grey), in place, `blend` being the three factors.

    Brightness, contrast and saturation are all a x + (1 - a) r, with r = 0, the mean grey value and the grey value, so
    that one pass does a different one of them to every sample.
    """
    amount, of_mean, of_grey = blend[..., None].unbind(1)
    base = _grey(planes)
    mean = base.mean(1, keepdim=True).mul_(of_mean)
    base = base.mul_(of_grey).add_(mean) if len(planes) == 3 else mean
    for plane in planes:
        plane.mul_(amount).add_(base).clamp_(0, 1)


def _shift_hue(planes: Sequence[Float32[Tensor, "b p"]], shift: Float32[Tensor, " b"]) -> list[Float32[Tensor, "b p"]]:
    """The planes of RGB images with the hue rotated by `shift` turns.

    Without branches: with H the angular distance from red in sixths of a turn, H (max - min) equals
    g + b - r + max - 2 min in every sector, and the sign of g - b tells the side. A rotated channel is the maximum
    where the hue is within 1/6 turn of its own colour, the minimum beyond 2/6, and linear in between.
    """
    red, green, blue = planes
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    span = high - low
    angle = (green + blue).sub_(red).add_(high).sub_(low * 2).div_(span.clamp(min=1e-20)).mul_(1 / 6)
    angle.copysign_(green - blue)
    slope, start = span * -6, span.mul(2).add_(low)
    found = []
    for own in (0.0, 1 / 3, 2 / 3):
        away = angle + (shift - own)[:, None]  # turns from the channel's own colour
        found.append(away.sub_(away.round()).abs_().mul_(slope).add_(start).clamp_(low, high))
    return found


def _blur(x: Float32[Tensor, "b c h w"], sigma: Float32[Tensor, " b"], kernel: int) -> Float32[Tensor, "b c h w"]:
    """Gaussian blur with `sigma` pixels and reflected borders, one axis after the other."""
    half = kernel // 2
    offset = torch.arange(-half, half + 1, device=x.device, dtype=torch.float64)
    weights = (offset / sigma[:, None].double()).square_().mul_(-0.5).exp_()
    weights = (weights / weights.sum(1, keepdim=True)).to(torch.float32)[:, None, None, None]  # (b, 1, 1, 1, kernel)
    x = F.pad(x, (half, half, half, half), mode="reflect")
    for axis in (-2, -1):
        side = x.shape[axis] - 2 * half
        x = sum(x.narrow(axis, i, side) * weights[..., i] for i in range(kernel))
    return x.clamp_(0, 1)
