"""Score half A, and measure what competes with the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Int64

from .. import canaries, data, pairs, probes, recipes, rivals, scoring, training, typicality
from ..errors import SpecError
from ..specs import ScoreSpec, SubsetSpec, TrainSpec
from ..store import Store
from .arms import ARMS


@dataclass(frozen=True)
class Setting:
    """How scores and probes are measured.

    `replicas`: pairs whose alignments are averaged, with training seeds of their own. `representation`: where the
    score is taken; "" for the recipe's own.
    """

    views: int = 20
    replicas: int = 1
    representation: str = ""
    fit: int = probes.FIT
    test: int = probes.TEST


def scores(
    base: TrainSpec,
    seed: int,
    store: Store | None = None,
    *,
    views: int = 20,
    replicas: int = 1,
    representation: str = "",
    duplicates: float = 0.0,
) -> pd.DataFrame:
    """Scores of half A on the split `seed`: row, label, m_rel, align_f, align_g; trains what is missing.

    The pairs are those of `pairs.pair_specs`, whose training seeds no encoder of `retrained` has unless it is asked
    for. With `replicas` the alignments of several pairs are averaged. `duplicates`: a share of each half is taken away
    first (`near_duplicates`) and is not scored.
    """
    store = store or Store()
    both, score = scored_pairs(base, seed, replicas, duplicates), score_of(base, views, representation)
    pairs.align_all([spec for pair in both for spec in pair], [score], store)
    found = [[pairs.alignment(spec, score, store).set_index("row")["align"] for spec in pair] for pair in both]
    rows = training.rows_of(both[0][0])
    f, g = (sum(pair[side] for pair in found).loc[rows].to_numpy() / replicas for side in (0, 1))
    labels = data.load(base.dataset).labels.numpy()[rows]
    m_rel = scoring.relative_to_sum(g, f)
    return pd.DataFrame({"row": rows, "label": labels, "m_rel": m_rel, "align_f": f, "align_g": g})


def measures(
    base: TrainSpec, seed: int, arms: Sequence[str], store: Store | None = None, setting: Setting | None = None,
    duplicates: float = 0.0,
) -> pd.DataFrame:  # fmt: skip
    """`scores` with what the `arms` rank by beside: el2n, prototype, planted (1 for a canary of `base`, else 0).

    EL2N comes from supervised trainings with the labels (`rivals`), the distance to the nearest k-means centre from the
    normalised features of the scored f.
    """
    store, setting = store or Store(), setting or Setting()
    chosen_by = {ARMS[arm][0] for arm in arms if arm in ARMS}
    where = {"views": setting.views, "representation": setting.representation}
    table = scores(base, seed, store, **where, replicas=setting.replicas, duplicates=duplicates)
    rows = table["row"].to_numpy()
    if "el2n" in chosen_by:
        early = rivals.table(base, seed, store, score_of(base, **where)).set_index("row")["el2n"]
        table["el2n"] = early.loc[rows].to_numpy()
    if "prototype" in chosen_by:
        f = scored_pairs(base, seed, 1, duplicates)[0][0]
        training.train(f, store)
        model, images = training.load(f, store), training.inputs(f).images
        torch.set_num_threads(f.compute.threads)
        where = recipes.representation(base)
        found = torch.from_numpy(rivals.outputs(lambda x: model.features(x, where), model, images, rows))
        classes = len(np.unique(table["label"]))
        table["prototype"] = typicality.prototype_distance(F.normalize(found, dim=1).numpy(), classes)
    if "planted" in chosen_by:
        table["planted"] = np.isin(rows, planted_rows(base, seed)).astype(float)
    return table


def planted_rows(base: TrainSpec, seed: int) -> Int64[np.ndarray, " p"]:
    """Rows of half A where the plants of `base` put their images; none without plants."""
    f = pairs.pair_specs(base, seed)[0]
    found = canaries.table(data.load(f.dataset), training.split_of(f), f.plants)
    return found.loc[found["set"] == "candidate", "row"].to_numpy(np.int64)


def near_duplicates(base: TrainSpec, seed: int, share: float, half: str = "candidate") -> Int64[np.ndarray, " d"]:
    """Rows of a half that are taken away as near-duplicates: one of each nearest pair, in the order of distance.

    `share` of the half is taken, by Euclidean distance between pixels: small sets hold few true duplicates, so that
    the share, and not a distance, is fixed, and f and g still train on equally many images. SpecError for a share
    above a quarter.
    """
    if not 0 <= share <= 0.25:
        raise SpecError(f"near-duplicates are at most a quarter of a half, found a share of {share:g}; lower it.")
    from sklearn.neighbors import NearestNeighbors

    spec = pairs.pair_specs(base, seed)[0]
    given = training.inputs(spec)
    rows = getattr(given.split, half)
    flat = given.images.rows(rows).flatten(1).numpy().astype(np.float32)
    distance, nearest = (one[:, 0] for one in NearestNeighbors(n_neighbors=1).fit(flat).kneighbors())
    gone = np.zeros(len(rows), dtype=bool)
    for at in np.argsort(distance, kind="stable"):
        if gone.sum() >= round(share * len(rows)):
            break
        gone[at] |= not gone[nearest[at]]
    return rows[gone]


def scored_pairs(
    base: TrainSpec, seed: int, replicas: int = 1, duplicates: float = 0.0
) -> list[tuple[TrainSpec, TrainSpec]]:
    """f and g of every replica of a split, without the near-duplicates of their halves."""
    found = [pairs.pair_specs(base, seed, replica=replica, replicas=replicas) for replica in range(replicas)]
    if not duplicates:
        return found
    less = [
        SubsetSpec(without=tuple(near_duplicates(base, seed, duplicates, half).tolist()))
        for half in ("candidate", "independent")
    ]
    return [tuple(spec.but(subset=one) for spec, one in zip(pair, less, strict=True)) for pair in found]


def score_of(base: TrainSpec, views: int, representation: str) -> ScoreSpec:
    """How half A is scored."""
    return ScoreSpec(representation=representation or recipes.representation(base), views=views, compute=base.compute)
