"""`load`: a `DatasetSpec` to an `ImageSet`."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ..errors import SpecError
from ..specs import DatasetSpec, digest
from . import cache, registry, sources
from .decoding import square
from .imageset import ImageSet, identify
from .threads import in_order

_SHUFFLE = 0x9E3779B97F4A7C15  # seeds the shuffle behind `limit`, and nothing else
_LARGEST_RESIZED = 4 << 30  # bytes
_resized: dict[str, Tensor] = {}  # the last one


def load(spec: DatasetSpec | None = None) -> ImageSet:
    """The images that `spec` describes (default: all of digits), in the order of the dataset.

    `limit` takes equally many images of each class, where they last: those that come first in a shuffle that depends on
    the ids of the images alone, so that a smaller limit is a subset of a larger one. Labels are positions in `.classes`
    also where `classes` left some out. The fingerprint is the dataset's own when nothing was selected or resized, else
    derived from it and the options. No image is read before it is asked for, but with a `size` that is not the
    dataset's own all are resized into memory. SpecError for an unknown dataset, part or class, or for a `size` that
    would take more than 4 GiB; DataError for a dataset that is damaged, or neither here nor downloadable.
    """
    spec = spec or DatasetSpec()
    meta, images, labels, index = _base(spec.name)
    options: dict[str, object] = {}
    rows = np.arange(len(labels))
    start, stop = _part(meta, spec.part)
    if (start, stop) != (0, len(rows)):
        rows, options["part"] = rows[start:stop], spec.part
    classes = meta["classes"]
    if spec.classes:
        classes = _classes(spec, classes)
        old = [meta["classes"].index(name) for name in classes]
        rows, options["classes"] = rows[np.isin(labels[rows], old)], classes
        labels = _renumber(labels, old)
    if spec.limit is not None and spec.limit < len(rows):
        rows, options["limit"] = rows[_balanced(labels[rows], identify(index[rows]), spec.limit)], spec.limit
    if not len(rows):
        raise SpecError(f"{spec.name} has no image of {', '.join(classes)} in part {spec.part!r}; choose others.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a map for reading only, see cache: nothing here writes into it
        pixels = torch.from_numpy(images)
    places = torch.from_numpy(rows)
    chosen = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows  # a slice copies nothing
    if spec.size is not None and tuple(pixels.shape[2:]) != (spec.size, spec.size):
        options["size"] = spec.size
    fingerprint = digest(meta["fingerprint"], options) if options else meta["fingerprint"]
    if "size" in options:
        if fingerprint not in _resized:  # f, g and their scores each load the same images
            _check_memory(spec, len(rows) * pixels.shape[1])
            _resized.clear()
            _resized[fingerprint] = resize(pixels, places, spec.size)
        pixels, places = _resized[fingerprint], torch.arange(len(rows))
    return ImageSet(
        name=spec.name,
        pixels=pixels,
        places=places,
        labels=torch.from_numpy(labels[chosen]),
        index=index[chosen],
        classes=tuple(classes),
        fingerprint=fingerprint,
        notes=tuple(meta["notes"]),
    )


def _check_memory(spec: DatasetSpec, planes: int) -> None:
    needed = planes * spec.size**2
    if needed > _LARGEST_RESIZED:
        raise SpecError(
            f"Resizing {spec.name} to {spec.size} pixels would take {needed / 1e9:.0f} GB of memory; import its images "
            f"with --size {spec.size} under another name, or set the size of the view instead."
        )


def _base(name: str) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    """The cached dataset, built first when the registry knows it and nothing is cached."""
    if (cached := cache.read(name)) is None:
        entry = registry.entries().get(name)
        if entry is None:
            raise registry.unknown(name, cache.names())
        with cache.locked(name):
            if (cached := cache.read(name)) is None:
                sources.build(entry)
                cached = cache.read(name)
    assert cached is not None
    return cached


def _part(meta: dict, part: str) -> tuple[int, int]:
    """First and last-but-one row of a part; val stands in for a missing test, as is usual for ImageNet."""
    parts = meta["parts"]
    if part == "all":
        return 0, meta["images"]
    if part == "test" and "test" not in parts and "val" in parts:
        part = "val"
    if part not in parts:
        raise SpecError(
            f"{meta['name']} has no part {part!r}; it has {', '.join(parts) or 'no parts'}, and 'all' takes everything."
        )
    return tuple(parts[part])


def _classes(spec: DatasetSpec, known: list[str]) -> list[str]:
    """The chosen classes in the dataset's order."""
    if unknown := [name for name in spec.classes if name not in known]:
        names = f"{', '.join(known[:20])}{' ...' if len(known) > 20 else ''}" if known else "no classes"
        raise SpecError(f"{spec.name} has no class {unknown[0]!r}; it has {names}.")
    return [name for name in known if name in spec.classes]


def _renumber(labels: Int64[np.ndarray, " n"], old: list[int]) -> Int64[np.ndarray, " n"]:
    new = np.full(labels.shape, -1, np.int64)
    for number, label in enumerate(old):
        new[labels == label] = number
    return new


def _balanced(labels: Int64[np.ndarray, " n"], ids: Int64[np.ndarray, " n"], limit: int) -> Int64[np.ndarray, " m"]:
    """Ascending positions of `limit` images: round by round, the next image of each class in shuffled order."""
    keys = _mix(ids)
    order = np.lexsort((ids, keys, labels))  # by class, then shuffled
    first = np.r_[True, np.diff(labels[order]) != 0]
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    rounds = np.lexsort((keys[order], rank))
    return np.sort(order[rounds[:limit]])


def _mix(ids: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Shuffled 64-bit keys (splitmix64; Steele et al. 2014): equal on every machine and version of NumPy."""
    z = ids.astype(np.uint64) + np.uint64(_SHUFFLE)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def resize(
    images: UInt8[Tensor, "m c h w"], places: Int64[Tensor, " n"], size: int
) -> UInt8[Tensor, "n c {size} {size}"]:
    """The centred squares of the images at `places`, at `size` pixels: by Pillow, so equal on all machines."""
    from PIL.Image import fromarray

    pixels = images.numpy().transpose(0, 2, 3, 1)
    out = np.empty((len(places), images.shape[1], size, size), np.uint8)

    def some(start: int) -> None:
        batch = np.ascontiguousarray(pixels[places[start : start + 256].numpy()])
        for row, image in enumerate(batch[..., 0] if batch.shape[3] == 1 else batch, start):
            fitted = np.asarray(square(fromarray(image), size))
            out[row] = fitted if fitted.ndim == 2 else fitted.transpose(2, 0, 1)

    for _ in in_order(some, range(0, len(out), 256), 1 if pixels[0].size < 96 * 96 else 8):
        pass
    return torch.from_numpy(out)
