"""The score as an instrument: agreement with leave-one-out truth, reliability of designs, other choices of g."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from . import ensembles, pairs, rivals, scoring, stats, training
from .errors import SpecError
from .specs import ScoreSpec, TrainSpec
from .store import Store

SIZES = {"replicated": (2, 4, 14, 28, 70, 140), "subsampled": (7, 14, 28, 70, 140)}
SIZES |= {"align_f": (1, 7, 14, 70), "align_g": (1, 7, 14, 70)}
APART = 1000  # added to the training seeds of what is compared with the truth, so that they share no draw
DESIGNS = ("random fractions", "fractions, controlled")


def against_truth(
    base: TrainSpec, points: int, seeds: int, encoders: int, score: ScoreSpec, store: Store | None = None
) -> pd.DataFrame:
    """Agreement of estimators and rivals with leave-one-out scores of the first `points` candidates of `base`.

    Ensembles of up to `encoders` are compared with the truth of `seeds` seeds; they share neither its training seeds
    nor its views. Columns as `ensembles.against` and `ensembles.rivals_against`, and `truth`: its reliability.
    """
    left_out = training.split_of(base).candidate[:points]
    plan = ensembles.leave_one_out(base, left_out, range(seeds))
    known = ensembles.truth_of(ensembles.measure(plan, [score], store)[0])
    pool, anew = base.but(sets=("shared", "candidate", "independent")), score.but(view_seed=score.view_seed + 1)
    plans = {
        "replicated": ensembles.replicated(base, base.split.seed, encoders // 2),
        "subsampled": ensembles.subsampled(pool, encoders, fraction(base)),
    }
    found = {
        name: ensembles.measure([one.but(seed=one.seed + APART) for one in specs], [anew], store)[0]
        for name, specs in plans.items()
    }
    near, parts = nearness_in(found["subsampled"], base), []
    for name, sizes in SIZES.items():
        fitting = [count for count in sizes if count <= encoders]
        ensemble = found.get(name, found["replicated"])
        parts.append(ensembles.against(known, ensemble, name, fitting))
        if name == "subsampled":
            parts.append(ensembles.against(known, ensemble, name, fitting, near).assign(estimator="controlled"))
    parts.append(ensembles.rivals_against(known, rivals.table(base, base.split.seed, store, anew)))
    return pd.concat(parts, ignore_index=True).assign(truth=known.reliability)


def fraction(base: TrainSpec) -> float:
    """Share of the pool of shared, candidate and independent images that one encoder of a pair is trained on."""
    split = base.split
    return (split.shared + split.candidate) / (split.shared + split.candidate + split.independent)


def nearness_in(found: ensembles.Ensemble, base: TrainSpec) -> np.ndarray:
    """How near the images of an ensemble are to each other (`stats.nearness`)."""
    return stats.nearness(training.inputs(base).images.rows(found.rows).numpy())


def fractions(
    base: TrainSpec,
    members: int,
    score: Sequence[ScoreSpec],
    sizes: Sequence[int],
    pools: Sequence[int] = (0,),
    store: Store | None = None,
) -> pd.DataFrame:
    """Reliability of `subsampled`, plain and with the control variate, by the number of encoders in an ensemble.

    The mean correlation between disjoint blocks of so many of the `members` encoders (two blocks at least), over all
    images of the pool: the sets of one split. `pools` are the seeds of the splits; pools share neither encoders nor
    their training seeds. Columns: representation, design (DESIGNS), encoders, pool, reliability.
    """
    rows, specs = [], {}
    for pool in pools:
        whole = base.but(sets=("shared", "candidate", "independent"), split=base.split.but(seed=pool))
        specs[pool] = ensembles.subsampled(whole, members, fraction(base), seed=pool)
    pairs.align_all([spec for some in specs.values() for spec in some], score, store, keep=False)
    for pool, some in specs.items():
        found = ensembles.measure(some, score, store)
        near = nearness_in(found[0], base)
        for one, setting in zip(found, score, strict=True):
            for design, control in zip(DESIGNS, (None, near), strict=True):
                for size in (size for size in sizes if 2 * size <= members):
                    row = {"representation": setting.representation, "design": design, "encoders": size, "pool": pool}
                    rows.append({**row, "reliability": _between_blocks(one, size, control)})
    return pd.DataFrame(rows)


def _between_blocks(found: ensembles.Ensemble, size: int, nearness: np.ndarray | None) -> float:
    inside, blocks = found.member.any(0), range(0, len(found.a) - size + 1, size)
    values = [
        scoring.subsampled(found.a[at : at + size], found.member[at : at + size], relative=True, nearness=nearness)
        for at in blocks
    ]
    return stats.reliability(np.stack([one.score[inside] for one in values])).single


def references(
    base: TrainSpec,
    seed: int,
    replicas: int,
    others: Mapping[str, Mapping[str, object]],
    score: ScoreSpec,
    wanted: pd.Series,
    store: Store | None = None,
) -> pd.DataFrame:
    """Choices of g for the first f of a split: how well each tells candidates from strangers, and how it ranks them.

    `others` names changes of g's spec (encoder, dataset); an untrained g and no g at all are always among the choices.
    `wanted` (indexed by row) is the score that candidates should have. Columns: g, seed, auc (candidates against
    external images), agreement (Spearman with `wanted` on the candidates). SpecError where `wanted` lacks candidates.
    """
    f, g = pairs.pair_specs(base, seed, replicas=replicas)
    choices = {"trained alike": g, **{name: g.but(**changes) for name, changes in others.items()}}
    training.train_all([f, *choices.values()], store)
    of_f, split = pairs.alignment(f, score, store).set_index("row")["align"], training.split_of(f)
    if not np.isin(split.candidate, wanted.index).all():
        raise SpecError("the wanted score must name every candidate of the split, found some without; score them all.")
    tables = {name: pairs.alignment(spec, score, store, on=g) for name, spec in choices.items()}
    tables["not trained"] = pairs.align_on(pairs.untrained(g), score, g)
    scores = {
        name: pd.Series(scoring.relative_to_sum(table["align"].to_numpy(), of_f.to_numpy()), of_f.index)
        for name, table in tables.items()
    }
    scores["none: align of f alone"] = -of_f
    rows = []
    for name, m in scores.items():
        auc = stats.auc(m.loc[split.candidate], m.loc[split.external])
        alike = stats.spearman(m.loc[split.candidate], wanted.loc[split.candidate])
        rows.append({"g": name, "seed": seed, "auc": auc, "agreement": alike})
    return pd.DataFrame(rows)
