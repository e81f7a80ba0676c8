"""Compose an experiment: train or load pairs of encoders, align them, score the images.

This is what notebooks and the command line call. One replication is one split seed with one training seed of f and of
g; `scores` stacks replications into one tidy table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import data, scoring, stats, training, views
from .errors import SpecError
from .methods import Method
from .specs import SETS, DatasetSpec, ScoreSpec, TrainSpec, digest
from .store import Store
from .versions import version_of

ALIGNMENTS = "alignments"  # kind of artifact
SETS_OF = {"f": ("shared", "candidate"), "g": ("shared", "independent")}


def pair_specs(
    base: TrainSpec, seed: int, coupled: bool = False, replica: int = 0, replicas: int = 1
) -> tuple[TrainSpec, TrainSpec]:
    """The specs of f and g of one replication: split seed `seed`, training seeds 2 s and 2 s + 1.

    `replicas` pairs may share a split: s = seed replicas + replica. f and g differ in initialisation, data order and
    views, as two independent draws of the training algorithm do in the definition; `coupled` gives both the seed 2 s,
    an option to study.
    """
    split, start = base.split.but(seed=seed), 2 * (seed * replicas + replica)
    if not split.independent:
        raise SpecError("a pair needs an independent set as large as the candidate set; set both in the SplitSpec.")
    f, g = (base.but(split=split, sets=sets, seed=start) for sets in SETS_OF.values())
    return f, g if coupled else g.but(seed=start + 1)


def alignment(
    spec: TrainSpec, score: ScoreSpec, store: Store | None = None, *, on: TrainSpec | None = None
) -> pd.DataFrame:
    """The stored alignment table of a trained encoder on every image of its split; computed when missing.

    `on` names another experiment whose images are aligned, in its views: an encoder trained on other data can then
    stand in for g. Columns as `scoring.align`. Raises SpecError when the encoder was not trained yet.
    """
    other = on is not None and on != spec
    store, on = store or Store(), on or spec
    score = _with_views(score, on)
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)
    name = _name(encoder, score)
    if other:
        name = digest(name, on.split.key(), [one.key() for one in on.plants], data.load(on.dataset).fingerprint)

    def write(folder: Path) -> None:
        table = align_on(_loaded(spec, store), score, on)
        table.to_parquet(folder / "alignment.parquet", index=False)

    meta = {"encoder": encoder, "score": score.model_dump(mode="json")}
    return pd.read_parquet(store.compute(ALIGNMENTS, name, write, meta) / "alignment.parquet")


def align_on(model: Method, score: ScoreSpec, on: TrainSpec) -> pd.DataFrame:
    """Alignment table of any model on every image of the split of `on`, in its views; not stored."""
    score, given = _with_views(score, on), training.inputs(on)
    images, rows = given.images, given.split.rows(*SETS)
    return scoring.align(
        model, images.images, images.ids, score, view=score.view, fingerprint=images.fingerprint, rows=rows
    )


def untrained(spec: TrainSpec) -> Method:
    """The encoder of a spec with its heads as they are before the first step, in evaluation mode."""
    return training.Training.start(training.resolved(spec), data.load(spec.dataset).shape).model.eval()


def align_all(
    specs: Sequence[TrainSpec], score: Sequence[ScoreSpec], store: Store | None = None, *, keep: bool = True
) -> None:
    """Train and align every encoder under every setting, each in one process, unless it is stored.

    Without `keep` the weights of what is trained here are removed once the alignments are there: ensembles of
    thousands need no more.
    """
    store, settings = store or Store(), tuple(score)

    def missing(spec: TrainSpec) -> bool:
        encoder = training.key(spec, data.load(spec.dataset).fingerprint)
        names = [_name(encoder, _with_views(setting, spec)) for setting in settings]
        return not all(store.path(ALIGNMENTS, name).is_dir() for name in names)

    found = [spec for spec in specs if missing(spec)]
    for spec in {(one.encoder, one.method, one.dataset): one for one in found}.values():  # before anything is trained
        model, shape = untrained(spec.but(encoder=spec.encoder.but(weights=None))), data.load(spec.dataset).shape
        for setting in settings:
            seen = views.view_shape(setting.view or spec.view, shape)
            model.cpu().features(torch.zeros(1, *seen), setting.representation)
    if found:
        held = frozenset() if keep else frozenset(spec.key() for spec in found if _held(spec, store))
        training.train_all(found, store, then=partial(_align, settings, keep, held))


def _held(spec: TrainSpec, store: Store) -> bool:
    return store.get(training.KIND, training.key(spec, data.load(spec.dataset).fingerprint)) is not None


def _align(settings: Sequence[ScoreSpec], keep: bool, held: frozenset[str], spec: TrainSpec, store: Store) -> None:
    for setting in settings:
        alignment(spec, setting, store)
    if not (keep or spec.key() in held):
        store.remove(training.KIND, training.key(spec, data.load(spec.dataset).fingerprint))


def _with_views(score: ScoreSpec, spec: TrainSpec) -> ScoreSpec:
    return score if score.view is not None else score.but(view=spec.view)


def _name(encoder: str, score: ScoreSpec) -> str:
    return digest(encoder, score.key(), version_of("scoring", "views"))


def _loaded(spec: TrainSpec, store: Store) -> Method:
    model = training.load(spec, store)
    if model is None:
        raise SpecError("this encoder is not trained yet; call training.train(spec) first.")
    return model


def scores(
    base: TrainSpec,
    seeds: Sequence[int],
    score: Sequence[ScoreSpec] = (ScoreSpec(), ScoreSpec(representation="projector")),
    *,
    replicas: int = 1,
    coupled: bool = False,
    store: Store | None = None,
) -> pd.DataFrame:
    """Score tables of the pairs of every seed under every score setting, stacked.

    Trains what is missing in parallel and reuses all that is stored. Columns as `scoring.score_table`, then `seed` (of
    the split), `representation` and, with several `replicas` of a split, `replica`.
    """
    if not seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    store = store or Store()
    images = data.load(base.dataset)
    training.inputs(training.resolved(base))  # sizes, names and options are checked before anything is trained
    plan = [(seed, replica) for seed in seeds for replica in range(replicas)]
    pairs = [pair_specs(base, seed, coupled, replica, replicas) for seed, replica in plan]
    align_all([spec for pair in pairs for spec in pair], score, store)
    tables = []
    for (seed, replica), (f, g) in zip(plan, pairs, strict=True):
        split = training.split_of(f)
        for setting in score:
            of_f, of_g = alignment(f, setting, store), alignment(g, setting, store)
            table = scoring.score_table(of_f, of_g, split, images.index, images.labels.numpy())
            names = {"seed": seed, "representation": setting.representation}
            tables.append(table.assign(**names, **({"replica": replica} if replicas > 1 else {})))
    return pd.concat(tables, ignore_index=True)


def scores_of(
    bases: Mapping[str, TrainSpec], seeds: Sequence[int], score: Sequence[ScoreSpec], store: Store | None = None
) -> pd.DataFrame:
    """`scores` of several experiments, stacked with a column `dataset` that holds their names.

    Without the columns of half the views, and with numbers cut to single precision, which is far below their errors:
    these are the tables that are published. The index becomes text when official indices and paths meet in one table.
    """
    halves = ["half_0", "half_1"]
    tables = [
        scores(base, seeds, score, store=store).drop(columns=halves).assign(dataset=name)
        for name, base in bases.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    if len({one["index"].dtype.kind for one in tables}) > 1:
        table["index"] = table["index"].astype(str)
    return table.astype(dict.fromkeys(table.select_dtypes("float64"), "float32"))


def atypicality_of(spec: DatasetSpec) -> pd.DataFrame:
    """Atypicality of every image in pixel space (`stats.atypicality`), with its row."""
    images = data.load(spec)
    return stats.atypicality(images.images.numpy(), images.labels.numpy()).assign(row=np.arange(len(images)))


def with_pictures(rows: pd.DataFrame, spec: DatasetSpec) -> pd.DataFrame:
    """The rows of a dataset with `class` names and pictures: `pixels` (flat uint8) and their sizes `c`, `h`, `w`."""
    images = data.load(spec)
    some = images.take(rows["row"].to_numpy()).images.numpy()
    names = [images.classes[label] if label >= 0 else "" for label in rows["label"]]
    sizes = dict(zip("chw", some.shape[1:], strict=True))
    return rows.assign(**{"class": names}, pixels=[list(image.ravel()) for image in some], **sizes)
