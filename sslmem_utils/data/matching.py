"""Official indices for copies of official images (JPEG versions, renamed files), by nearest pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ..errors import DataError


class Match(NamedTuple):
    """For each copy: the row of the nearest official image, how far it is, and how much farther the second is.

    Distances are root mean square differences in grey levels (0 to 255). Trust a row whose margin exceeds its distance.
    """

    rows: Int64[Tensor, " n"]
    distance: Float[Tensor, " n"]
    margin: Float[Tensor, " n"]


def match(copies: UInt8[Tensor, "n c h w"], official: UInt8[Tensor, "m _ _ _"], chunk: int = 2048) -> Match:
    """The nearest of `official` (m >= 2) for each of `copies`, by exact L2, on the device of `copies`.

    Costs n * m * c * h * w multiplications: match class by class where the labels are known. DataError when the shapes
    of the images differ.
    """
    if copies.shape[1:] != official.shape[1:] or len(official) < 2:
        raise DataError(
            f"Copies and at least two official images must agree in (c, h, w), found {tuple(copies.shape)} and "
            f"{tuple(official.shape)}; import the copies with the size of the official images."
        )
    rows, distances, margins = [], [], []
    for some in copies.split(chunk):
        near = torch.full((len(some), 0), 0.0, device=some.device)
        where = torch.zeros((len(some), 0), dtype=torch.int64, device=some.device)
        for start in range(0, len(official), chunk):
            there = official[start : start + chunk].to(some.device)
            # float64: sums of squares up to 255^2 c h w stay exact, so that equal images have distance 0
            far = torch.cdist(_flat(some), _flat(there), compute_mode="use_mm_for_euclid_dist")
            near = torch.cat((near, far), 1)
            where = torch.cat((where, torch.arange(start, start + len(there), device=some.device).expand_as(far)), 1)
            near, best = near.topk(2, largest=False) if near.shape[1] > 1 else (near, torch.zeros_like(where))
            where = where.gather(1, best)
        scale = some[0].numel() ** 0.5
        rows.append(where[:, 0])
        distances.append(near[:, 0] / scale)
        margins.append((near[:, 1] - near[:, 0]) / scale)
    return Match(torch.cat(rows), torch.cat(distances), torch.cat(margins))


def _flat(images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
    return images.flatten(1).double()
