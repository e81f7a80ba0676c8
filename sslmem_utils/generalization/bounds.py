"""The bound of Huang et al. (ICLR 2023, arXiv 2111.00743) from representations and augmented distances; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from ..errors import DataError

SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # sigma: shares of each class that a main part may hold
LEVELS = 41  # quantiles of the images' worst pair of views that are tried as epsilon


@dataclass(frozen=True, slots=True)
class Factors:
    """The three factors of n labelled images under one encoder, its error, and the bound on it. r = 1.

    `epsilon` and `sigma` are those at which the bound is smallest, or, where its condition holds nowhere, at which it
    is nearest to hold. The classifier takes the nearest class centre in representation space.
    """

    alignment: float  # mean over images of the largest distance between two of their views
    unaligned: float  # R_eps: share of images whose views are further apart than epsilon
    epsilon: float
    divergence: float  # largest inner product of two class centres; the smaller, the better the classes part
    spread: float  # Delta_mu = 1 - min_k ||mu_k||^2
    sigma: float
    delta: float  # diameter of the main parts in augmented distance, in pixel units
    span: float  # the largest distance between representations of nearest views in a main part, for L delta
    slack: float  # right minus left side of the condition; below 0 the theorem says nothing
    error: float  # of the classifier, measured on the same images
    bound: float  # (1 - sigma) + R_eps where the condition holds, else 1: vacuous


def rho(sigma: float, unaligned: float, rarest: float, span: float, epsilon: float) -> float:
    """rho_max = 2 (1 - sigma) + R_eps / min_k p_k + sigma (span + 2 epsilon), for representations of length 1."""
    return 2 * (1 - sigma) + unaligned / rarest + sigma * (span + 2 * epsilon)


def main_parts(distances: Float[np.ndarray, "n n"], shares: tuple[float, ...] = SHARES) -> dict[float, np.ndarray]:
    """A main part of one class for each share sigma: positions of images that lie close to each other.

    The image that is farthest from some other one leaves until a share sigma is left. The largest main part of a
    diameter is hard to find (a clique), so that a diameter found here is at least the smallest possible one: the bound
    stays a bound.
    """
    d, kept, found = distances.copy(), np.arange(len(distances)), {}
    for share in sorted(shares, reverse=True):
        least = max(1, math.ceil(share * len(distances) - 1e-9))
        while len(kept) > least:
            part = d[np.ix_(kept, kept)]
            two = np.unravel_index(part.argmax(), part.shape)
            worst = max(two, key=lambda at: part[at].sum())
            kept = np.delete(kept, worst)
        found[share] = kept
    return found


def bound(
    views: Float[np.ndarray, "n k d"],
    clean: Float[np.ndarray, "n d"],
    labels: Int64[np.ndarray, " n"],
    distances: Float[np.ndarray, "n n"],
    spans: Float[np.ndarray, "n n"],
) -> Factors:
    """The factors and the bound from L2-normalised representations of the views and of the images themselves.

    distances: augmented distances between the images (only those within a class are read); spans: distances between
    the representations of the two views that are nearest in pixels. The proof needs L delta as an upper bound of these
    alone, so that the largest of them takes its place, and no Lipschitz constant is guessed. All sets of the theorem
    are the images and views at hand: with K views the worst pair is at most as bad as the worst of all views. Raises
    DataError for fewer than two classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(f"a bound on an error needs images of 2 classes, found {len(classes)}; take others.")
    centres = np.stack([views[labels == one].mean((0, 1)) for one in classes])
    inner = centres @ centres.T
    worst = np.array([_diameter(one) for one in views])
    nearest = ((clean[:, None] - centres) ** 2).sum(2).argmin(1)
    fixed = {
        "alignment": float(worst.mean()),
        "divergence": float(inner[~np.eye(len(classes), dtype=bool)].max()),
        "spread": float(1 - np.diag(inner).min()),
        "error": float((classes[nearest] != labels).mean()),
    }
    parts = [_parts(np.flatnonzero(labels == one), distances, spans) for one in classes]
    best: Factors | None = None
    for sigma in SHARES:
        delta, span = (max(part[sigma][side] for part in parts) for side in (0, 1))
        for epsilon in np.quantile(worst, np.linspace(0, 1, LEVELS)):
            unaligned = float((worst > epsilon).mean())
            at = rho(sigma, unaligned, counts.min() / len(labels), span, float(epsilon))
            slack = float(1 - at - math.sqrt(2 * at)) - fixed["spread"] / 2 - fixed["divergence"]
            found = Factors(
                **fixed, unaligned=unaligned, epsilon=float(epsilon), sigma=sigma, delta=delta, span=span, slack=slack,
                bound=min(1.0, 1 - sigma + unaligned) if slack > 0 else 1.0,
            )  # fmt: skip
            if best is None or (found.bound, -found.slack) < (best.bound, -best.slack):
                best = found
    return best


def _parts(
    rows: Int64[np.ndarray, " c"], distances: Float[np.ndarray, "n n"], spans: Float[np.ndarray, "n n"]
) -> dict[float, tuple[float, float]]:
    """Diameter and span of the main part of one class for every share."""
    of_class, far = distances[np.ix_(rows, rows)], spans[np.ix_(rows, rows)]
    return {
        share: (float(of_class[np.ix_(kept, kept)].max()), float(far[np.ix_(kept, kept)].max()))
        for share, kept in main_parts(of_class).items()
    }


def _diameter(points: Float[np.ndarray, "k d"]) -> float:
    from scipy.spatial.distance import pdist

    return float(pdist(points).max())


def clusters(spreads: Sequence[float], seed: int = 0) -> pd.DataFrame:
    """A world in which the bound says something: classes at right angles, points around them; one row a spread.

    5 classes of 20 images with 4 views each, in 16 dimensions. `spread` is the standard deviation of an image around
    its class, in all directions together, and four times that of a view around its image; the encoder is the identity,
    normalised, so that pixels are representations. Columns: spread, alignment, divergence, slack, bound, error.
    """
    rng, rows = np.random.default_rng(seed), []
    labels = np.repeat(np.arange(5), 20)
    images, each = rng.normal(size=(100, 16)) / 4, rng.normal(size=(100, 4, 16)) / 16
    for spread in spreads:
        clean = np.eye(16)[labels] + spread * images
        views = clean[:, None] + spread * each
        clean, views = (z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (clean, views))
        apart = np.linalg.norm(views[:, None, :, None] - views[None, :, None], axis=-1).min((2, 3))
        found = bound(views, clean, labels, apart, apart)
        part = {name: getattr(found, name) for name in ("alignment", "divergence", "slack", "bound", "error")}
        rows.append({"spread": spread, **part})
    return pd.DataFrame(rows)
