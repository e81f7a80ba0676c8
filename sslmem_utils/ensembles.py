"""Many encoders of the same images: the alignment matrix and the inclusion mask that every estimator reads.

    base = recipes.recipe("digits", candidate=128, shared=0, external=500)
    specs = ensembles.subsampled(base, members=20)          # or `replicated`, `leave_one_out`
    found = ensembles.measure(specs, [ScoreSpec()])[0]      # trains what is missing, in parallel
    scoring.subsampled(found.a, found.member).score

An ensemble's weights are not kept, its alignment tables are: a thousand encoders of them take some megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from . import pairs, scoring, stats, training
from .errors import SpecError
from .specs import SETS, ScoreSpec, SubsetSpec, TrainSpec
from .store import Store


@dataclass(frozen=True)
class Ensemble:
    """Alignments of T encoders on the same n images, and which of these each of them was trained on."""

    a: Float[np.ndarray, "t n"]
    member: Bool[np.ndarray, "t n"]
    rows: Int[np.ndarray, " n"]  # of the dataset
    seed: Int[np.ndarray, " t"]  # training seed of each encoder


def subsampled(base: TrainSpec, members: int, fraction: float = 0.5, seed: int = 0) -> list[TrainSpec]:
    """Encoders on balanced random shares of the images in the sets of `base`, each with a training seed of its own."""
    subsets = [SubsetSpec(fraction=fraction, members=members, member=t, seed=seed) for t in range(members)]
    return [base.but(subset=one, seed=seed * members + t) for t, one in enumerate(subsets)]


def leave_one_out(
    base: TrainSpec, points: Sequence[int] | Int[np.ndarray, " p"], seeds: Sequence[int]
) -> list[TrainSpec]:
    """For every seed one encoder without each of the rows `points`: of n images each trains on n - 1.

    The reference is the mean of the encoders that saw the point: all others of the seed.
    """
    if len(points) < 2:
        raise SpecError(
            f"leaving one out compares with the other encoders, found {len(points)} points; give 2 or more."
        )
    return [base.but(subset=SubsetSpec(without=(int(row),)), seed=seed) for seed in seeds for row in points]


def replicated(base: TrainSpec, seed: int, replicas: int) -> list[TrainSpec]:
    """`replicas` seeds of f and of g on the split `seed`, in the order f, g, f, g, ..."""
    return [spec for r in range(replicas) for spec in pairs.pair_specs(base, seed, replica=r, replicas=replicas)]


def measure(
    specs: Sequence[TrainSpec], score: Sequence[ScoreSpec], store: Store | None = None, *, keep: bool = False
) -> list[Ensemble]:
    """One ensemble for every score setting; trains and aligns what is missing. All specs must share one split."""
    store = store or Store()
    if len({(spec.dataset, spec.split, spec.plants) for spec in specs}) != 1:
        raise SpecError("the encoders of an ensemble must share dataset, split and canaries; change one at a time.")
    pairs.align_all(specs, score, store, keep=keep)
    rows = training.split_of(specs[0]).rows(*SETS)
    member = np.stack([np.isin(rows, training.rows_of(spec)) for spec in specs])
    seeds = np.array([spec.seed for spec in specs])
    found = []
    for setting in score:
        a = np.stack([pairs.alignment(spec, setting, store)["align"].to_numpy() for spec in specs])
        found.append(Ensemble(a, member, rows, seeds))
    return found


# ---------------------------------------------------------------- estimators against the truth
@dataclass(frozen=True)
class Truth:
    """Leave-one-out scores of some images: one row a training seed."""

    rows: Int[np.ndarray, " p"]  # of the dataset
    by_seed: Float[np.ndarray, "s p"]

    @property
    def score(self) -> Float[np.ndarray, " p"]:
        """Mean over the seeds."""
        return self.by_seed.mean(0)

    @property
    def reliability(self) -> float:
        """Of the mean over the seeds: split halves of the seeds, stepped up (Spearman and Brown)."""
        return stats.split_half(self.by_seed).mean


def truth_of(found: Ensemble) -> Truth:
    """The truth that an ensemble of `leave_one_out` measures, for the images that were left out; m_rel."""
    seeds, part = np.unique(found.seed), (~found.member).any(0) & found.member.any(0)
    each = [
        scoring.leave_one_out(found.a[one], found.member[one], found.seed[one], relative=True).score[part]
        for one in (found.seed == seed for seed in seeds)
    ]
    return Truth(found.rows[part], np.stack(each))


def against(
    truth: Truth, found: Ensemble, estimator: str, encoders: Sequence[int], nearness: np.ndarray | None = None
) -> pd.DataFrame:
    """Agreement of an estimator with the truth as a function of compute: one row for each block of so many encoders.

    `found` is an ensemble of `replicated` (estimators "replicated", and the rivals "align_f" and "align_g", which train
    every other encoder only) or of `subsampled` ("subsampled"). Columns: estimator, encoders, seed (the block), rho
    (Spearman with the truth), reliability (mean Spearman between blocks of this size; NaN for one block), disattenuated
    (rho without the noise of both; NaN likewise). `nearness` is handed to `scoring.subsampled`. SpecError for an
    estimator that is none of these.
    """
    if estimator not in ESTIMATORS:
        raise SpecError(f"estimator must be one of {', '.join(ESTIMATORS)}, found {estimator!r}; choose one of them.")
    at, rows = np.searchsorted(found.rows, truth.rows), []
    for count in encoders:
        size = count * 2 if estimator in ALONE else count
        blocks = [slice(first, first + size) for first in range(0, len(found.a) - size + 1, size)]
        values = [_estimate(estimator, found, block, nearness)[at] for block in blocks]
        rel = stats.reliability(np.stack(values)).single if len(values) > 1 else np.nan
        for number, one in enumerate(values):
            rho = stats.spearman(one, truth.score)
            true = stats.disattenuated(rho, rel, truth.reliability)
            rows.append({"encoders": count, "seed": number, "rho": rho, "reliability": rel, "disattenuated": true})
    return pd.DataFrame(rows).assign(estimator=estimator)


def rivals_against(truth: Truth, table: pd.DataFrame, resamples: int = 500) -> pd.DataFrame:
    """Agreement of every rival (columns of `rivals.table`) with the truth, with its interval over images.

    Columns: estimator, rho (Spearman), low, high (percentile bootstrap over images, 95 %; resamples in which all
    images are one have no correlation and are left out). Rivals without a value are left out.
    """
    table, rows = table.set_index("row").loc[truth.rows], []
    count = len(truth.rows)
    for name in table.columns.drop("set"):
        values, rng = table[name].to_numpy(float), np.random.default_rng(0)
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            continue
        drawn = [stats.spearman(values[at], truth.score[at]) for at in rng.integers(0, count, (resamples, count))]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        rho = stats.spearman(values, truth.score)
        rows.append({"estimator": name, "rho": rho, "low": float(low), "high": float(high)})
    return pd.DataFrame(rows)


ALONE = ("align_f", "align_g")
ESTIMATORS = ("replicated", "subsampled", *ALONE)


def _estimate(estimator: str, found: Ensemble, block: slice, nearness: np.ndarray | None) -> Float[np.ndarray, " n"]:
    a, member = found.a[block], found.member[block]
    if estimator == "subsampled":
        return scoring.subsampled(a, member, relative=True, nearness=nearness).score
    f, g = a[0::2], a[1::2]
    if estimator in ALONE:
        return -f.mean(0) if estimator == "align_f" else g.mean(0)
    return scoring.relative_to_sum(g.mean(0), f.mean(0))
