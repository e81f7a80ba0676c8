"""How atypical each image is, by measures that know nothing of f and g, and how these go with the score.

    found = typicality.measures(base, seed)             # one row an image of the four sets, one column a measure
    typicality.NAMES                                    # what each of them is, and where it comes from
    typicality.correlations(scores, found)              # Spearman with m_rel, align_f and align_g on S_C and S_E

The neutral feature space is that of encoders trained on as many images as f, from none of the four sets: they saw none
of what they measure, and neither f nor g takes part. They are found by drawing a larger external set with the same
seed, whose first images are the external set itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64

from . import data, pairs, recipes, rivals, splits, stats, training
from .errors import DataError, SpecError
from .specs import SETS, ScoreSpec, SubsetSpec, TrainSpec, digest
from .store import Store
from .versions import version_of

NAMES = {
    "knn_pixels": "mean distance to the 5 nearest images of the four sets, in pixel space",
    "centroid_pixels": "distance to the mean of the other images of its class, in pixel space",
    "knn_neutral": "mean distance to the 5 nearest images of the four sets, in the neutral feature space",
    "centroid_neutral": "distance to the mean of the other images of its class, in the neutral feature space",
    "prototype_neutral": "distance to the nearest k-means centre in the neutral feature space (arXiv 2206.14486)",
    "el2n": "norm of softmax minus one-hot label after the first tenth of supervised training (arXiv 2107.07075)",
}
LABELLED = ("centroid_pixels", "centroid_neutral", "el2n")  # measures that need classes of several images
KIND = "typicality"  # of artifacts
ENCODERS = 2  # neutral encoders, whose normalised features are put side by side
LEAST = 50  # images outside of the four sets that the neutral encoders need
NEUTRAL_SEED = 1_000_000  # their training seeds start here, far from those of pairs
KEYS = ("dataset", "method", "representation", "replica", "seed")  # columns that tell replications apart
VERSIONS = ("canaries", "encoders", "methods", "rivals", "splits", "stats", "training", "typicality", "views")


# ---------------------------------------------------------------- the measures
def measures(base: TrainSpec, seed: int, store: Store | None = None, *, el2n: bool = True) -> pd.DataFrame:
    """Every measure on every image of the four sets of the split `seed`, trained and computed where it is missing.

    Columns: row, set and those of NAMES; larger is more atypical in each. The measures of LABELLED are NaN for images
    without a label or alone in their class, and `el2n` for images that f does not train on. Without `el2n`, which takes
    three supervised trainings, it is NaN everywhere. Raises DataError when fewer than LEAST images are outside of the
    four sets.
    """
    store = store or Store()
    f, _ = pairs.pair_specs(base, seed)
    given, specs = training.inputs(f), neutral(base, seed)
    mark, labelled = given.split.fingerprint, _classes(given.images.labels.numpy()).any()
    name = digest(
        f.split.key(),
        training.key(f, mark),
        *(training.key(spec, mark) for spec in specs),
        version_of(*VERSIONS),
        el2n,
    )

    def write(folder: Path) -> None:
        training.train_all(specs, store)
        found = _measured(given, _features(specs, given, store))
        found["el2n"] = np.nan
        if el2n and labelled:
            score = ScoreSpec(representation=recipes.representation(base), compute=base.compute)
            early = rivals.table(base, seed, store, score).set_index("row")["el2n"]
            found["el2n"] = early.reindex(found["row"]).to_numpy()
        found[["row", "set", *NAMES]].to_parquet(folder / "typicality.parquet", index=False)

    meta = {"spec": f.model_dump(mode="json")}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / "typicality.parquet")


def neutral(base: TrainSpec, seed: int) -> list[TrainSpec]:
    """The neutral encoders of a split: the recipe of f on images from none of its four sets, as many as f has.

    DataError when fewer than LEAST are left.
    """
    f, _ = pairs.pair_specs(base, seed)
    images = data.load(f.dataset)
    sizes = sum(getattr(f.split, name) for name in SETS)
    count = min(f.images, len(images) - sizes)
    if count < LEAST:
        raise DataError(
            f"neutral features need {LEAST} images outside of the four sets, found {len(images) - sizes} left of the "
            f"{len(images)} of {f.dataset.name}; lower external."
        )
    larger = f.split.but(external=f.split.external + count)
    drawn = splits.draw(
        images.labels.numpy(), larger, dataset=f.dataset.name, fingerprint=images.fingerprint
    )  # the same order of images, cut further on
    own = training.split_of(f)
    if not np.isin(own.external, drawn.external).all():
        raise DataError(
            f"{f.dataset.name} has classes too small for neutral images beside the four sets; lower external."
        )
    subset = SubsetSpec(without=tuple(own.external.tolist()))
    changes = {"split": larger, "sets": ("external",), "subset": subset, "plants": (), "batch": min(f.batch, count)}
    start = NEUTRAL_SEED + seed * ENCODERS
    return [f.but(**changes, seed=start + number) for number in range(ENCODERS)]


def _features(specs: Sequence[TrainSpec], given: training.Inputs, store: Store) -> Float32[np.ndarray, "n d"]:
    """Features of the images of the four sets: each encoder's L2-normalised, side by side."""
    torch.set_num_threads(specs[0].compute.threads)
    parts = []
    for spec in specs:
        model, where = training.load(spec, store), recipes.representation(spec)
        found = rivals.outputs(
            lambda x, m=model, w=where: m.features(x, w), model, given.images, given.split.rows(*SETS)
        )
        parts.append(F.normalize(torch.from_numpy(found), dim=1).numpy())
    return np.concatenate(parts, axis=1)


