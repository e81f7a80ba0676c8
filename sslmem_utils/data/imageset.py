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

    Row i is image `places[i]` of `pixels`, which lie over a memory map of the whole dataset: choosing a part, classes,
    a limit or rows copies no image. Where a set may be larger than memory, read it with `rows`, or hand on `pixels` and
    `places` and `gather` batch by batch. `labels` are positions in `classes`, -1 for none. `index` is the official
    index (int64) or the relative path (str). `fingerprint` changes with any image, label, index or row order. `notes`
    say what an import skipped or changed.
    """

    name: str
    pixels: UInt8[Tensor, "m c h w"]
    places: Int64[Tensor, " n"]
    labels: Int64[Tensor, " n"]
    index: Shaped[np.ndarray, " n"]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return tuple(self.pixels.shape[1:])

    @cached_property
    def images(self) -> UInt8[Tensor, "n c h w"]:
        """All images as one tensor: over the memory map where the rows follow each other, else copied into memory.

        Writing into it never reaches the file.
        """
        first = int(self.places[0]) if len(self) else 0
        if torch.equal(self.places, torch.arange(first, first + len(self))):
            return self.pixels[first : first + len(self)]
        return gather(self.pixels, self.places)

    def rows(self, at: Sequence[int] | np.ndarray | Tensor) -> UInt8[Tensor, "b c h w"]:
        """The images at rows `at` (b,), in that order: a copy that reads no others."""
        return gather(self.pixels, self.places[_positions(at)])

    @cached_property
    def ids(self) -> Int64[Tensor, " n"]:
        """The official index, or 62 bits of the SHA-256 of the relative path."""
        return torch.from_numpy(identify(self.index))

    def take(self, rows: Sequence[int] | np.ndarray | Tensor) -> ImageSet:
        """The set of the images at `rows` (b,), in that order."""
        chosen = _positions(rows)
        numbers = chosen.numpy()
        return replace(
            self,
            places=self.places[chosen],
            labels=self.labels[chosen],
            index=self.index[numbers],
            fingerprint=digest(self.fingerprint, "rows", hashlib.sha256(numbers.astype("<i8").tobytes()).hexdigest()),
        )


def gather(pixels: UInt8[Tensor, "m c h w"], places: Int64[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
    """The images at `places` of `pixels` (on the CPU): a copy that reads no others, by NumPy.

    Equal to pixels[places], which takes 9 times as long for images of 256 pixels.
    """
    return torch.from_numpy(pixels.numpy()[places.numpy()])


def _positions(rows: Sequence[int] | np.ndarray | Tensor) -> Int64[Tensor, " b"]:
    plain = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
    return torch.from_numpy(np.array(plain, dtype=np.int64))  # a copy: torch warns about arrays it may not write to


def identify(index: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Ids of an index: itself when it is the official one, else 62 bits of the SHA-256 of each path."""
    if index.dtype.kind == "i":
        return index.astype(np.int64)
    hashes = (hashlib.sha256(path.encode()).digest()[:8] for path in index.tolist())
    return np.fromiter((int.from_bytes(hash_, "big") >> 2 for hash_ in hashes), np.int64, len(index))
