"""Exact nearest neighbours, in chunks."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ..errors import DataError, SpecError

QUERIES, BANK = 256, 8192  # rows of one chunk of distances


def nearest(
    queries: Float32[Tensor, "n d"], bank: Float32[Tensor, "m d"], k: int, chunks: tuple[int, int] = (QUERIES, BANK)
) -> tuple[Float32[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Euclidean distances to the k nearest rows of the bank, and their positions, from the nearest on.

    Exact: every distance is computed from the differences, not from products, and equal ones stand in the order of the
    bank, so that `chunks` change nothing. SpecError for k above the bank, DataError for features that are not finite.
    """
    if not 1 <= k <= len(bank):
        raise SpecError(f"k must be 1 to {len(bank)}, the images of the public set, found {k}; lower k or the sets.")
    if not (queries.isfinite().all() and bank.isfinite().all()):
        raise DataError("the representation of some image is not finite; this encoder cannot be attacked.")
    parts = [_nearest(some, bank, k, chunks[1]) for some in queries.split(chunks[0])]
    return torch.cat([near for near, _ in parts]), torch.cat([at for _, at in parts])


def _nearest(queries: Tensor, bank: Tensor, k: int, step: int) -> tuple[Tensor, Tensor]:
    near = torch.empty(len(queries), 0, device=queries.device)
    at = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(bank), step):
        part = bank[start : start + step]
        distances = torch.cdist(queries, part, compute_mode="donot_use_mm_for_euclid_dist")
        places = torch.arange(start, start + len(part), device=bank.device).expand(len(queries), -1)
        near, at = torch.cat([near, distances], 1), torch.cat([at, places], 1)
        near, order = near.sort(dim=1, stable=True)  # earlier rows stand before later ones that are as far
        near, at = near[:, :k], at.gather(1, order[:, :k])
    return near, at
