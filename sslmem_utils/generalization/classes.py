"""One image of an outlier class in f's training data and none in g's: what does it do to the class?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from .. import data, probes, recipes, scoring, stats, training
from ..errors import SpecError
from ..specs import ScoreSpec, SubsetSpec, TrainSpec, digest, seed_of
from ..splits import shuffle_keys
from ..store import Store
from ..versions import version_of

KIND, FILE = "generalization", "outlier.parquet"


@dataclass(frozen=True)
class OneImage:
    """f and g of one class: they differ in one training image. `x` is the row of the class's only image, f's."""

    f: TrainSpec
    g: TrainSpec
    label: int
    x: int


def one_image(base: TrainSpec, seed: int, label: int, *, coupled: bool = True) -> OneImage:
    """f is trained on half A without the class but for one image x of it, g on the same images with another for x.

    The other image is of another class, so that both train on equally many. x and the other one are drawn at random.
    Every class and seed has a split and training seeds of its own. `coupled`: f and g start from the same weights and
    see images in the same order, so that they differ in this image alone; otherwise they are independent. SpecError
    for a class without images in half A, or with all of them.
    """
    images = data.load(base.dataset)
    labels = images.labels.numpy()
    number = seed * (int(labels.max()) + 1) + label
    f = base.but(split=base.split.but(seed=number), sets=("shared", "candidate"), seed=2 * number)
    rows = training.rows_of(f)
    of_class, others = rows[labels[rows] == label], rows[labels[rows] != label]
    if not len(of_class) or len(others) < 3:
        raise SpecError(
            f"an outlier class needs images in half A beside those of others, found {len(of_class)} of class {label} "
            f"and {len(others)} others; choose another class."
        )
    x, other = (_drawn(images.fingerprint, number, some) for some in (of_class, others))
    left = {"f": [*of_class[of_class != x], other], "g": of_class}
    f, g = (f.but(subset=SubsetSpec(without=tuple(sorted(map(int, left[name])))), batch=min(f.batch, len(others)))
            for name in "fg")  # fmt: skip
    return OneImage(f, g if coupled else g.but(seed=f.seed + 1), label, x)


def _drawn(fingerprint: str, number: int, rows: np.ndarray) -> int:
    return int(rows[shuffle_keys(seed_of("outlier", fingerprint, number), rows).argmin()])


def outliers(
    base: TrainSpec,
    seeds: Sequence[int],
    classes: Sequence[int] | None = None,
    *,
    coupled: bool = True,
    views: int = 20,
    fit: int = probes.FIT,
    test: int = probes.TEST,
    store: Store | None = None,
) -> pd.DataFrame:
    """One row a class and seed; trains what is missing and keeps what is measured, not the weights.

    Columns: seed, class (its name), label, x (row); for f and for g: `knn` (share of the class's test images that kNN
    names rightly), `precision` (of the images it calls so), `all` (kNN accuracy on all test images), `near` (share of
    pairs of a test image of the class and one of another in which the first is nearer to x: 0.5 is chance), `align`
    (alignment loss of x); m_rel of x. SpecError without seeds.
    """
    store, images = store or Store(), data.load(base.dataset)
    if not seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    labels = sorted(set(images.labels.tolist()) - {-1}) if classes is None else classes
    plan = [(seed, one_image(base, seed, label, coupled=coupled)) for seed in seeds for label in labels]
    jobs = {_name(spec, one, views, fit, test): (spec, one) for _, one in plan for spec in (one.f, one.g)}
    missing = {name: job for name, job in jobs.items() if store.get(KIND, name) is None}
    look = partial(_look, {spec.key(): (one.label, one.x) for spec, one in missing.values()}, views, fit, test)
    training.train_all([spec for spec, _ in missing.values()], store, then=look)
    rows = []
    for seed, one in plan:
        row = {"seed": seed, "class": images.classes[one.label], "label": one.label, "x": one.x}
        for side, spec in (("f", one.f), ("g", one.g)):
            found = pd.read_parquet(store.path(KIND, _name(spec, one, views, fit, test)) / FILE).iloc[0]
            row |= {f"{name}_{side}": float(value) for name, value in found.items()}
        rows.append(row | {"m_rel": float(scoring.relative_to_sum(*(np.array(row[f"align_{s}"]) for s in "gf")))})
    return pd.DataFrame(rows)


def _name(spec: TrainSpec, one: OneImage, views: int, fit: int, test: int) -> str:
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)
    rooms = version_of("generalization", "probes", "scoring", "views")
    return digest("outlier", encoder, one.x, one.label, views, fit, test, rooms)


def _look(what: dict[str, tuple[int, int]], views: int, fit: int, test: int, spec: TrainSpec, store: Store) -> None:
    """Measure one encoder in the process that trained it, then let go of its weights."""
    label, x = what[spec.key()]
    torch.set_num_threads(spec.compute.threads)
    name = _name(spec, OneImage(spec, spec, label, x), views, fit, test)

    def write(folder: Path) -> None:
        found = _measured(spec, label, x, views, probes.sample(spec, fit, test), store)
        pd.DataFrame([found]).to_parquet(folder / FILE, index=False)

    store.compute(KIND, name, write, {"spec": spec.model_dump(mode="json"), "label": label, "x": x})
    store.remove(training.KIND, training.key(spec, data.load(spec.dataset).fingerprint))


def _measured(spec: TrainSpec, label: int, x: int, views: int, asked: probes.Sample, store: Store) -> dict[str, float]:
    from sklearn.neighbors import KNeighborsClassifier

    model, images = training.load(spec, store), data.load(spec.dataset)
    where, row = probes.representation_of(model), np.array([x])
    at_x, others = (
        F.normalize(torch.from_numpy(probes.features(model, pixels, where))).numpy()
        for pixels in (images.rows(row), asked.pixels)
    )
    fit, test, labels = others[~asked.test], others[asked.test], asked.labels[asked.test]
    votes = KNeighborsClassifier(min(training.monitor.NEIGHBOURS, len(fit)), weights="distance")
    said, own = votes.fit(fit, asked.labels[~asked.test]).predict(test), labels == label
    similar = test @ at_x[0]
    score = ScoreSpec(representation=recipes.representation(spec), views=views, view=spec.view, compute=spec.compute)
    given = {"view": spec.view, "fingerprint": images.fingerprint, "rows": row}
    return {
        "knn": float((said[own] == label).mean()),
        "precision": float(own[said == label].mean()) if (said == label).any() else 0.0,
        "all": float((said == labels).mean()),
        "near": stats.auc(similar[own], similar[~own]),
        "align": float(scoring.align(model, images.images, images.ids, score, **given)["align"].iloc[0]),
    }