def _measured(given: training.Inputs, features: Float32[np.ndarray, "n d"]) -> pd.DataFrame:
    split, rows = given.split, given.split.rows(*SETS)
    names, labels = split.names(), given.images.labels.numpy()[rows]
    pixels = given.images.rows(rows).numpy()
    found = pd.DataFrame({"row": rows, "set": [names[int(row)] for row in rows]})
    for space, vectors in (("pixels", pixels), ("neutral", features)):
        found[f"knn_{space}"] = stats.knn_distance(vectors)
        found[f"centroid_{space}"] = _from_others(vectors, labels)
    found["prototype_neutral"] = prototype_distance(features, len(np.unique(labels[_classes(labels)])) or 10)
    return found


def _classes(labels: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Whether each image has a label that another image has as well (n,)."""
    counts = np.bincount(labels[labels >= 0], minlength=1)
    return (labels >= 0) & (counts[np.maximum(labels, 0)] > 1)


def _from_others(vectors: np.ndarray, labels: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Distance to the mean of the other images of the class (n,): n / (n - 1) of that to the mean of all its images."""
    counts = pd.Series(labels).groupby(labels).transform("size").to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.centroid_distance(vectors, labels) * counts / (counts - 1)
    return np.where(_classes(labels), found, np.nan)


def prototype_distance(features: Float32[np.ndarray, "n d"], centres: int) -> np.ndarray:
    """Distance to the nearest of so many k-means centres (n,), at most one for ten images.

    Sorscher et al. 2022 (arXiv 2206.14486) cluster the features of a self-supervised encoder into about as many
    groups as there are classes and call an image far from its centre hard.
    """
    from sklearn.cluster import KMeans

    count = max(2, min(centres, len(features) // 10))
    return KMeans(count, n_init=10, random_state=0).fit(features).transform(features).min(axis=1).astype(np.float64)


# ---------------------------------------------------------------- against the score
def correlations(
    scores: pd.DataFrame, measures: pd.DataFrame, of: Sequence[str] = ("m_rel", "align_f", "align_g")
) -> pd.DataFrame:
    """Spearman's correlation of scores with measures of atypicality, on the candidates and on the external images.

    `scores` is a stacked score table; `measures` are tables of `measures`, stacked with the columns of KEYS that they
    vary with (`seed`, perhaps `dataset`). Columns: those of KEYS that `scores` has, set, measure, of, rho. Measures
    without a value on a set (EL2N on external images) have no row there. SpecError when nothing matches.
    """
    on = [name for name in (*KEYS, "row") if name in scores and name in measures]
    kept = [name for name in NAMES if name in measures]
    merged = scores.drop(columns=[name for name in kept if name in scores]).merge(measures[[*on, *kept]], on=on)
    if merged.empty:
        raise SpecError("scores and measures share no image; measure the splits that were scored.")
    keys, rows = [name for name in KEYS if name in merged], []
    for key, part in merged[merged["set"].isin(["candidate", "external"])].groupby([*keys, "set"], sort=False):
        names = dict(zip([*keys, "set"], key, strict=True))
        for measure in kept:
            known = part[part[measure].notna()]
            if len(known) > 2:
                rhos = {one: stats.spearman(known[one], known[measure]) for one in of}
                rows += [{**names, "measure": measure, "of": one, "rho": rho} for one, rho in rhos.items()]
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- the most and the least memorized
def ranked(scores: pd.DataFrame, value: str = "m_rel") -> pd.DataFrame:
    """The candidates of one split by their mean score over replicas, the highest first.

    `scores` is a score table of one split, with `replica` where there are several. Columns: row, label, score,
    n (replicas), p_top: the share of replicas in which the image was among the top tenth of the candidates.
    """
    part = scores[scores["set"] == "candidate"]
    part = part if "replica" in part else part.assign(replica=0)
    matrix = part.pivot(index="replica", columns="row", values=value)
    found = pd.DataFrame({"row": matrix.columns, "score": matrix.mean().to_numpy(), "n": len(matrix)})
    found["p_top"] = stats.top_probability(matrix)
    found = found.merge(part[["row", "label"]].drop_duplicates("row"), on="row")
    return found.sort_values("score", ascending=False, ignore_index=True)


def extremes(
    table: pd.DataFrame, show: int, classes: Sequence[int] = (), names: Sequence[str] = (), dataset: str = "the dataset"
) -> pd.DataFrame:
    """The `show` highest and the `show` lowest of a ranking, of all images or of each of the classes (by number).

    DataError for a class of which the ranking holds fewer than two images: it has no candidates to show.
    """

    def ends(part: pd.DataFrame) -> pd.DataFrame:
        part = part.sort_values("score", ascending=False)
        take = min(show, len(part) // 2)
        return pd.concat([part.head(take), part.tail(take)])

    if not len(classes):
        return ends(table)
    counts = table["label"].value_counts()
    for one in classes:
        if (found := int(counts.get(one, 0))) < 2:
            name = names[one] if 0 <= one < len(names) else one
            raise DataError(
                f"class {name} needs two candidates to have a most and a least memorized image, found {found} among "
                f"the {len(table)} candidates of {dataset}; raise candidate, or leave the class out of classes."
            )
    return pd.concat([ends(table[table["label"] == one]) for one in classes])


def repeatability(scores: pd.DataFrame, value: str = "m_rel") -> dict[str, stats.Number]:
    """How far the ranking of one split's candidates repeats itself with other training seeds; needs two replicas.

    `overlap`: mean share of the top tenth that two replicas have in common, `chance`: what unrelated rankings have,
    `one pair` and `their mean`: reliability of one replica's ranking and of the mean of all (NaN where the first is not
    positive).
    """
    if "replica" not in scores or scores["replica"].nunique() < 2:
        raise SpecError("repeatability compares replicas of one split, found fewer than two; raise replicas.")
    matrix = scores[scores["set"] == "candidate"].pivot(index="replica", columns="row", values=value).to_numpy()
    pairs_of = [(i, j) for i in range(len(matrix)) for j in range(i)]
    found = [stats.top_overlap(matrix[i], matrix[j]) for i, j in pairs_of]
    reliability = stats.reliability(matrix)
    return {
        "replicas": len(matrix),
        "overlap": float(np.mean([one.share for one in found])),
        "chance": found[0].k / found[0].n,
        "one pair": reliability.single,
        "their mean": reliability.mean if reliability.single > 0 else np.nan,
    }
