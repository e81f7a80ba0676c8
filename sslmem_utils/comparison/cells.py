"""Cells of the paper's Table 1: how much encoders memorize, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd
from jaxtyping import Float

from .. import pairs, probes, scoring, stats
from ..errors import DataError
from ..specs import ScoreSpec, TrainSpec
from ..store import Store
from .experiments import setting, size_of


def cell(
    base: TrainSpec,
    seeds: Sequence[int],
    *,
    replicas: int = 1,
    score: ScoreSpec | None = None,
    labelled: int = probes.FIT,
    store: Store | None = None,
) -> pd.DataFrame:
    """One row a split seed, averaged over its `replicas` pairs; trains what is missing.

    Columns: seed; those of `levels` and `noise`; knn, linear: accuracy of the first f in [0, 1] (`probes.of`), with
    `labelled` images that neither f nor g has seen to fit and as many to test it, NaN where that is 0; parameters of
    the encoder. `score` defaults to `setting(base)`.
    """
    store, score = store or Store(), score or setting(base)
    table, rows = pairs.scores(base, seeds, [score], replicas=replicas, store=store), []
    for seed, part in table.groupby("seed"):
        each = [one for _, one in part.groupby("replica")] if replicas > 1 else [part]
        row = {"seed": seed, **pd.DataFrame([levels(one) for one in each]).mean().to_dict(), **noise(each)}
        f = pairs.pair_specs(base, int(seed), replicas=replicas)[0]
        accuracy = {"knn": math.nan, "linear": math.nan}
        if labelled:
            accuracy = probes.of(f, store, fit=labelled, test=labelled)[["knn", "linear"]].iloc[0]
        rows.append({**row, **accuracy})
    return pd.DataFrame(rows).assign(parameters=size_of(base))


def levels(table: pd.DataFrame) -> dict[str, float]:
    """How much one pair memorizes, from its score table.

    avg: mean m_rel of the candidates less that of the external images; avg_raw: without that; avg_range: mean of
    m_range over the candidates (the paper's average, not comparable between encoders). frac95, frac99: share of the
    candidates above that percentile of the external images (`above`; nominally .05 and .01), frac95_shared: of the
    shared images, a control. auc: P(candidate > external). d: Cohen's d of the two. rel_views: reliability over views.
    """
    sets = stats.scores_by_set(table)
    if not {"candidate", "external"} <= set(sets):
        raise DataError("thresholds are read off external images, found none in the scores; raise `external`.")
    candidate, external = sets["candidate"], sets["external"]
    part = table[table["set"] == "candidate"]
    halves = stats.spearman(part["half_0"], part["half_1"]) if part["half_1"].notna().all() else math.nan
    return {
        "avg": float(candidate.mean() - external.mean()),
        "avg_raw": float(candidate.mean()),
        "avg_range": float(part["m_range"].mean()),
        "frac95": above(candidate, external, 0.95),
        "frac99": above(candidate, external, 0.99),
        "frac95_shared": above(sets["shared"], external, 0.95) if "shared" in sets else math.nan,
        "auc": stats.auc(candidate, external),
        "d": stats.cohens_d(candidate, external),
        "rel_views": stats.spearman_brown(halves, 2),
    }


def above(scores: Float[np.ndarray, " n"], reference: Float[np.ndarray, " e"], percentile: float) -> float:
    """Share of `scores` above a percentile of `reference`, which is set so that a new reference image is above it with
    probability 1 - percentile (Weibull's plotting position, (e + 1) p).

    NaN below 1 / (1 - percentile) - 1 reference images, 99 for the 99th: no order statistic is as high.
    """
    if (len(reference) + 1) * (1 - percentile) < 1 - 1e-9:
        return math.nan
    return float((scores > np.quantile(reference, percentile, method="weibull")).mean())


def noise(tables: Sequence[pd.DataFrame]) -> dict[str, float]:
    """What several pairs of one split say of the noise of one of them; NaN with one pair.

    rel_seeds: mean Spearman between the pairs' candidate scores, the reliability of one pair. floor: root mean square
    of m_rel between two encoders trained on the SAME images, over those images and centred; spread: standard deviation
    of m_rel over the candidates, beside it.
    """
    rows = [one[one["set"] == "candidate"].sort_values("row") for one in tables]
    spread = float(np.mean([one["m_rel"].std() for one in rows]))
    if len(rows) < 2:
        return {"rel_seeds": math.nan, "floor": math.nan, "spread": spread}
    rel = stats.reliability(np.stack([one["m_rel"].to_numpy() for one in rows])).single
    same = [
        np.std(scoring.relative_to_sum(b[of].to_numpy(), a[of].to_numpy()))
        for a, b in combinations(rows, 2)
        for of in ("align_f", "align_g")
    ]
    return {"rel_seeds": rel, "floor": float(np.sqrt(np.mean(np.square(same)))), "spread": spread}


def rank_with_accuracy(cells: pd.DataFrame) -> pd.DataFrame:
    """Spearman between accuracy and memorization over the cells of each seed, averaged over datasets.

    Ranks are taken within a dataset, because datasets differ in both for reasons of their own. `cells`: rows of `cell`
    with columns `cell` and `dataset`. Columns: seed, accuracy (linear, knn), value (avg, auc), cells (the fewest of a
    dataset), rho. Seeds in which either side is constant and datasets of fewer than three cells are left out.
    """
    rows = []
    for seed, part in cells.groupby("seed"):
        each = [one for _, one in part.groupby("dataset") if len(one) > 2]
        for accuracy, value in product(("linear", "knn"), ("avg", "auc")):
            found = [stats.spearman(one[accuracy], one[value]) for one in each]
            if found and np.isfinite(found).all():
                row = {"seed": seed, "accuracy": accuracy, "value": value, "cells": min(map(len, each))}
                rows.append({**row, "rho": float(np.mean(found))})
    return pd.DataFrame(rows, columns=["seed", "accuracy", "value", "cells", "rho"])
