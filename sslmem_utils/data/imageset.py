"""`ImageSet`: what every other module sees of a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from ..specs import digest


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with labels and stable identities; row i of every field belongs to the same image.

    `images` lie over a private memory map where nothing had to be selected or resized: writing into them never reaches
    the file. `labels` are positions in `classes`, -1 for none. `index` is the official index (int64) or the relative
    path (str). `fingerprint` changes with any image, label, index or row order. `notes` say what an import skipped or
    changed.
    """

    name: str
    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    index: Shaped[np.ndarray, " n"]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def ids(self) -> Int64[Tensor, " n"]:
        """The official index, or 62 bits of the SHA-256 of the relative path."""
        return torch.from_numpy(identify(self.index))

    def take(self, rows: Sequence[int] | np.ndarray | Tensor) -> ImageSet:
        """The images at `rows` (m,), in that order, copied out of the memory map."""
        plain = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        chosen = np.array(plain, dtype=np.int64)  # a copy: torch warns about arrays it may not write to
        where = torch.from_numpy(chosen)
        return replace(
            self,
            images=self.images[where],
            labels=self.labels[where],
            index=self.index[chosen],
            fingerprint=digest(self.fingerprint, "rows", hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()),
        )


def identify(index: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Ids of an index: itself when it is the official one, else 62 bits of the SHA-256 of each path."""
    if index.dtype.kind == "i":
        return index.astype(np.int64)
    hashes = (hashlib.sha256(path.encode()).digest()[:8] for path in index.tolist())
    return np.fromiter((int.from_bytes(hash_, "big") >> 2 for hash_ in hashes), np.int64, len(index))
