"""Label memorization (Feldman and Zhang 2020, arXiv 2008.03703) by subsampled training, and SSLMem of the same images.

    base = comparison.experiment("digits", "supervised", "mlp", shared=125, candidate=125, external=500)
    seen = labels.watch(base, seed=0, members=20, score=comparison.setting(base))    # trains what is missing
    labels.table(seen, 0)               # one row an image: label memorization, and SSLMem of the very same encoders
    labels.agreement({"supervised": seen, "simclr": other}, 0)       # of all measures, between disjoint halves

mem(i) = P[h(x_i) = y_i | i in the training set] - P[h(x_i) = y_i | not], over T networks that are trained on random
shares of the same points: a linear classifier on an encoder. It is `scoring.subsampled` with errors of classification
in the place of alignment losses, so that both kinds of memorization come of one estimator, one inclusion mask and, for
supervised encoders, the same networks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from . import comparison, data, ensembles, pairs, rivals, scoring, stats, training
from .errors import DataError, SpecError
from .specs import SETS, DatasetSpec, ScoreSpec, TrainSpec, digest, seed_of
from .splits import shuffle_keys
from .store import Store
from .versions import version_of

POOL = ("shared", "candidate", "independent")  # the points; external images are seen by no network
FRACTION = 0.7  # of the points that one network is trained on, as in the paper
MEMORIZED = 0.25  # label memorization from which on the paper calls an image memorized
HALVINGS = 10  # ways to halve an ensemble that are averaged, at most
KIND = "labels"  # of artifacts
SUPERVISED = "supervised"
log = logging.getLogger(__name__)


# ---------------------------------------------------------------- the estimator
def memorization(right: Shaped[np.ndarray, "t n"], member: Shaped[np.ndarray, "t_ n_"]) -> scoring.Estimate:
    """Label memorization of n images from which of t networks classify them rightly, and which were trained on them.

    In [-1, 1], with Welch's standard error over networks. An image in all or in none of the training sets has no value:
    NaN, with a notice. SpecError for arrays of different shapes.
    """
    found = scoring.subsampled(1.0 - np.asarray(right, dtype=float), member, standardise=False)
    if missing := int(np.isnan(found.score).sum()):
        log.warning(
            "%d of %d images are in all or in none of the %d training sets: they have no label memorization (NaN)",
            missing, len(found.score), len(member),
        )  # fmt: skip
    return found


def error_bound(members: int, fraction: float = FRACTION) -> float:
    """Bound of the expected squared error of label memorization estimated by so many networks (Lemma 2.1 of the paper).

    exp(-p t / 16) / 2 + 1 / (p t) + 1 / ((1 - p) t) with t networks and p = min(fraction, 1 - fraction). Its root is in
    units of mem, which is at most 1: a bound above 1 says nothing.
    """
    if not (members >= 1 and 0 < fraction < 1):
        raise SpecError(
            f"the bound needs networks on a fraction between 0 and 1, found {members} on {fraction}; use 0.7, say."
        )
    p = min(fraction, 1 - fraction)
    return math.exp(-p * members / 16) / 2 + 1 / (p * members) + 1 / ((1 - p) * members)


# ---------------------------------------------------------------- training and looking
@dataclass(frozen=True)
class Seen:
    """T encoders of one pool of images: how they align every image of the split, and how they classify it."""

    ensemble: ensembles.Ensemble  # a, member (t, n), rows (n,) of all four sets
    right: Bool[np.ndarray, "t n"] | None  # None: no classifier
    labels: np.ndarray  # (n,)
    sets: np.ndarray  # (n,) names
    blocks: int  # networks of one round, in which every image of the pool is equally often

    @property
    def pool(self) -> Bool[np.ndarray, " n"]:
        """Which of the images are points of the pool."""
        return np.isin(self.sets, POOL)


def networks(base: TrainSpec, seed: int, members: int, fraction: float = FRACTION) -> list[TrainSpec]:
    """Encoders of `base` on random fractions of the shared, candidate and independent images of the split `seed`.

    The same members of two methods are trained on the same images. SpecError where an ensemble cannot be balanced.
    """
    split = base.split.but(seed=seed)
    sets = tuple(name for name in POOL if getattr(split, name))
    return ensembles.subsampled(base.but(split=split, sets=sets), members, fraction, seed)


def watch(
    base: TrainSpec,
    seed: int,
    members: int,
    score: ScoreSpec,
    fraction: float = FRACTION,
    store: Store | None = None,
) -> Seen:
    """Train T encoders on fractions of the pool of one split; align all images and, with labels, classify them.

    Weights that were not stored before are not kept. Stored: alignment tables and which images each classifies rightly.
    """
    store = store or Store()
    specs = networks(base, seed, members, fraction)
    given = training.inputs(training.resolved(specs[0]))
    if base.method.name == SUPERVISED:
        missing = [one for one in specs if not store.path(KIND, _name(one)).is_dir()]
        kept = frozenset(one.key() for one in missing if _weights(one, store) is not None)
        training.train_all(missing, store, then=partial(_look, score, kept))
    found = ensembles.measure(specs, [score], store)[0]
    names = given.split.names()
    right = np.stack([_right(one, store) for one in specs]) if base.method.name == SUPERVISED else None
    sets = np.array([names[int(row)] for row in found.rows])
    return Seen(found, right, given.images.labels.numpy()[found.rows], sets, specs[0].subset.blocks[1])


def _name(spec: TrainSpec) -> str:
    return digest(training.key(spec, data.load(spec.dataset).fingerprint), version_of("labels"))


def _weights(spec: TrainSpec, store: Store) -> Path | None:
    return store.get(training.KIND, training.key(spec, data.load(spec.dataset).fingerprint))


def _look(score: ScoreSpec, kept: frozenset[str], spec: TrainSpec, store: Store) -> None:
    _right(spec, store)
    pairs.alignment(spec, score, store)
    if spec.key() not in kept:
        store.remove(training.KIND, training.key(spec, data.load(spec.dataset).fingerprint))


def _right(spec: TrainSpec, store: Store) -> Bool[np.ndarray, " n"]:
    """Whether a trained network classifies every image of its split rightly, as it is, without augmentation."""

    def write(folder: Path) -> None:
        given, model = training.inputs(spec), training.load(spec, store)
        rows = given.split.rows(*SETS)
        logits = rivals.outputs(lambda x: model.classifier(model.encoder(x)), model, given.images, rows)
        right = logits.argmax(1) == given.images.labels.numpy()[rows]
        pd.DataFrame({"row": rows, "right": right}).to_parquet(folder / "labels.parquet", index=False)

    meta = {"spec": spec.model_dump(mode="json")}
    return pd.read_parquet(store.compute(KIND, _name(spec), write, meta) / "labels.parquet")["right"].to_numpy()


# ---------------------------------------------------------------- tables
def estimates(seen: Seen, members: Int[np.ndarray, " k"] | slice = slice(None)) -> pd.DataFrame:
    """What some of the networks say of every point of the pool: row, label, set and one column a measure.

    sslmem: `scoring.subsampled`, relative, of their alignments; align_out: mean alignment loss under the networks
    without the image. With a classifier: label_memorization and its standard error se; accuracy_in, accuracy_out: share
    of the networks with and without the image that classify it rightly; n_in, n_out: how many these are.
    """
    found, pool = seen.ensemble, seen.pool
    a, member = found.a[members], found.member[members]
    score = scoring.subsampled(a, member, relative=True).score[pool]
    member = member[:, pool]
    out = _mean(scoring.standardised(found.a, found.member)[members][:, pool], ~member)
    parts = {"row": found.rows[pool], "label": seen.labels[pool], "set": seen.sets[pool]}
    parts |= {"sslmem": score, "align_out": out}
    if seen.right is not None:
        right = seen.right[members][:, pool]
        mem = memorization(right, member)
        parts |= {"label_memorization": mem.score, "se": mem.se, "n_in": mem.n_in, "n_out": mem.n_out}
        parts |= {"accuracy_in": _mean(right, member), "accuracy_out": _mean(right, ~member)}
    return pd.DataFrame(parts)


def table(seen: Seen, seed: int) -> pd.DataFrame:
    """`estimates` of all networks with the split's seed: one row a point of the pool."""
    return estimates(seen).assign(seed=seed)


