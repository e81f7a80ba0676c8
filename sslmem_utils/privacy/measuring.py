"""What every arm memorizes, gives away and is good for."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .. import pairs, probes, stats
from ..errors import DataError, SpecError
from ..specs import ScoreSpec, TrainSpec
from ..store import Store
from .accounting import bound, epsilon
from .arms import NO_PRIVACY, Arm
from .attacks import attack


def setting(base: TrainSpec, views: int, representation: str = "pooled") -> ScoreSpec:
    """How encoders are scored: the class token, through the views that they were trained with."""
    return ScoreSpec(representation=representation, views=views, compute=base.compute)


def images(arm: Arm, seeds: Sequence[int], score: ScoreSpec | None = None, store: Store | None = None) -> pd.DataFrame:
    """One row a seed and image of an arm's pairs, trained where they are missing.

    Columns as `scoring.score_table`, with seed, arm and `from_f`: minus the alignment loss under f, what an attacker
    sees who has f alone and asks it for views of an image (as EncoderMI does, Liu et al. 2021, arXiv 2108.11023).
    """
    score = score or setting(arm.spec, 20)
    table = pairs.scores(arm.spec, seeds, [score], store=store)
    return table.assign(arm=arm.name, from_f=-table["align_f"])


def measure(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    delta: stats.Number,
    score: ScoreSpec | None = None,
    *,
    fit: int = probes.FIT,
    test: int = probes.TEST,
    store: Store | None = None,
) -> pd.DataFrame:
    """One row an arm and seed; trains what is missing.

    Columns: arm, family, dose, seed; epsilon (the accountant's, infinite without privacy), bound (most true positives
    of any attack on one encoder at 1 % false ones), delta, noise, norm, rate
    (of the Poisson batches), steps; m (mean m_rel of the candidates less that of the external images), m_shared; auc,
    tpr_1 and tpr_01 of the attacks from m and from f alone, as m_auc, f_auc and so on (members are the candidates,
    others the external images); knn, linear: accuracy of probes of f in [0, 1].
    """
    if not arms:
        raise SpecError("an experiment needs an arm, found none; make them with privacy.design.")
    store, score = store or Store(), score or setting(arms[0].spec, 20)
    specs = [spec for arm in arms for seed in seeds for spec in pairs.pair_specs(arm.spec, seed)]
    pairs.align_all(specs, [score], store)  # all arms at once: more for processes to share
    rows = []
    for arm in arms:
        table, private = images(arm, seeds, score, store), arm.spec.private
        facts = {"arm": arm.name, "family": arm.family, "dose": arm.dose, "epsilon": epsilon(arm.spec, delta)}
        facts |= {
            "bound": bound(facts["epsilon"], delta, 0.01),
            "delta": delta,
            "noise": private.noise,
            "norm": private.norm if private.clips else float("inf"),
        }
        facts |= {
            "rate": arm.spec.batch / arm.spec.images,
            "steps": arm.spec.epochs * (arm.spec.images // arm.spec.batch),
        }
        for seed, part in table.groupby("seed"):
            means = stats.set_means(part).set_index("set")["centred"]
            row = {**facts, "seed": seed, "m": means["candidate"], "m_shared": means.get("shared", float("nan"))}
            for name, column in {"m": "m_rel", "f": "from_f"}.items():
                sets = stats.scores_by_set(part, column)
                found = attack(sets["candidate"], sets["external"])
                row |= {f"{name}_{what}": value for what, value in found.items()}
            f = pairs.pair_specs(arm.spec, int(seed))[0]
            probe = probes.of(f, store, fit=fit, test=test).iloc[0]
            rows.append({**row, "knn": probe["knn"], "linear": probe["linear"]})
    return pd.DataFrame(rows)


def matched(table: pd.DataFrame, arm: str, accuracy: str = "linear") -> pd.DataFrame:
    """Of every family of controls the dose whose mean accuracy over seeds is nearest to that of a private arm.

    `table`: of `measure`. One row a control and seed: family, arm (the dose taken), seed, gap (accuracy of the control
    less that of the private arm, means over seeds), m and m_private. The dose is chosen by accuracy alone, so that m
    takes no part in it. DataError for an arm that is not in the table or a table without controls.
    """
    if arm not in set(table["arm"]):
        raise DataError(f"the table has the arms {', '.join(dict.fromkeys(table['arm']))}, found {arm!r}; use one.")
    controls = table[~table["family"].isin(["private"])]
    # training without privacy is the last rung of early stopping: all of the epochs
    controls = controls.assign(family=controls["family"].replace({NO_PRIVACY: "early stop"}))
    if controls.empty:
        raise DataError("no control without privacy in the table; add noises, norms or early to the design.")
    private = table[table["arm"] == arm].set_index("seed")
    rows = []
    for family, part in controls.groupby("family", sort=False):
        gaps = part.groupby("arm", sort=False)[accuracy].mean() - private[accuracy].mean()
        name = gaps.abs().idxmin()
        for row in part[part["arm"] == name].itertuples():
            found = {"family": family, "arm": name, "seed": row.seed, "gap": float(gaps[name])}
            rows.append({**found, "m": row.m, "m_private": float(private["m"][row.seed])})
    return pd.DataFrame(rows)
