"""Pictures for the explorer: one sheet of thumbnails a dataset, and the views that its scores were measured with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...data import cache, registry, sources
from ...errors import SSLMemError
from ...specs import SETS, DatasetSpec, EncoderSpec, SplitSpec, ViewSpec, seed_of
from .series import SPLIT, Series

SHOWN = 4  # views of an image, the first of those that were compared
VIEWED = 500  # images of a series that have views, at most: candidates first, then independents, shared, external
SIDE = 64  # pixels of a thumbnail's side, at most
COLUMNS = 40  # thumbnails in a row of a sheet
HIDDEN = 128  # grey of the patches that a mask hides
ORDER = ("candidate", "independent", "shared", "external")
assert set(ORDER) == set(SETS)


def missing(name: str) -> str:
    """Why the images of a dataset cannot be shown; "" where they are on this machine. Downloads nothing."""
    if cache.describe(name) is not None:
        return ""
    entry = registry.entries().get(name)
    if entry is not None and sources.found(entry):
        return ""
    title = entry.title if entry else name
    return (
        f"The images of {title} were not on the machine that built this page, so there are numbers without pictures. "
        f"With them in place (`sslmem data import {name} PATH`), build the book again."
    )


def images_of(name: str) -> Any:
    """The images of a dataset, which `missing` says are here."""
    from ... import data

    return data.load(DatasetSpec(name=name))


def recipe_of(series: Series) -> tuple[DatasetSpec, SplitSpec, ViewSpec]:
    """Images, split and views of the experiment that a series comes from."""
    given = series.recipe
    if "view" in given:
        return DatasetSpec(**given["dataset"]), SplitSpec(**given["split"]), ViewSpec(**given["view"])
    from ... import recipes

    sizes = {name: given[name] for name in ("candidate", "shared", "external")}
    encoder = EncoderSpec(name=given["encoder"], options=given.get("options", {}))
    spec = recipes.recipe(series.dataset, method=given["method"], encoder=encoder, **sizes)
    return spec.dataset, spec.split.but(seed=SPLIT), spec.view


def other_images(series: Series, images: Any) -> str:
    """Why the images on this machine cannot be those that were scored; "" where they give the very sets of the table.

    A split depends on every image and label, so that another import of a dataset gives other sets.
    """
    from ... import splits

    spec, cut, _ = recipe_of(series)
    try:
        found = splits.draw(images.labels.numpy(), cut, dataset=spec.name, fingerprint=images.fingerprint).names()
    except SSLMemError:
        found = {}
    table = series.table
    if all(found.get(row) == name for row, name in zip(table["row"], table["set"], strict=True)):
        return ""
    return (
        f"The images called {series.dataset} on the machine that built this page are others than those that were "
        "scored, so there are numbers without pictures."
    )


def viewed(series: Series) -> NDArray[np.int64]:
    """Rows of the images of a series that have views."""
    place = series.table["set"].map(ORDER.index)
    return series.table["row"].to_numpy()[np.argsort(place, kind="stable")][:VIEWED]


def views_of(series: Series, images: Any) -> NDArray[np.uint8]:
    """The first views of the viewed images (n * SHOWN, c, h, w), those that the score compared; masked patches grey."""
    import torch

    from ... import views

    _, _, view = recipe_of(series)
    rows = viewed(series)
    ids, numbers = images.ids[torch.as_tensor(rows)], torch.arange(SHOWN)
    seed = seed_of("score views", images.fingerprint, 0)
    drawn = views.views(images.rows(rows), ids, view, numbers, seed).flatten(0, 1)
    pixels = (drawn * 255).round().to(torch.uint8).numpy()
    if view.mask:
        patch = view.mask_patch
        hidden = views.mask(view, ids, numbers, seed, images.shape).flatten(0, 1).numpy()
        hidden = hidden.reshape(len(pixels), 1, pixels.shape[2] // patch, -1)
        pixels = np.where(hidden.repeat(patch, axis=2).repeat(patch, axis=3), np.uint8(HIDDEN), pixels)
    return pixels


def sheet(tiles: NDArray[np.uint8], columns: int = COLUMNS) -> tuple[bytes, int]:
    """Pictures (n, c, h, w) as one WebP file, `columns` in a line, and the side of one; large ones are shrunk."""
    from PIL import Image

    n, c, height, width = tiles.shape
    side = min(max(height, width), SIDE)
    pictures = tiles.transpose(0, 2, 3, 1)
    rows = -(-n // columns)
    whole = Image.new("L" if c == 1 else "RGB", (columns * side, rows * side))
    for place, picture in enumerate(pictures[..., 0] if c == 1 else pictures):
        one = Image.fromarray(picture)
        if one.size != (side, side):
            one = one.resize((side, side), Image.Resampling.LANCZOS)
        whole.paste(one, (place % columns * side, place // columns * side))
    buffer = io.BytesIO()
    lossless = side < 16  # compression blurs what has so few pixels
    whole.save(buffer, "WEBP", quality=80, lossless=lossless, method=4)
    return buffer.getvalue(), side


def union(found: Sequence[Series]) -> NDArray[np.int64]:
    """Rows of all images of some series, ascending."""
    return np.unique(np.concatenate([one.table["row"].to_numpy(np.int64) for one in found]))
