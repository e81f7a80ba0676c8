"""What the attacks of a pair of encoders amount to: quadrants, the DV score, its intervals, agreement with m."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from .. import stats
from ..errors import DataError, SpecError
from ..stats import Interval, Number

QUADRANTS = ("memorized", "correlated", "misrepresented", "unassociated")
GROUPS = {"candidate": "trained on", "independent": "trained on", "external": "never seen", "shared": "seen by both"}
SHARES = (0.2, 1.0)  # of the most confident images: those of the paper
SIGN = {"independent": -1.0}  # where g is the target: m of the other encoder
COLUMNS = ("seed", "replica", "row", "set", "k", "right_target", "right_reference")


def quadrants(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Share of each quadrant a seed, kind of images and k, over replicas and both directions.

    Columns: `by`, seed, k, images (GROUPS), quadrant, share.
    """
    keys = [*by, "seed", "k", "images"]
    found = table.assign(images=table["set"].map(GROUPS)).groupby(keys, sort=False)["quadrant"]
    shares = found.value_counts(normalize=True).rename("share").unstack(fill_value=0.0)
    shares = shares.reindex(columns=list(QUADRANTS), fill_value=0.0).rename_axis(columns="quadrant")
    return _ordered(shares.stack().rename("share").reset_index())


def accuracy(
    right: Bool[np.ndarray, "*b n"], confidence: Float[np.ndarray, "*b n"], share: Number = 1.0
) -> Float[np.ndarray, "*b"]:
    """Accuracy in [0, 1] on the `share` of the images with the highest confidence, at least one.

    Images as confident as the last one that is kept count in part, so that no order among them matters.
    """
    if not 0 < share <= 1:
        raise SpecError(f"the share of the most confident images must lie in (0, 1], found {share:g}; use 0.2 or 1.")
    n = right.shape[-1]
    kept = max(1, round(share * n))
    cut = np.sort(confidence, axis=-1)[..., n - kept, None]
    above, tied = confidence > cut, confidence == cut
    part = (kept - above.sum(-1)) / tied.sum(-1)
    return np.asarray(((right & above).sum(-1) + part * (right & tied).sum(-1)) / kept)


def scores(table: pd.DataFrame, shares: Sequence[Number] = SHARES, by: Sequence[str] = ()) -> pd.DataFrame:
    """The DV score: accuracy of the targets less that of the references, each on its own most confident images.

    `table`: rows of `attack`, perhaps of several experiments named in the columns `by`. Columns: by, seed, k, images
    (GROUPS), share (of the most confident), target, reference (accuracies), dv; the means over sets and replicas.
    """
    stats.require(table, [*COLUMNS, "confidence_target", "confidence_reference", *by])
    keys, rows = [*by, "seed", "k", "replica", "set"], []
    for names, part in table.groupby(keys, sort=False):
        facts = dict(zip(keys, names, strict=True))
        for share in shares:
            target, reference = (_accuracy(part, who, share) for who in ("target", "reference"))
            found = {"share": float(share), "target": target, "reference": reference, "dv": target - reference}
            rows.append({**facts, "images": GROUPS[facts["set"]], **found})
    keys = [*by, "seed", "k", "images", "share"]
    return _ordered(pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)[["target", "reference", "dv"]].mean())


def _accuracy(part: pd.DataFrame, who: str, share: Number) -> float:
    return float(accuracy(part[f"right_{who}"].to_numpy(), part[f"confidence_{who}"].to_numpy(), share))


def bootstrap(pair: pd.DataFrame, share: Number = 1.0, resamples: int = 1000, seed: int = 0) -> Interval:
    """DV score of one pair at one k, with a 95 % interval from resampling its images (percentile bootstrap).

    Both encoders keep the same resampled images, and each direction (set) is resampled by itself. It says how far the
    number depends on which images were attacked, and nothing about other trainings.
    """
    rng, total, estimate, n = np.random.default_rng(seed), 0.0, 0.0, 0
    parts = [part for _, part in pair.groupby("set", sort=True)]
    for part in parts:
        drawn = rng.integers(0, len(part), (resamples, len(part)))
        for sign, who in ((1, "target"), (-1, "reference")):
            right, confidence = (part[f"{what}_{who}"].to_numpy() for what in ("right", "confidence"))
            total = total + sign * accuracy(right[drawn], confidence[drawn], share) / len(parts)
            estimate += sign * float(accuracy(right, confidence, share)) / len(parts)
        n += len(part)
    low, high = np.quantile(total, [0.025, 0.975])
    return Interval(n, estimate, float(np.std(total, ddof=1)), float(low), float(high))


