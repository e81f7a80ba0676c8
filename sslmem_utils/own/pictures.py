"""Images from anywhere as uint8 read piece by piece, with their indices, and the set that each belongs to."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from .. import data
from ..data.imageset import identify
from ..errors import DataError, SpecError
from ..specs import SETS, DatasetSpec, digest

Read = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True, eq=False)
class Pictures:
    """n images of one shape (c, h, w); `read(rows)` gives some as uint8 (b, c, h, w), and only those are in memory.

    `labels` (n,) are -1 for none, `index` (n,) is the official index or the relative path, `classes` their names.
    """

    name: str
    shape: tuple[int, int, int]
    labels: Int64[np.ndarray, " n"]
    index: np.ndarray
    read: Read
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ids(self) -> Int64[Tensor, " n"]:
        """What the draws of an image's views depend on, beside the view seed: its index and nothing else."""
        return torch.from_numpy(identify(self.index))


def pictures(images: object, index: object = None, labels: object = None, size: int | None = None) -> Pictures:
    """Images from a tensor or array (n, c, h, w), an ImageSet, the name of a dataset, or the path of a folder or zip.

    Pixels are uint8, or floating-point in [0, 1] before any normalisation, which are rounded to 8 bits. Names of known
    and imported datasets come before folders of that name. A folder or zip is decoded once into the data folder, as
    `sslmem data import` does, and read from there; `size` makes squares of so many pixels of datasets and folders.
    `index` (n,) names the images of a tensor (default: their rows), `labels` (n,) are their classes. SpecError or
    DataError for anything else, and for fewer than two images.
    """
    if isinstance(images, (str, os.PathLike)):
        images = _named(os.fspath(images), size)
    elif size is not None:
        raise SpecError("size is for datasets and folders; resize tensors beforehand.")
    if isinstance(images, Pictures):
        found = images
    elif isinstance(images, data.ImageSet):
        if index is not None:
            raise SpecError("a dataset has its own index; leave index out, and choose images with `take`.")
        found = Pictures(
            images.name, images.shape, images.labels.numpy(), images.index, images.rows, tuple(images.classes)
        )
    else:
        found = _array(images, index)
    if len(found) < 2:
        raise DataError(f"a score ranks images among each other and needs at least 2, found {len(found)}; add some.")
    if labels is not None:
        classes = np.asarray(labels)
        if classes.shape != (len(found),) or classes.dtype.kind not in "iu":
            raise SpecError(
                f"labels must be one whole number for each of the {len(found)} images (-1 for none), found "
                f"{classes.dtype} {classes.shape}."
            )
        return replace(found, labels=classes.astype(np.int64))
    return found


def _named(name: str, size: int | None) -> data.ImageSet:
    path = Path(name).expanduser()
    known = {row["name"] for row in data.catalogue()}
    if name in known or not (path.exists() or os.sep in name or path.suffix == ".zip"):
        return data.load(DatasetSpec(name=name, size=size))
    where = path.resolve()
    stored = data.import_images(f"scored-{digest(str(where), size, length=12)}", where, size=size, replace=True)
    return replace(stored, name=where.name)


