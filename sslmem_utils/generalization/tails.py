"""The long tail: does a test image lose accuracy when what is removed from the training data is near to it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64

from .. import data, pairs, probes, removal, training
from ..errors import SpecError
from ..specs import TrainSpec, seed_of
from ..store import Store
from ..training.monitor import NEIGHBOURS

NONE = "none"


def arms(
    base: TrainSpec,
    seed: int,
    fraction: float,
    names: Sequence[str] = ("top", "random"),
    *,
    views: int = 20,
    store: Store | None = None,
) -> dict[str, TrainSpec]:
    """The encoder of every arm of the removal of a `fraction` and "none", without any: those of `removal.measure`."""
    return {name: spec for name, (spec, _) in _arms(base, seed, fraction, names, store or Store(), views).items()}


def _arms(
    base: TrainSpec, seed: int, fraction: float, names: Sequence[str], store: Store, views: int
) -> dict[str, tuple[TrainSpec, np.ndarray]]:
    table = removal.scores(base, seed, store, views=views)
    count, draw = round(fraction * len(table)), seed_of("removed", seed, 0)
    if not 0 < count < len(table):
        raise SpecError(
            f"a removal takes some images and leaves some, found a fraction of {fraction:g} of {len(table)} images; "
            "give 0.4 for example."
        )
    rows = {NONE: np.empty(0, np.int64), **{name: removal.chosen(name, table, count, draw) for name in names}}
    return {name: (removal.retrained(base, seed, some), some) for name, some in rows.items()}


def losses(
    base: TrainSpec,
    seeds: Sequence[int],
    *,
    fraction: float = 0.4,
    names: Sequence[str] = ("top", "random"),
    views: int = 20,
    fit: int = probes.FIT,
    test: int = probes.TEST,
    store: Store | None = None,
) -> pd.DataFrame:
    """One row a test image, arm and seed: what it loses by a removal, and how near to it is what was removed.

    Columns: seed, arm, image (position among the test images), label, loss: the votes (kNN, in [0, 1]) for its true
    label with all training images less those without the removed ones; gap: cosine similarity to the nearest removed
    image less that to the nearest image kept, under g, which was trained on neither. Positive: the training image most
    similar to it is gone. Trains what is missing; the encoders are those of `removal.measure`. SpecError without seeds.
    """
    store, parts = store or Store(), []
    if not seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    pairs_of = {seed: pairs.pair_specs(base, seed) for seed in seeds}
    training.train_all([spec for pair in pairs_of.values() for spec in pair], store)
    each = {seed: _arms(base, seed, fraction, names, store, views) for seed in seeds}
    training.train_all([spec for found in each.values() for spec, _ in found.values()], store)
    for seed, found in each.items():
        asked = probes.sample(found[NONE][0], fit, test)
        votes = {name: _votes(spec, asked, store) for name, (spec, _) in found.items()}
        similar = _similarity(pairs_of[seed][1], found[NONE][0], asked, store)
        for name in names:
            gone = np.isin(training.rows_of(found[NONE][0]), found[name][1])
            gap = similar[:, gone].max(1) - similar[:, ~gone].max(1)
            part = {"seed": seed, "arm": name, "image": np.arange(asked.test.sum()), "label": asked.labels[asked.test]}
            part["loss"] = votes[NONE] - votes[name]
            parts.append(pd.DataFrame({**part, "gap": gap}))
    return pd.concat(parts, ignore_index=True)


def _votes(spec: TrainSpec, asked: probes.Sample, store: Store) -> Float64[np.ndarray, " t"]:
    """Weighted share of the nearest labelled images that have the test image's own label, as probes count votes."""
    from sklearn.neighbors import KNeighborsClassifier

    found, fit = _features(spec, asked, store), ~asked.test
    classifier = KNeighborsClassifier(min(NEIGHBOURS, int(fit.sum())), weights="distance")
    shares = classifier.fit(found[fit], asked.labels[fit]).predict_proba(found[asked.test])
    return shares[np.arange(len(shares)), np.searchsorted(classifier.classes_, asked.labels[asked.test])]


def _features(spec: TrainSpec, asked: probes.Sample, store: Store) -> Float[np.ndarray, "n d"]:
    torch.set_num_threads(spec.compute.threads)
    model = training.load(spec, store)
    return F.normalize(torch.from_numpy(probes.features(model, asked.pixels, probes.representation_of(model)))).numpy()


def _similarity(g: TrainSpec, f: TrainSpec, asked: probes.Sample, store: Store) -> Float[np.ndarray, "t n"]:
    """Cosine similarity of the test images and the training images of f under g."""
    model = training.load(g, store)
    rows = training.rows_of(f)
    there = probes.features(model, data.load(f.dataset).rows(rows), probes.representation_of(model))
    mine = _features(g, asked, store)[asked.test]
    return mine @ F.normalize(torch.from_numpy(there)).numpy().T
