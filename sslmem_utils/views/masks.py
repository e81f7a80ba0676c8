"""Which patches of each view are hidden from the encoder: single ones, one block, or a lattice."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..errors import SpecError
from ..specs import ViewSpec
from .counter import uniform
from .parameters import MASK, view_shape

BLOCK_RATIO = (0.3, 1 / 0.3)  # height over width of a block, drawn log-uniformly (BEiT, Bao et al., arXiv 2106.08254)


def mask(spec: ViewSpec, ids: Tensor, numbers: Tensor, seed: int, shape: tuple[int, int, int]) -> Bool[Tensor, "n k t"]:
    """Hidden patches: bool (n, k, t), True = hidden from the encoder, round(mask t) of the t patches of each view.

    `shape` (c, h, w) is that of the images; patches are those of the view, numbered row by row. "random" hides single
    patches, "block" one connected region: a rectangle of random shape and place that lacks a part of its first or last
    row so that the count is exact. "grid" hides a lattice at a random offset: at .75 all but one of every 2 x 2 patches
    (He et al., arXiv 2111.06377, figure 6), at .5 a checkerboard; other shares lie between two such lattices.
    Raises SpecError when the patch does not divide the view or none stays visible.
    """
    _, height, width = view_shape(spec, shape)
    patch = spec.mask_patch
    if height % patch or width % patch:
        raise SpecError(f"mask_patch must divide the view's sides {height} and {width}, found {patch}; use a divisor.")
    rows, columns = height // patch, width // patch
    hidden = round(spec.mask * rows * columns)
    if hidden == rows * columns:
        raise SpecError(
            f"mask must leave a visible patch, found {spec.mask:g} of {hidden} patches; lower it or mask_patch."
        )
    kind = {"random": _random, "block": _block, "grid": _grid}[spec.mask_kind]
    return kind(rows, columns, hidden, ids, numbers, seed)


def _random(rows: int, columns: int, hidden: int, ids: Tensor, numbers: Tensor, seed: int) -> Bool[Tensor, "n k t"]:
    return _first(uniform(seed, ids, numbers, range(MASK, MASK + rows * columns)), hidden)


def _first(keys: Tensor, hidden: int) -> Bool[Tensor, "n k t"]:
    """The patches with the `hidden` smallest keys."""
    chosen = keys.argsort(dim=-1, stable=True)[..., :hidden]  # stable: equal keys fall alike on every device
    return torch.zeros(keys.shape, dtype=torch.bool, device=keys.device).scatter_(-1, chosen, True)


def _block(rows: int, columns: int, hidden: int, ids: Tensor, numbers: Tensor, seed: int) -> Bool[Tensor, "n k t"]:
    u = uniform(seed, ids, numbers, range(MASK, MASK + 4)).double()
    low, high = (math.log(ratio) / 2 for ratio in BLOCK_RATIO)
    wide = (hidden**0.5 / (u[..., :1] * (high - low) + low).exp()).round_().to(torch.int64)
    wide = wide.clamp_(max(1, -(-hidden // rows)), columns)
    tall = (hidden + wide - 1) // wide
    missing = wide * tall - hidden  # fewer than one row
    # The place of every row and column of the view in the rectangle.
    down = torch.arange(rows, device=ids.device) - (u[..., 1:2] * (rows - tall + 1)).to(torch.int64)
    along = torch.arange(columns, device=ids.device) - (u[..., 2:3] * (columns - wide + 1)).to(torch.int64)
    inside = ((down >= 0) & (down < tall))[..., None] & ((along >= 0) & (along < wide))[..., None, :]
    corner = (u[..., 3:] * 4).to(torch.int64)  # where patches are left out: first or last row, left or right
    row = down == torch.where(corner < 2, 0, tall - 1)
    end = torch.where(corner % 2 == 0, along, wide - 1 - along) < missing
    return (inside & ~(row[..., None] & end[..., None, :])).flatten(-2)


def _grid(rows: int, columns: int, hidden: int, ids: Tensor, numbers: Tensor, seed: int) -> Bool[Tensor, "n k t"]:
    bits = (max(rows, columns) - 1).bit_length()
    offset = (uniform(seed, ids, numbers, range(MASK, MASK + 2)).double() * 2**bits).to(torch.int64)
    down = (torch.arange(rows, device=ids.device) + offset[..., :1]) % 2**bits
    along = (torch.arange(columns, device=ids.device) + offset[..., 1:]) % 2**bits
    return _first(-_dithered(down[..., :, None], along[..., None, :], bits).flatten(-2), hidden)


def _dithered(down: Int64[Tensor, "..."], along: Int64[Tensor, "..."], bits: int) -> Int64[Tensor, "..."]:
    """Bayer's ordered dither of 2^bits x 2^bits places: the first quarter is one of every 2 x 2, the first half a
    checkerboard, the first 16th one of every 4 x 4, and so on."""
    order = torch.zeros_like(down + along)
    for bit in range(bits):
        one, other = down >> bit & 1, along >> bit & 1
        order = order * 4 + (one ^ other) * 2 + one
    return order
