"""Where the variance of a score comes from: the images (signal), the split, the training seed and the views."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError, SpecError
from .checks import Floats, Number


@dataclass(frozen=True, slots=True)
class Components:
    """Variances of one measurement of an image, in squared units of the score; estimates can be slightly negative.

    A part that the design cannot tell from another is NaN and contained in that one: `seed` in `split` or `rest`,
    `split` in `rest`, `views` in `image` (every measurement saw the same views).
    """

    image: float  # between images: the signal
    split: float  # image x split: which other images the encoders saw
    seed: float  # image x training seed, within a split
    views: float  # image x views: the same for every encoder, since all of them see the same views
    rest: float  # image x everything: views that matter to these encoders alone

    def known(self) -> dict[str, float]:
        """The parts with negative estimates and those contained in another as 0."""
        return {name: 0.0 if math.isnan(value) else max(value, 0.0) for name, value in asdict(self).items()}

    def shares(self) -> dict[str, float]:
        """Each part's share of the variance of one measurement, negative estimates counted as 0."""
        parts = self.known()
        total = sum(parts.values())
        measured = {name for name, value in asdict(self).items() if not math.isnan(value)}
        return {name: parts[name] / total if name in measured and total > 0 else math.nan for name in parts}

    def reliability(self, splits: Number = 1, seeds: Number = 1, views: Number = 1) -> float:
        """Correlation between two means over so many splits, seeds in each split, and view sets of the pilot's size.

        NaN when the images do not differ at all. Raises SpecError for other views where they were not measured.
        """
        if min(splits, seeds, views) <= 0:
            raise SpecError(f"counts must be positive, found {splits}, {seeds} and {views}; raise them.")
        if math.isnan(self.views) and views != 1:
            raise SpecError(
                "the pilot measured no other views, so they cannot be planned; give it two halves of views."
            )
        image, split, seed, of_views, rest = self.known().values()
        noise = split / splits + seed / (splits * seeds) + of_views / views + rest / (splits * seeds * views)
        return image / (image + noise) if image > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Design:
    """Which factors two measurements share: rows are pairs of measurements, columns the parts of their covariance."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    shared: Floats  # (pairs, parts)
    names: tuple[str, ...]
    unit: NDArray[np.int64]  # the replication each measurement belongs to


def design(split: ArrayLike, seed: ArrayLike, views: ArrayLike) -> Design:
    """Pairs of measurements and what they share; parts that cannot be told apart are left out (`Components`)."""
    split, nested = (np.unique(np.asarray(one), return_inverse=True)[1].ravel() for one in (split, seed))
    seed = split * (nested.max() + 1) + nested  # training seeds of different splits are different encoders
    views = np.unique(np.asarray(views), return_inverse=True)[1].ravel()
    left, right = np.triu_indices(len(split))
    same = {name: one[left] == one[right] for name, one in (("split", split), ("seed", seed), ("views", views))}
    parts = {"image": np.ones(len(left), dtype=bool), "rest": same["seed"] & same["views"], **same}
    kept: list[str] = []
    for name in parts:
        columns = np.stack([parts[other] for other in [*kept, name]], axis=1).astype(float)
        if np.linalg.matrix_rank(columns) > len(kept):
            kept.append(name)
    if "rest" not in kept:
        raise DataError("variances need at least 2 measurements of the same images, found 1; give more seeds.")
    unit = split if split.max() else seed
    shared = np.stack([parts[name] for name in kept], axis=1).astype(float)
    return Design(left, right, shared, tuple(kept), unit)


def solve(values: Floats, plan: Design, images: Floats, units: Floats) -> Components | None:
    """Components with `images` (n,) and replications weighted; None when no pair of replications shares an image."""
    here = np.isfinite(values)
    total = here @ images
    safe = np.maximum(total, 2)
    mean = (np.where(here, values, 0) @ images) / safe
    centred = np.where(here, values - mean[:, None], 0) * np.sqrt(safe / (safe - 1))[:, None]
    left, right = plan.left, plan.right
    count = ((here * images) @ here.T)[left, right]
    product = ((centred * images) @ centred.T)[left, right]
    a, b = plan.unit[left], plan.unit[right]
    weight = np.where(a == b, units[a], units[a] * units[b])
    used = (count > 0) & (weight > 0)
    if not (used & (a != b)).any() and len(units) > 1:
        return None
    root = np.sqrt(weight * count)[used]
    found, _, rank, _ = np.linalg.lstsq(
        plan.shared[used] * root[:, None], product[used] / count[used] * root, rcond=None
    )
    if rank < len(plan.names):
        return None
    parts = dict(zip(plan.names, map(float, found), strict=True))
    return Components(**{name: parts.get(name, math.nan) for name in ("image", "split", "seed", "views", "rest")})


def variance_components(
    values: ArrayLike | pd.DataFrame,
    split: ArrayLike | None = None,
    seed: ArrayLike | None = None,
    views: ArrayLike | None = None,
) -> Components:
    """Components of variance of `values` (measurements, images), NaN where an image was not measured.

    `split`, `seed`, `views` name the level of each row; `seed` counts within a split; what is left out has one level.
    Every row is centred first, since an offset of all images does not change a ranking. Method of moments: products of
    two measurements of an image are averaged over images and solved for the variances of what the two share. That is
    Henderson's method for crossed random factors (Searle, Casella and McCulloch 1992, chapter 5), unbiased with gaps
    too, and the ANOVA estimate where there are none. Raises DataError when the rows share too few images.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise DataError(f"values must be (measurements, images), found shape {array.shape}; pivot the table first.")
    levels = [np.zeros(len(array), dtype=int) if one is None else np.asarray(one) for one in (split, seed, views)]
    if any(len(one) != len(array) for one in levels):
        raise DataError(f"split, seed and views must name all {len(array)} rows; give one level a row.")
    plan = design(*levels)
    found = solve(array, plan, np.ones(array.shape[1]), np.ones(plan.unit.max() + 1))
    if found is None:
        raise DataError("the replications share no image, so noise cannot be told from signal; use larger sets.")
    return found