def summary(seen: Seen, seed: int, fraction: float = FRACTION) -> dict[str, stats.Number]:
    """One split in numbers: how well the networks classify, and how much of the pool they memorize.

    accuracy_in, accuracy_out: of the points trained on and left out; accuracy_external: of images never seen; mem: mean
    label memorization; memorized: share of the points at MEMORIZED or above; se: root mean square of the standard
    errors; bound: the root of `error_bound`, for the same number of networks.
    """
    if seen.right is None:
        raise SpecError(
            "a summary of label memorization needs networks with a classifier, found none; watch supervised."
        )
    found, outside = estimates(seen), seen.sets == "external"
    return {
        "seed": seed,
        **found[["accuracy_in", "accuracy_out"]].mean().to_dict(),
        "accuracy_external": float(seen.right[:, outside].mean()) if outside.any() else math.nan,
        "mem": float(found["label_memorization"].mean()),
        "memorized": float((found["label_memorization"] >= MEMORIZED).mean()),
        "se": float(np.sqrt(np.square(found["se"]).mean())),
        "bound": math.sqrt(error_bound(len(seen.right), fraction)),
    }


def _mean(values: Shaped[np.ndarray, "t n"], chosen: Bool[np.ndarray, "t n"]) -> Float[np.ndarray, " n"]:
    count = chosen.sum(0)
    return np.divide((values * chosen).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)


