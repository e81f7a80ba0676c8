"""Unlearning by retraining: is an image that was taken away still memorized?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .. import pairs, scoring, stats, training
from ..errors import SpecError
from ..specs import TrainSpec
from ..store import Store
from .designs import NOTHING
from .retraining import AGAIN, planned
from .scored import Setting, score_of

FRESH = AGAIN - 1  # number of the retraining whose seed the second g takes


def forgotten(
    base: TrainSpec,
    seeds: Sequence[int],
    fraction: float,
    arms: Sequence[str] = ("top", "random"),
    *,
    setting: Setting | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """m_rel of the images that were removed, before and after retraining without them; trains what is missing.

    Columns: seed, arm, images ("removed", or "kept": the rest of half A), encoder ("before": retrained on all of half
    A, "after": without the arm's images), m_rel: its mean less that of the external images, which is the noise floor,
    floor (that mean), auc: of these images against the external ones. Both are scored against a g that was not there
    when the images were chosen: chosen for a high loss under one g, they would look memorized against it for ever.
    """
    store, setting, rows = store or Store(), setting or Setting(), []
    if not 0 < fraction < 1:
        raise SpecError(f"the fraction to forget must lie between 0 and 1, found {fraction:g}; use 0.4.")
    plan = planned(base, seeds, [0.0, fraction], arms, setting=setting, store=store)
    score, specs = score_of(base, setting.views, setting.representation), {}
    for names, spec in plan:
        specs[names["seed"], names["arm"]] = spec
    for seed in seeds:
        start = specs[seed, NOTHING].seed + FRESH
        specs[seed, "g"] = pairs.pair_specs(base, seed)[1].but(seed=start)
    pairs.align_all(list(specs.values()), [score], store)
    for seed in seeds:
        split = training.split_of(specs[seed, NOTHING])
        found = {
            name: pairs.alignment(spec, score, store).set_index("row")["align"]
            for (of, name), spec in specs.items()
            if of == seed
        }
        for arm in arms:
            kept = training.rows_of(specs[seed, arm])
            parts = {"removed": np.setdiff1d(split.candidate, kept), "kept": kept}
            for when, encoder in (("before", NOTHING), ("after", arm)):
                m = pd.Series(
                    scoring.relative_to_sum(found["g"].to_numpy(), found[encoder].to_numpy()), found["g"].index
                )
                rows += [{"seed": seed, "arm": arm, "encoder": when, **_row(m, part, split.external), "images": name}
                         for name, part in parts.items()]  # fmt: skip
    return pd.DataFrame(rows)


def _row(m: pd.Series, rows: np.ndarray, external: np.ndarray) -> dict[str, float]:
    floor = float(m.loc[external].mean())
    return {"m_rel": float(m.loc[rows].mean()) - floor, "floor": floor, "auc": stats.auc(m.loc[rows], m.loc[external])}