def _array(images: object, index: object) -> Pictures:
    array = images.detach() if isinstance(images, Tensor) else images
    if not isinstance(array, (Tensor, np.ndarray)) or array.ndim != 4:
        found = f"shape {tuple(array.shape)}" if isinstance(array, (Tensor, np.ndarray)) else type(images).__name__
        raise SpecError(
            "images must be a tensor or array (n, c, h, w), an ImageSet, the name of a dataset or the path of a folder "
            f"or zip, found {found}."
        )
    n, *shape = map(int, array.shape)
    if shape[0] not in (1, 3):
        raise SpecError(
            f"images must be (n, c, h, w) with 1 or 3 channels, found {(n, *shape)}; move the channels to the front."
        )
    names = np.arange(n) if index is None else np.asarray(index)
    names = (
        names.astype(str) if names.dtype.kind == "O" else names.astype(np.int64) if names.dtype.kind == "u" else names
    )
    if names.shape != (n,) or names.dtype.kind not in "iU":
        raise SpecError(
            f"index must name each of the {n} images by a number or a text, found {names.dtype} {names.shape}."
        )
    if len(np.unique(names)) < n:
        raise SpecError("index names an image more than once; each needs a number or text of its own.")

    def read(rows: np.ndarray) -> Tensor:
        if isinstance(array, Tensor):
            return _bytes(array[torch.as_tensor(rows, device=array.device)].cpu())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that may not be written to: these are copies
            return _bytes(torch.from_numpy(np.ascontiguousarray(array[rows])))

    return Pictures("images", tuple(shape), np.full(n, -1), names, read)


def _bytes(x: Tensor) -> UInt8[Tensor, "b c h w"]:
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise SpecError(f"pixels must be uint8, or floating-point in [0, 1], found {x.dtype}; convert them.")
    low, high = (float(value) for value in x.aminmax())
    if not (low >= 0 and high <= 1):
        mend = "divide by 255" if 0 <= low and 1 < high <= 255 else "undo the normalisation and pass its mean and std"
        raise DataError(f"floating-point pixels must lie in [0, 1], found {low:.3g} to {high:.3g}; {mend}.")
    return (x * 255).round().to(torch.uint8)


def set_names(sets: object, index: np.ndarray) -> np.ndarray:
    """The set of each image by its index, "" for none, as text (n,).

    `sets` is a CSV file or a DataFrame with the columns index and set, a mapping from index to set or from set to
    indices, or one name an image. SpecError for a set that is none of the four, DataError for an image unknown or
    listed twice.
    """
    if sets is None:
        return np.full(len(index), "", dtype="<U11")
    if not isinstance(sets, (str, os.PathLike, pd.DataFrame, Mapping)):
        names = np.asarray(sets, dtype=str)
        if names.shape != (len(index),):
            raise SpecError(f"sets must name the set of each of the {len(index)} images, found {names.shape} names.")
        return _known(names)
    listed = _listed(sets)
    if twice := listed.index[listed.index.duplicated()].tolist():
        raise DataError(f"the sets list image {twice[0]} more than once; keep one line of it.")
    texts = index.astype(str)
    if strange := sorted(set(listed.index) - set(texts)):
        raise DataError(
            f"the sets list image {strange[0]}, which is not among the images ({texts[0]}, {texts[1]}, ...); use their "
            "index (relative path or official number)."
        )
    return _known(listed.reindex(texts).fillna("").to_numpy(dtype=str))


def _listed(sets: object) -> pd.Series:
    """Set names by index, both as text."""
    if isinstance(sets, Mapping):
        if sets and set(sets) <= set(SETS):
            pairs = [(str(one), name) for name, some in sets.items() for one in np.asarray(some).tolist()]
        else:
            pairs = [(str(one), name) for one, name in sets.items()]
        return pd.Series([name for _, name in pairs], index=[one for one, _ in pairs], dtype=str)
    if isinstance(sets, (str, os.PathLike)):
        try:
            sets = pd.read_csv(sets, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise DataError(f"the sets {sets} cannot be read as CSV ({' '.join(str(error).split())}).") from None
    if not {"index", "set"} <= set(sets.columns):
        raise DataError(
            f"the sets need the columns index and set, found {', '.join(map(str, sets.columns))}; add them."
        )
    return pd.Series(sets["set"].astype(str).to_numpy(), index=sets["index"].astype(str).to_numpy())


def _known(names: np.ndarray) -> np.ndarray:
    if strange := sorted(set(names.tolist()) - {"", *SETS}):
        raise SpecError(f"a set is {', '.join(SETS)} or empty, found {strange[0]!r}; correct it.")
    return names