# ---------------------------------------------------------------- agreement
def measures(seen: Mapping[str, Seen], members: Int[np.ndarray, " k"]) -> dict[str, pd.Series]:
    """Every measure that some networks give of each method's ensemble, by name, indexed by row; larger is more.

    Names: `SSLMem, METHOD`, `alignment, METHOD` (loss under networks without the image: how hard its views are to
    align), and of ensembles with a classifier `label memorization` and `label difficulty` (their error without it).
    """
    found = {}
    for method, one in seen.items():
        part = estimates(one, members).set_index("row")
        if one.right is not None:
            found["label memorization"] = part["label_memorization"]
            found["label difficulty"] = 1 - part["accuracy_out"]
        found |= {f"SSLMem, {method}": part["sslmem"], f"alignment, {method}": part["align_out"]}
    return found


def agreement(seen: Mapping[str, Seen], seed: int, top: float = 0.1) -> pd.DataFrame:
    """Agreement of every two measures on the points of one split, and of each with itself, between disjoint halves.

    The ensembles of all methods, of equal T, are halved alike, whole rounds at a time, and one half is compared with
    the other only: no network and no draw of training sets takes part in both sides, so that neither agreement nor the
    ceiling (a measure with itself) holds common noise. Averaged over up to HALVINGS ways to halve.

    Columns as `comparison.agree`, which `comparison.over_ceiling` takes. Images of equal value, of which label
    memorization has many, share a rank; for the overlap of the `top` their order is drawn anew on each side. SpecError
    for ensembles that differ in size or cannot be halved.
    """
    sizes = {(len(one.ensemble.a), one.blocks) for one in seen.values()}
    if len(sizes) != 1:
        raise SpecError(
            "the methods' ensembles must have equally many encoders on the same fraction; train them alike."
        )
    ((members, blocks),) = sizes
    rounds = members // blocks
    if rounds % 2:
        raise SpecError(
            f"halves of an ensemble need an even number of rounds of {blocks} encoders, found {members} encoders; set "
            f"members to {blocks * (rounds + 1)}."
        )
    parts, by_round = [], np.arange(members).reshape(rounds, blocks)
    chosen = (one for one in combinations(range(rounds), rounds // 2) if 0 in one)  # the first round is in one half
    for number, first in enumerate(islice(chosen, HALVINGS)):
        second = [one for one in range(rounds) if one not in first]
        halves = [measures(seen, by_round[list(half)].ravel()) for half in (first, second)]
        long = pd.concat(
            pd.DataFrame({"method": name, "replica": half, "row": values.index, "value": values.to_numpy()})
            for half, found in enumerate(halves)
            for name, values in found.items()
        ).assign(seed=seed, set="candidate")
        drawn = [
            _untied(part["value"].to_numpy(), part["row"].to_numpy(), seed_of("ties", name, half, number))
            for (name, half), part in long.groupby(["method", "replica"], sort=False)
        ]
        plain = comparison.agree(long, top)
        broken = comparison.agree(long.assign(value=np.concatenate(drawn)), top)
        parts += [plain[plain["statistic"] != "overlap"], broken[broken["statistic"] == "overlap"]]
    keys = ["seed", "a", "b", "images", "statistic"]
    return pd.concat(parts).groupby(keys, sort=False, as_index=False)[["value", "chance", "n"]].mean()


def _untied(values: np.ndarray, rows: np.ndarray, draw: int) -> np.ndarray:
    """Ranks without ties: images of equal value in an order that the draw and the image decide."""
    order = np.lexsort((shuffle_keys(draw, rows), values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values))
    return ranks


# ---------------------------------------------------------------- published scores
def published(file: str | Path, spec: DatasetSpec) -> pd.DataFrame:
    """Feldman and Zhang's published label memorization of the images of a dataset, joined by official index.

    `file`: their `cifar100_infl_matrix.npz` (tr_labels and tr_mem, image i of the training set at place i), which is
    theirs to give out, or a CSV or Parquet file with the columns index, label and mem. Columns: row, label,
    label_memorization. DataError where the file has other columns, the dataset no official indices, or the labels say
    that the file counts images in another order.
    """
    file, images = Path(file), data.load(spec)
    if not np.issubdtype(images.index.dtype, np.integer):
        raise DataError(
            f"published scores are joined by official index, found paths in {images.name}; take the official dataset, "
            "or match the copies first."
        )
    theirs = _read(file)
    ours = pd.DataFrame({"row": np.arange(len(images)), "index": images.index, "label": images.labels.numpy()})
    both = ours.merge(theirs, on="index", suffixes=("", "_theirs"))
    wrong = int((both["label"] != both["label_theirs"]).sum())
    if both.empty or wrong:
        raise DataError(
            f"{file.name} must name images of {images.name} with their labels, found {wrong} of {len(both)} joined "
            "images with another label; give the file of this dataset, in the official order."
        )
    return both.rename(columns={"mem": "label_memorization"})[["row", "label", "label_memorization"]]


def _read(file: Path) -> pd.DataFrame:
    wanted = ("tr_labels", "tr_mem") if file.suffix == ".npz" else ("index", "label", "mem")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files if name in wanted}
                names = list(arrays.files)
        else:
            frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
            found, names = {name: frame[name] for name in wanted if name in frame}, list(frame.columns)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read as published scores ({error}); give an npz, csv or parquet file."
        ) from None
    if len(found) < len(wanted):
        raise DataError(
            f"{file.name} must hold {', '.join(wanted)}, found {', '.join(map(str, names)) or 'nothing'}; give Feldman "
            "and Zhang's file, or a table of index, label and mem."
        )
    if file.suffix == ".npz":
        return pd.DataFrame(
            {"index": np.arange(len(found["tr_mem"])), "label": found["tr_labels"], "mem": found["tr_mem"]}
        )
    return pd.DataFrame(found)
