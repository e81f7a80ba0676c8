"""bf16 against float32: do scores of a bf16 pair agree with those of its float32 twin better than other seeds do?

Digits, a small MLP, few epochs: on a processor without AMX bf16 is emulated and slow, and what is compared here is
scores, not speed. The twin has the same split, initialisation, data order and views; the other pair has the same split
and other seeds. All are scored in float32 with the same views.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd

from sslmem_utils import data, pairs, recipes, scoring, stats, training
from sslmem_utils.specs import ComputeSpec, ScoreSpec, TrainSpec
from sslmem_utils.store import Store

from . import table

LINE = "precision"
N, EPOCHS, SPLITS = 125, 40, 3


def tasks(effort: table.Effort) -> Iterator[tuple[str, Callable]]:
    """One experiment."""
    yield f"{LINE} digits mlp", partial(agreement, effort)


def agreement(effort: table.Effort) -> list[table.Row]:
    """Spearman's correlation of the candidates' scores: bf16 with its float32 twin, float32 with other seeds."""
    n, epochs = effort.of(N), effort.of(EPOCHS)
    base = recipes.recipe("digits", candidate=n, shared=n, external=n, epochs=epochs)
    splits = range(min(SPLITS, effort.repeats))
    trios = [_trio(base, split) for split in splits]
    found: dict[str, list[float]] = {"bf16 and its fp32 twin": [], "fp32 and fp32 of other seeds": []}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        training.train_all([spec for trio in trios for pair in trio.values() for spec in pair], store)
        for trio in trios:
            scores = {name: _candidates(pair, store) for name, pair in trio.items()}
            for values, other in zip(found.values(), ("bf16", "seeds"), strict=True):
                values.append(stats.spearman(scores["fp32"], scores[other]))
    note = f"candidates' m_rel, {n} a set, {epochs} epochs, one value a split"
    return [
        table.row(LINE, "mlp 1x8x8", "agreement", "Spearman", values, setting=setting, images="digits", note=note)
        for setting, values in found.items()
    ]


def _trio(base: TrainSpec, split: int) -> dict[str, tuple[TrainSpec, TrainSpec]]:
    """Three pairs on one split: float32, the same in bf16, float32 with other seeds."""
    f, g = pairs.pair_specs(base, split)
    half = ComputeSpec(precision="bf16")
    return {
        "fp32": (f, g),
        "bf16": (f.but(compute=half), g.but(compute=half)),
        "seeds": (f.but(seed=f.seed + 1000), g.but(seed=g.seed + 1000)),
    }


def _candidates(pair: tuple[TrainSpec, TrainSpec], store: Store) -> pd.Series:
    """The candidates' scores of one pair."""
    images = data.load(pair[0].dataset)
    f, g = (pairs.alignment(spec, ScoreSpec(), store) for spec in pair)
    scores = scoring.score_table(f, g, training.split_of(pair[0]), images.index, images.labels.numpy())
    return scores.loc[scores["set"] == "candidate", "m_rel"]
