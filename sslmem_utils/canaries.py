"""Canaries: images of known origin planted among the others, and how well a score finds them again.

    plants = canaries.dose(10)                         # copies in f only and in S_S; or any sequence of PlantSpec
    spec = base.but(plants=plants)                     # trained and scored like any other spec
    canaries.sources(split, plants)                    # which image occurs how often
    canaries.table(images, split, plants)              # what was planted where
    canaries.recall(scores, scored["row"].isin(planted["row"]))

Labels, indices, ids and the four sets stay as they are, so that f and g still train on equally many images. Copies of
an image in one contrastive batch are false negatives of each other: the loss pushes equal images apart. That is part of
what a dose of copies measures; `collisions` says how often it happens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from numpy.typing import ArrayLike

from . import data
from .data import ImageSet
from .errors import DataError, SpecError, SplitError
from .specs import DatasetSpec, PlantSpec, SetName, TrainSpec, digest, seed_of
from .splits import Split, shuffle_keys

COPIED = ("copy", "near")  # kinds that are made from images of the set `source`
LARGEST = 4 << 30  # bytes of images that are copied for planting
NOISE, IMPULSE, PIXELS = 0.38, 0.27, 0.25  # the strongest of ImageNet-C (arXiv 1903.12261): deviation, share, scale
NEAR = (0.05, 0.10)  # smallest and largest relative change of a near-duplicate's brightness

CHOICES = 8  # uniform numbers of a planted image that come before those of its pixels

Pixels = UInt8[np.ndarray, "c h w"]
Uniform = Float64[np.ndarray, " u"]


@dataclass(frozen=True)
class _Drawn:
    """Rows of the sources of one PlantSpec (s,) and of its places (p,): copy j of source i is at i copies + j."""

    sources: Int64[np.ndarray, " s"]
    places: Int64[np.ndarray, " p"]


# ---------------------------------------------------------------- planting
def plant(images: ImageSet, split: Split, plants: Sequence[PlantSpec]) -> ImageSet:
    """The images with canaries in the places that the plants draw; the set itself where there is nothing to plant.

    No place is used twice, and no source of copies is one. Kinds: `copy`; `near`, shifted by a pixel (up to two from
    32 pixels on) and 5 to 10 % brighter or darker; `rotated` by 90, 180 or 270 degrees (180 where not square);
    `corrupted` by Gaussian noise, impulse noise or large pixels at the highest strength of ImageNet-C (arXiv
    1903.12261) with a grey square of half the side on top; `noise`, uniform over pixel values; `other`, images of
    another dataset, converted to fit. The fingerprint changes with every planted pixel.

    Memory: a copy of the set's n images (n c h w bytes), at most 4 GiB. Raises SplitError when a set is too small or
    the split is of other images, SpecError above 4 GiB, DataError when the other dataset does not fit.
    """
    if not plants:
        return images
    if split.fingerprint != images.fingerprint:
        raise SplitError(
            f"canaries are planted in the images that the split was drawn from, {split.fingerprint}, found "
            f"{images.fingerprint}; give the unplanted images."
        )
    drawn = _draw(split, plants)
    if (size := len(images) * images.pixels[0].numel()) > LARGEST:
        raise SpecError(
            f"planting copies the images of {images.name} into memory, {size / 1e9:.0f} GB; take fewer of them (limit, "
            "classes) or smaller ones (size)."
        )
    rows = np.concatenate([found.places for found in drawn])
    if not len(rows):
        return images
    used: dict[DatasetSpec, set[int]] = {}  # an image of another dataset is planted once
    new = np.concatenate([_made(one, images, split, found, used) for one, found in zip(plants, drawn, strict=True)])
    pixels = images.rows(np.arange(len(images)))
    pixels[torch.from_numpy(rows)] = torch.from_numpy(new)
    marks = [hashlib.sha256(part.tobytes()).hexdigest() for part in (rows.astype("<i8"), new)]
    return replace(
        images,
        pixels=pixels,
        places=torch.arange(len(images)),
        fingerprint=digest(images.fingerprint, "planted", *marks),
        notes=(*images.notes, f"{len(rows)} images replaced by canaries"),
    )


def _draw(split: Split, plants: Sequence[PlantSpec]) -> list[_Drawn]:
    """Sources of all plants first, then places among what is left, so that none of them meet."""
    taken = np.empty(0, np.int64)

    def some(number: int, role: str, name: SetName, count: int) -> Int64[np.ndarray, " {count}"]:
        nonlocal taken
        rows = getattr(split, name)
        free = np.setdiff1d(rows, taken)
        if len(free) < count:
            raise SplitError(
                f"plant {number} ({plants[number].kind}) asks for {count} images of the {name} set as {role}, and "
                f"{len(free)} of its {len(rows)} are left; plant fewer or enlarge it."
            )
        keys = shuffle_keys(seed_of(_seed(split, plants[number]), role), free)
        found = free[np.argsort(keys, kind="stable")[:count]]
        taken = np.concatenate([taken, found])
        return found

    sources = [
        some(number, "sources", one.source, one.count if one.kind in COPIED else 0) for number, one in enumerate(plants)
    ]
    places = [some(number, "places", one.into, one.count * one.copies) for number, one in enumerate(plants)]
    return [_Drawn(*found) for found in zip(sources, places, strict=True)]


def _seed(split: Split, one: PlantSpec) -> int:
    """Other splits of a dataset draw anew: replications would otherwise plant the same images."""
    sets = [hashlib.sha256(getattr(split, name).astype("<i8").tobytes()).hexdigest() for name in (one.source, one.into)]
    return seed_of("plant", split.fingerprint, *sets, one.seed)


def _made(
    one: PlantSpec, images: ImageSet, split: Split, found: _Drawn, used: dict[DatasetSpec, set[int]]
) -> UInt8[np.ndarray, "p c h w"]:
    """The images for the places of one plant."""
    seed = _seed(split, one)
    if one.kind == "other":
        return _others(one, images, seed_of(seed, "others"), used)
    origin = np.repeat(found.sources, one.copies) if one.kind in COPIED else found.places
    old = images.rows(origin).numpy()
    if one.kind == "copy":
        return old
    make = {"near": _near, "rotated": _rotated, "corrupted": _corrupted, "noise": _noise}[one.kind]
    draws = np.arange(CHOICES + images.pixels[0].numel())
    for at, place in enumerate(found.places.tolist()):
        keys = shuffle_keys(seed_of(seed, "pixels", place), draws)
        old[at] = make(old[at], (keys >> np.uint64(11)) * 2.0**-53)
    return old


def _near(image: Pixels, u: Uniform) -> Pixels:
    """Shifted, its edge repeated, and brighter or darker."""
    most = 1 if min(image.shape[1:]) < 32 else 2
    steps = range(-most, most + 1)
    shifts = [(y, x) for y in steps for x in steps if (y, x) != (0, 0)]
    y, x = shifts[int(u[0] * len(shifts))]
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (most, most), (most, most)), "edge")
    moved = padded[:, most + y : most + y + height, most + x : most + x + width]
    change = NEAR[0] + u[1] * (NEAR[1] - NEAR[0])
    return _bytes(moved / 255 * (1 + (change if u[2] < 0.5 else -change)))


def _rotated(image: Pixels, u: Uniform) -> Pixels:
    turns = 1 + int(3 * u[0]) if image.shape[1] == image.shape[2] else 2
    return np.rot90(image, turns, axes=(1, 2))


def _corrupted(image: Pixels, u: Uniform) -> Pixels:
    """One of three corruptions, then a grey square over a quarter of the area (as Cutout, arXiv 1708.04552)."""
    from PIL.Image import Resampling, fromarray
    from scipy.special import ndtri

    _, height, width = image.shape
    kind, each = int(3 * u[0]), u[CHOICES:].reshape(image.shape)
    if kind == 0:
        out = _bytes(image / 255 + NOISE * ndtri(np.clip(each, 1e-12, None)))
    elif kind == 1:
        out = np.where(each < IMPULSE, np.where(each < IMPULSE / 2, 0, 255), image).astype(np.uint8)
    else:
        small = max(1, int(width * PIXELS)), max(1, int(height * PIXELS))
        shrunk = (fromarray(channel).resize(small, Resampling.BOX) for channel in image)
        out = np.stack([np.asarray(one.resize((width, height), Resampling.NEAREST)) for one in shrunk])
    top, left = int(u[1] * (height - height // 2 + 1)), int(u[2] * (width - width // 2 + 1))
    out[:, top : top + height // 2, left : left + width // 2] = 127
    return out


def _noise(image: Pixels, u: Uniform) -> Pixels:
    return (u[CHOICES:] * 256).astype(np.uint8).reshape(image.shape)


def _bytes(values: Float64[np.ndarray, "c h w"]) -> Pixels:
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _others(
    one: PlantSpec, images: ImageSet, seed: int, used: dict[DatasetSpec, set[int]]
) -> UInt8[np.ndarray, "p c h w"]:
    other, shape = data.load(one.dataset), images.shape
    rows = np.array(sorted(set(range(len(other))) - used.setdefault(one.dataset, set())), dtype=np.int64)
    if other.fingerprint == images.fingerprint:
        raise DataError(f"other images must come from another dataset, found {other.name} twice; plant copies instead.")
    if len(rows) < one.count:
        raise DataError(
            f"{other.name} has {len(rows)} images left to plant, and {one.count} are asked for; lower count."
        )
    if {shape[0], other.shape[0]} - {1, 3} and shape != other.shape:
        raise DataError(
            f"images of {other.shape[0]} channels cannot be planted among images of {shape[0]}, only grey (1) and "
            "colour (3) among each other; choose another dataset."
        )
    if shape[1] != shape[2] and shape[1:] != other.shape[1:]:
        raise DataError(
            f"other images are fitted to squares, and those of {images.name} have {shape[2]} x {shape[1]} pixels; give "
            "the dataset a size."
        )
    chosen = rows[np.argsort(shuffle_keys(seed, rows), kind="stable")[: one.count]]
    used[one.dataset] |= set(chosen.tolist())
    return np.stack([_fitted(image, shape) for image in other.rows(chosen).numpy()])


def _fitted(image: Pixels, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "_ _ _"]:
    """The image with the channels and the size of the others."""
    from PIL.Image import fromarray

    from .data.decoding import square

    if image.shape == shape:
        return image
    picture = fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    picture = picture.convert("L" if shape[0] == 1 else "RGB")
    if picture.size != (shape[2], shape[1]):
        picture = square(picture, shape[1])
    out = np.asarray(picture)
    return out[None] if out.ndim == 2 else out.transpose(2, 0, 1)


# ---------------------------------------------------------------- what was planted
def table(images: ImageSet, split: Split, plants: Sequence[PlantSpec]) -> pd.DataFrame:
    """One row a planted image, to be matched with scores by `row`.

    Columns: row, index, label (of the image that was there, which planted ones keep), set, kind, plant (position in
    `plants`), source (the row it was made from: its own for rotated and corrupted ones, -1 for noise and other ones),
    copies.
    """
    parts = []
    for number, (one, found) in enumerate(zip(plants, _draw(split, plants), strict=True)):
        source = np.repeat(found.sources, one.copies) if one.kind in COPIED else found.places
        source = source if one.kind not in ("noise", "other") else np.full(len(source), -1)
        part = {"row": found.places, "index": images.index[found.places], "label": images.labels[found.places].numpy()}
        part |= {"set": one.into, "kind": one.kind, "plant": number, "source": source, "copies": one.copies}
        parts.append(pd.DataFrame(part))
    columns = ["row", "index", "label", "set", "kind", "plant", "source", "copies"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def sources(split: Split, plants: Sequence[PlantSpec]) -> pd.DataFrame:
    """One row an image that copies were made of, controls without copies included.

    Columns: row, kind, plant (position in `plants`), into, copies, occurrences (1 + copies).
    """
    parts = [
        pd.DataFrame({"row": found.sources, "kind": one.kind, "plant": number, "into": one.into, "copies": one.copies})
        for number, (one, found) in enumerate(zip(plants, _draw(split, plants), strict=True))
        if one.kind in COPIED
    ]
    if not parts:
        return pd.DataFrame(columns=["row", "kind", "plant", "into", "copies", "occurrences"])
    found = pd.concat(parts, ignore_index=True)
    return found.assign(occurrences=found["copies"] + 1)


def dose(
    count: int,
    occurrences: Sequence[int] = (1, 2, 4, 8),
    into: Sequence[SetName] = ("candidate", "shared"),
    seed: int = 0,
) -> tuple[PlantSpec, ...]:
    """Plants for the response of m to copies: `count` candidates at each number of occurrences, of each set `into`.

    An image that occurs r times is a candidate with r - 1 copies: into "candidate" all r are in f's training data only,
    into "shared" one is in f's only and the others are in f's and g's. r = 1: controls without copies, drawn like the
    others and never replaced. Both sets together take count times sum(r) candidates and count times sum(r - 1) shared.
    """
    if not occurrences or min(occurrences) < 1:
        raise SpecError(f"an image occurs once or more, found the doses {tuple(occurrences)}; start at 1.")
    return tuple(
        PlantSpec(kind="copy", count=count, copies=times - 1, into=name, source="candidate", seed=seed)
        for name in into
        for times in occurrences
    )


def collisions(spec: TrainSpec) -> pd.DataFrame:
    """How often occurrences of one image meet in a batch of this encoder, where they are false negatives.

    One row a plant of copies: plant, kind, into, copies, `seen` (occurrences in the training data of this encoder),
    `others`: expected number of other occurrences in the batch of one of them, (seen - 1)(batch - 1) / (n - 1), and
    `any`: probability of one or more (hypergeometric: a batch is a random subset of the n training images, also where
    they are a random subset of their sets). Near-duplicates count as copies.
    """
    from scipy.stats import hypergeom

    n, rows = spec.images, []
    for number, one in enumerate(spec.plants):
        if one.kind in COPIED:
            seen = (one.source in spec.sets) + one.copies * (one.into in spec.sets)
            rest = max(0, seen - 1)
            met = {"others": rest * (spec.batch - 1) / (n - 1), "any": hypergeom.sf(0, n - 1, rest, spec.batch - 1)}
            rows.append(
                {"plant": number, "kind": one.kind, "into": one.into, "copies": one.copies, "seen": seen, **met}
            )
    return pd.DataFrame(rows, columns=["plant", "kind", "into", "copies", "seen", "others", "any"])


# ---------------------------------------------------------------- finding them again
@dataclass(frozen=True, slots=True)
class Recall:
    """How many planted images are in the top of their set, beside what chance gives and the most that can be."""

    images: int
    planted: int
    top: int  # images counted as the top
    found: float  # planted ones among them; images tied at the border count in part
    recall: float
    low: float  # Wilson's 95 % interval over the planted images, which share their networks: see `recall`
    high: float
    chance: float
    ceiling: float
    auc: float


def recall(scores: ArrayLike, planted: ArrayLike, share: float = 0.1) -> Recall:
    """Recall of planted images in the top `share` of the scores of one set, with Wilson's interval and the AUC.

    scores (n,): larger is more memorized or more atypical; planted (n,): boolean. Images with scores equal to the last
    one of the top count as if their order were drawn at random. The interval takes the planted images as independent,
    though they share one pair of encoders: it describes one replication, and claims need an interval over
    replications. Raises DataError for scores that are not finite or where all or no images are planted.
    """
    from sklearn.metrics import roc_auc_score
    from statsmodels.stats.proportion import proportion_confint

    values, mask = np.asarray(scores, np.float64).ravel(), np.asarray(planted, bool).ravel()
    _check(values, mask, share)
    top, n, wanted = max(1, round(share * len(values))), len(values), int(mask.sum())
    border = np.sort(values)[n - top]
    above, tied = values > border, values == border
    found = float(mask[above].sum() + mask[tied].sum() * (top - above.sum()) / tied.sum())
    low, high = proportion_confint(found, wanted, method="wilson")
    auc = float(roc_auc_score(mask, values))
    return Recall(n, wanted, top, found, found / wanted, low, high, top / n, min(1.0, top / wanted), auc)


def _check(values: Float64[np.ndarray, " n"], mask: Bool[np.ndarray, " m"], share: float) -> None:
    if len(mask) != len(values):
        raise DataError(
            f"scores and planted must be of the same images, found {len(values)} and {len(mask)}; match them."
        )
    if bad := int((~np.isfinite(values)).sum()):
        raise DataError(f"scores must be finite, found {bad} of {len(values)} that are not; leave these images out.")
    if not 0 < mask.sum() < len(mask):
        raise DataError(
            f"recall needs planted and other images, found {int(mask.sum())} planted of {len(mask)}; score both."
        )
    if not 0 < share < 1:
        raise SpecError(f"share must lie between 0 and 1, found {share!r}; use 0.1.")