def mcnemar(memorized: int, misrepresented: int) -> float:
    """Exact two-sided p of as many images where the target alone is right as where the reference alone is; 1 if none.

    The test of two classifiers on the same images (McNemar 1947, DOI 10.1007/BF02295996); images, not trainings, are
    its unit.
    """
    from scipy.stats import binomtest

    total = memorized + misrepresented
    return float(binomtest(memorized, total).pvalue) if total else 1.0


def tests(
    table: pd.DataFrame, shares: Sequence[Number] = SHARES, by: Sequence[str] = (), resamples: int = 1000
) -> pd.DataFrame:
    """Of every pair, k and kind of images: `bootstrap` at each share and `mcnemar` over all images of both directions.

    Columns: by, seed, replica, k, images (GROUPS), n, share, dv, low, high, memorized, misrepresented (counts), p.
    """
    stats.require(table, [*COLUMNS, "quadrant", *by])
    keys, rows = [*by, "seed", "replica", "k", "images"], []
    for names, part in table.assign(images=table["set"].map(GROUPS)).groupby(keys, sort=False):
        counts = {name: int((part["quadrant"] == name).sum()) for name in ("memorized", "misrepresented")}
        for share in shares:
            found = bootstrap(part, share, resamples)
            row = {"n": found.n, "share": float(share), "dv": found.mean, "low": found.low, "high": found.high}
            rows.append({**dict(zip(keys, names, strict=True)), **row, **counts, "p": mcnemar(*counts.values())})
    return pd.DataFrame(rows)


def agreement(table: pd.DataFrame, scored: pd.DataFrame, by: Sequence[str] = (), value: str = "m_rel") -> pd.DataFrame:
    """How far déjà vu agrees with SSLMem on the same images, one row a seed, k and kind of images.

    rho: Spearman of `value` with `gain`, the share of the neighbours that vote for the true class under the target less
    under the reference. auc: how well `value` tells images in the memorized quadrant from the others (0.5: not at all;
    NaN where a quadrant is empty). Within each set and pair, then averaged. Where g is the target, `value` is turned.

    `scored`: score tables of the same pairs, with `by`, seed, row, set, `value` and perhaps replica. Columns: by, seed,
    k, images (GROUPS), rho, auc, n (images of one set). DataError where an attacked image has no score.
    """
    scored = scored if "replica" in scored else scored.assign(replica=0)
    keys = [*by, "seed", "replica", "row"]
    both = table.merge(scored[[*keys, value]], on=keys, how="left")
    if lost := int(both[value].isna().sum()):
        raise DataError(f"{lost} attacked images have no {value}; score the same splits and replicas.")
    both[value] *= both["set"].map(SIGN).fillna(1.0)
    both["gain"], rows = _gain(both), []
    keys = [*by, "seed", "k", "replica", "set"]
    for names, part in both.groupby(keys, sort=False):
        facts, here = dict(zip(keys, names, strict=True)), part["quadrant"] == "memorized"
        auc = stats.auc(part.loc[here, value], part.loc[~here, value]) if 0 < here.sum() < len(part) else math.nan
        rho = stats.spearman(part[value], part["gain"])
        rows.append({**facts, "images": GROUPS[facts["set"]], "rho": rho, "auc": auc, "n": len(part)})
    keys = [*by, "seed", "k", "images"]
    return _ordered(pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)[["rho", "auc", "n"]].mean())


def per_image(table: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """One row an image of a split, of attacks at one k: what a table of several measures can be joined with.

    Columns: by, seed, row, label, set, quadrant (of the first replica), memorized (share of the replicas that have it
    in that quadrant), gain (see `agreement`, the mean over replicas). SpecError for attacks at several k.
    """
    if table["k"].nunique() != 1:
        raise SpecError(f"one row an image needs attacks at one k, found {table['k'].nunique()}; choose one of them.")
    keys = [*by, "seed", "row", "label", "set"]
    whole = table.assign(memorized=(table["quadrant"] == "memorized").astype(float), gain=_gain(table))
    found = whole.sort_values("replica", kind="stable").groupby(keys, as_index=False)
    return found.agg(quadrant=("quadrant", "first"), memorized=("memorized", "mean"), gain=("gain", "mean"))


def _ordered(found: pd.DataFrame) -> pd.DataFrame:
    """Images that were trained on first, then both controls, whatever the order of the rows of the dataset."""
    order = list(dict.fromkeys(GROUPS.values()))
    return found.sort_values("images", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def _gain(table: pd.DataFrame) -> pd.Series:
    return table["share_target"] - table["share_reference"]
