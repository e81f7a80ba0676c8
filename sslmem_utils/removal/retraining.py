"""Retrain without some of half A, and probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Int64

from .. import pairs, probes, recipes, training
from ..errors import SpecError
from ..specs import ComputeSpec, DatasetSpec, SubsetSpec, TrainSpec, seed_of
from ..store import Store
from .arms import chosen
from .designs import NOTHING, PLAIN, WEIGHT_DECAY, design
from .scored import Setting, measures, near_duplicates, planted_rows, score_of, scored_pairs

RETRAINED = 1_000_000_000  # training seeds of retrained encoders start here, far from those of pairs
AGAIN = 1000  # retrainings of a seed, at most


def base(
    dataset: str | DatasetSpec, n: int, external: int, compute: ComputeSpec | None = None, **fields: object
) -> TrainSpec:
    """The recipe of halves: f trains on n images, half A, and g on n others, half B; S_S is empty.

    As in the authors' code (25,000 and 25,000 of CIFAR-10). `fields` as for `recipes.recipe`.
    """
    return recipes.recipe(dataset, shared=0, candidate=n, external=external, compute=compute, **fields)


# ---------------------------------------------------------------- retraining
def retrained(
    base: TrainSpec,
    seed: int,
    rows: Sequence[int] | Int64[np.ndarray, " r"],
    retraining: int = 0,
    *,
    equal_steps: bool = False,
    same_seed: bool = False,
) -> TrainSpec:
    """f of the split `seed` without these rows, trained from scratch; all that share `retraining` share their seed.

    That seed is no pair's, unless `same_seed` asks for that of the scored f. The batch shrinks so that every image left
    is seen in every epoch (to within a step's remainder). `equal_steps` raises the epochs until there are as many steps
    as with all images (to within one epoch). SpecError for rows that are no candidates and when fewer than 2 images are
    left.
    """
    if not 0 <= retraining < AGAIN:
        raise SpecError(f"retrainings are counted from 0 to {AGAIN - 1}, found {retraining}; lower it.")
    f, rows = pairs.pair_specs(base, seed)[0], np.unique(np.asarray(rows, dtype=np.int64))
    split = training.split_of(f)
    if len(strange := np.setdiff1d(rows, split.candidate)):
        name = split.names().get(int(strange[0]), "")
        raise SpecError(
            f"only candidates can be removed, found row {strange[0]} of {f'the {name} set' if name else 'no set'}, "
            "whose score says nothing about f alone; take rows of half A."
        )
    whole, left = f.images, f.images - len(rows)
    if left < 2:
        raise SpecError(f"removing {len(rows)} of {whole} images leaves {left} to train on; remove fewer.")
    steps = math.ceil(left / (f.batch * f.accumulate))
    batch, epochs = f.batch if not len(rows) else left // (steps * f.accumulate), f.epochs
    batch -= batch % f.compute.processes
    if equal_steps:
        epochs = round(epochs * (whole // (f.batch * f.accumulate)) / steps)
    changes = {"subset": SubsetSpec(without=tuple(rows.tolist())) if len(rows) else None, "batch": batch}
    start = f.seed if same_seed else RETRAINED + AGAIN * seed + retraining
    return f.but(**changes, epochs=epochs, seed=start)


def planned(
    base: TrainSpec,
    seeds: Sequence[int],
    fractions: Sequence[float] = (0.4,),
    arms: Sequence[str] = ("random", "top"),
    *,
    keep: bool = False,
    control: str = PLAIN,
    epochs: Sequence[int] = (),
    retrainings: int = 1,
    setting: Setting | None = None,
    store: Store | None = None,
) -> list[tuple[dict[str, object], TrainSpec]]:
    """What `measure` trains and probes: the names of each encoder and its spec; half A is scored on the way.

    A fraction of 0 removes nothing: one encoder, arm "none". With `keep` the fraction that an arm chooses is what
    stays, and all else is removed. `control` is a design by name (`design`). `epochs`: lengths of the retrainings, each
    with a schedule of its own; default: that of `base`, which the scored pairs always have.

    Names: seed, retraining, design, arm, fraction, epochs, steps, removed, left (images), taken: mean m_rel of the
    arm's images, in standard deviations from that of half A, caught: the share of the planted images among the removed
    (both NaN where there are none).
    """
    store, setting, switches = store or Store(), setting or Setting(), design(control)
    if not seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    if bad := [one for one in fractions if not 0 <= one < 1]:
        raise SpecError(f"a fraction must lie in [0, 1), found {bad[0]:g}; removing all leaves nothing.")
    if switches.weight_decay:
        base = base.but(weight_decay=0.0 if base.weight_decay else WEIGHT_DECAY)
    several = [scored_pairs(base, seed, setting.replicas, switches.duplicates) for seed in seeds]
    specs = [spec for found in several for pair in found for spec in pair]  # so that every process has one to train
    pairs.align_all(specs, [score_of(base, setting.views, setting.representation)], store)
    found = []
    for seed in seeds:
        gone = near_duplicates(base, seed, switches.duplicates) if switches.duplicates else np.empty(0, np.int64)
        table, canary = measures(base, seed, arms, store, setting, switches.duplicates), planted_rows(base, seed)
        z = (table["m_rel"] - table["m_rel"].mean()) / table["m_rel"].std()
        options = {"equal_steps": switches.equal_steps, "same_seed": switches.same_seed}
        for retraining in range(1 if switches.same_seed else retrainings):
            draw = seed_of("removed", seed, retraining)
            for arm, fraction in _cells(arms, fractions):
                count = round(fraction * len(table))
                taken = chosen(arm, table, count, draw, balanced=switches.balanced) if count else gone[:0]
                left = np.setdiff1d(table["row"], taken) if keep and count else taken
                names = {"seed": seed, "retraining": retraining, "design": control, "arm": arm, "fraction": fraction}
                names |= {"removed": len(left), "taken": float(z[table["row"].isin(taken)].mean())}
                names["caught"] = float(np.isin(canary, left).mean()) if len(canary) else math.nan
                for length in epochs or (base.epochs,):
                    spec = retrained(base.but(epochs=length), seed, np.concatenate([gone, left]), retraining, **options)
                    sizes = {
                        "epochs": spec.epochs,
                        "steps": spec.epochs * (spec.images // (spec.batch * spec.accumulate)),
                    }
                    found.append(({**names, **sizes, "left": spec.images}, spec))
    return found


def _cells(arms: Sequence[str], fractions: Sequence[float]) -> list[tuple[str, float]]:
    return [(arm if fraction else NOTHING, fraction) for fraction in fractions for arm in (arms if fraction else "-")]


def measure(
    base: TrainSpec,
    seeds: Sequence[int],
    fractions: Sequence[float] = (0.4,),
    arms: Sequence[str] = ("random", "top"),
    setting: Setting | None = None,
    store: Store | None = None,
    **how: object,
) -> pd.DataFrame:
    """Retrain without each fraction of half A, chosen by each arm, and probe; trains and probes what is missing.

    One row an encoder: the names of `planned`, which takes all arguments, knn and linear (accuracy in [0, 1]).
    SpecError for fractions outside [0, 1) and without seeds.
    """
    store, setting = store or Store(), setting or Setting()
    plan = planned(base, seeds, fractions, arms, setting=setting, store=store, **how)
    found = probe_all([spec for _, spec in plan], store, fit=setting.fit, test=setting.test)
    return pd.concat([pd.DataFrame([names for names, _ in plan]), found[["knn", "linear"]]], axis=1)


def probe_all(specs: Sequence[TrainSpec], store: Store | None = None, *, fit: int, test: int) -> pd.DataFrame:
    """`probes.of` of many encoders, one row each in their order; what is missing is trained and probed in parallel."""
    store = store or Store()
    missing = [spec for spec in specs if store.get(probes.KIND, probes.key(spec, fit=fit, test=test)) is None]
    if missing:
        training.train_all(missing, store, then=partial(_probe, fit, test))
    return pd.concat([probes.of(spec, store, fit=fit, test=test) for spec in specs], ignore_index=True)


def _probe(fit: int, test: int, spec: TrainSpec, store: Store) -> None:
    probes.of(spec, store, fit=fit, test=test)
