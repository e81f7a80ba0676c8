"""Encoders whose alignment is limited, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64

from .. import data, pairs, probes, recipes, removal, rivals, scoring, stats, training
from ..errors import SpecError
from ..specs import MethodSpec, ScoreSpec, TrainSpec, digest, seed_of
from ..stats import Number
from ..store import Store
from ..versions import version_of
from .matching import EVERY, MOST, NONE, RANDOM, rankme, uniformity

KIND = "geometry"
NAME = "limited_simclr"
Rows = Int64[np.ndarray, " p"]
Pair = tuple[TrainSpec, TrainSpec]


@dataclass(frozen=True)
class Plan:
    """What is limited, how much, and how it is measured.

    `limits`: weights for the arm that limits all points; `chosen_limits`: for the two that limit a share `fraction` of
    the candidates, `balanced` over the classes; `start`: share of the training before which nothing is limited.
    """

    limits: Sequence[Number]
    chosen_limits: Sequence[Number]
    fraction: Number = 0.4
    start: Number = 0.25
    balanced: bool = True
    views: int = 20
    fit: int = probes.FIT
    test: int = probes.TEST


def limited(
    base: TrainSpec, limit: Number, rows: Sequence[int] | Rows | None = None, start: Number = 0.25
) -> TrainSpec:
    """`base` with the alignment of all its images, or of those at `rows` of the dataset, limited with weight `limit`.

    `start`: share of the training before which nothing is limited. SpecError for another method than SimCLR, for no
    rows and for rows that the encoder does not train on.
    """
    if base.method.name != "simclr":
        raise SpecError(f"limiting alignment is written for simclr, found {base.method.name}; change the method.")
    options = {**base.method.options, "limit": float(limit), "start": float(start)}
    if rows is not None:
        rows = np.unique(np.asarray(rows, dtype=np.int64))
        if not len(rows) or (others := np.setdiff1d(rows, training.rows_of(base))).size:
            found = f"row {others[0]}" if len(rows) else "none"
            raise SpecError(f"limited rows must be images that the encoder trains on, found {found}; choose others.")
        options["ids"] = " ".join(map(str, data.load(base.dataset).ids[rows].tolist()))
    return base.but(method=MethodSpec(name=NAME, options=options))


def arms(base: TrainSpec, seed: int, plan: Plan, chosen: Mapping[str, Rows]) -> dict[tuple[str, float], Pair]:
    """f and its reference g of every arm and limit of one replication.

    "none" (limit 0): f and g as they are. "all points": both are limited on all their images, because the definition
    takes g from the same algorithm. The arms of `chosen` (rows of half A, by arm): f is limited on those candidates
    alone, and g, which has none of them, is that of "none". All f of a replication share their training seed, all g
    another; no encoder that chose the rows has either.
    """
    f = removal.retrained(base, seed, ())
    g = pairs.pair_specs(base, seed)[1].but(seed=f.seed + 1)
    found = {(NONE, 0.0): (f, g)}
    for one in map(float, plan.limits):
        found[EVERY, one] = limited(f, one, start=plan.start), limited(g, one, start=plan.start)
    for arm, rows in chosen.items():
        for one in map(float, plan.chosen_limits):
            found[arm, one] = limited(f, one, rows, plan.start), g
    return found


def chosen(base: TrainSpec, seed: int, plan: Plan, store: Store | None = None) -> dict[str, Rows]:
    """The candidates that the arms "most memorized" and "random" limit, by scores from encoders of other seeds."""
    table = removal.scores(base, seed, store, views=plan.views)
    count, draw = round(plan.fraction * len(table)), seed_of("limited", seed)
    return {
        arm: removal.chosen(how, table, count, draw, balanced=plan.balanced)
        for arm, how in ((MOST, "top"), (RANDOM, "random"))
    }


def measure(base: TrainSpec, seeds: Sequence[int], plan: Plan, store: Store | None = None) -> pd.DataFrame:
    """One row a seed, arm and limit; trains what is missing, several encoders at a time.

    Columns: seed, arm, limit; `candidate`, `independent`, `most`, `random`: mean m_rel of these sets and of the chosen
    candidates, each less that of the external images; `auc`: candidates against external images by m_rel;
    `align_candidate`, `align_external`: mean alignment losses under f; uniformity and rankme (`geometry`); knn, linear
    and spread of f (`probes.of`).
    """
    store = store or Store()
    if not seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    score = ScoreSpec(representation=recipes.representation(base), views=plan.views, compute=base.compute)
    pairs.align_all([spec for seed in seeds for spec in pairs.pair_specs(base, seed)], [score], store)
    rows = {seed: chosen(base, seed, plan, store) for seed in seeds}
    each = {seed: arms(base, seed, plan, rows[seed]) for seed in seeds}
    specs = list(dict.fromkeys(spec for found in each.values() for pair in found.values() for spec in pair))
    pairs.align_all(specs, [score], store)
    removal.probe_all([f for found in each.values() for f, _ in found.values()], store, fit=plan.fit, test=plan.test)
    return pd.DataFrame(
        [
            {"seed": seed, "arm": arm, "limit": limit, **_row(pair, rows[seed], plan, score, store)}
            for seed, found in each.items()
            for (arm, limit), pair in found.items()
        ]
    )


def _row(pair: Pair, rows: Mapping[str, Rows], plan: Plan, score: ScoreSpec, store: Store) -> dict[str, float]:
    f, images = pair[0], data.load(pair[0].dataset)
    tables = [pairs.alignment(spec, score, store) for spec in pair]
    scored = scoring.score_table(*tables, training.split_of(f), images.index, images.labels.numpy())
    aligned = scored.groupby("set")["align_f"].mean()
    probed = probes.of(f, store, fit=plan.fit, test=plan.test).iloc[0]
    return {
        **_memorized(scored, {"most": rows[MOST], "random": rows[RANDOM]}),
        **{f"align_{name}": aligned[name] for name in ("candidate", "external")},
        **geometry(f, store),
        **probed[["knn", "linear", "spread"]].to_dict(),
    }


def _memorized(scored: pd.DataFrame, groups: Mapping[str, Rows]) -> dict[str, float]:
    by_set = stats.scores_by_set(scored)
    zero = by_set["external"].mean()
    found = {name: by_set[name].mean() - zero for name in ("candidate", "independent")}
    for name, rows in groups.items():
        found[name] = scored.loc[scored["row"].isin(list(rows)), "m_rel"].mean() - zero
    return found | {"auc": stats.auc(by_set["candidate"], by_set["external"])}


# ---------------------------------------------------------------- the geometry of representations
def geometry(spec: TrainSpec, store: Store | None = None) -> dict[str, float]:
    """`uniformity` and `rankme` of a trained encoder's representations of the external images, stored.

    The images themselves are represented, not views of them. The encoder is trained when it is missing.
    """
    store = store or Store()
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)

    def write(folder: Path) -> None:
        training.train(spec, store)
        model, given = training.load(spec, store), training.inputs(spec)
        where = probes.representation_of(model)
        z = rivals.outputs(lambda x: model.features(x, where), model, given.images, given.split.external)
        found = pd.DataFrame([{"uniformity": uniformity(z), "rankme": rankme(z)}])
        found.to_parquet(folder / "geometry.parquet", index=False)

    name = digest("geometry", encoder, version_of("limiting"))
    folder = store.compute(KIND, name, write, {"spec": spec.model_dump(mode="json")})
    return pd.read_parquet(folder / "geometry.parquet").iloc[0].to_dict()
