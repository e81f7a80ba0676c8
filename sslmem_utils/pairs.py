"""Compose an experiment: train or load pairs of encoders, align them, score the images.

This is what notebooks and the command line call. One replication is one split seed with one training seed of f and of
g; `scores` stacks replications into one tidy table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from . import data, scoring, splits, stats, training
from .errors import SpecError
from .methods import Method
from .specs import DatasetSpec, ScoreSpec, TrainSpec, digest
from .store import Store
from .versions import version_of

SETS_OF = {"f": ("shared", "candidate"), "g": ("shared", "independent")}


def pair_specs(base: TrainSpec, seed: int, coupled: bool = False) -> tuple[TrainSpec, TrainSpec]:
    """The specs of f and g of one replication: split seed `seed`, training seeds 2 seed and 2 seed + 1.

    f and g differ in initialisation, data order and views, as two independent draws of the training algorithm do in
    the definition; `coupled` gives both the seed 2 seed, an option to study.
    """
    split = base.split.but(seed=seed)
    if not split.independent:
        raise SpecError("a pair needs an independent set as large as the candidate set; set both in the SplitSpec.")
    f, g = (base.but(split=split, sets=sets, seed=2 * seed) for sets in SETS_OF.values())
    return f, g if coupled else g.but(seed=2 * seed + 1)


def alignment(spec: TrainSpec, score: ScoreSpec, store: Store | None = None) -> pd.DataFrame:
    """The stored alignment table of a trained encoder on every image of its split; computed when missing.

    Columns as `scoring.align`. Raises SpecError when the encoder was not trained yet.
    """
    store = store or Store()
    images = data.load(spec.dataset)
    score = score if score.view is not None else score.but(view=spec.view)
    encoder = training.key(spec, images.fingerprint)
    name = digest(encoder, score.key(), version_of("scoring", "views"))

    def write(folder: Path) -> None:
        model = _loaded(spec, store)
        rows = split_of(spec).rows("shared", "candidate", "independent", "external")
        table = scoring.align(
            model, images.images, images.ids, score, view=score.view, fingerprint=images.fingerprint, rows=rows
        )
        table.to_parquet(folder / "alignment.parquet", index=False)

    meta = {"encoder": encoder, "score": score.model_dump(mode="json")}
    return pd.read_parquet(store.compute("alignments", name, write, meta) / "alignment.parquet")


def _loaded(spec: TrainSpec, store: Store) -> Method:
    model = training.load(spec, store)
    if model is None:
        raise SpecError("this encoder is not trained yet; call training.train(spec) first.")
    return model


def split_of(spec: TrainSpec) -> splits.Split:
    """The four sets of a spec's dataset."""
    images = data.load(spec.dataset)
    return splits.draw(images.labels.numpy(), spec.split, dataset=spec.dataset.name, fingerprint=images.fingerprint)


def scores(
    base: TrainSpec,
    seeds: Sequence[int],
    score: Sequence[ScoreSpec] = (ScoreSpec(), ScoreSpec(representation="projector")),
    *,
    coupled: bool = False,
    store: Store | None = None,
) -> pd.DataFrame:
    """Score tables of one pair a seed under every score setting, stacked with columns `seed` and `representation`.

    Trains what is missing in parallel and reuses all that is stored. Columns otherwise as `scoring.score_table`.
    """
    if not seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    store = store or Store()
    images = data.load(base.dataset)
    split_of(training.resolved(base))  # sizes, names and options are checked before anything is trained
    pairs = [pair_specs(base, seed, coupled) for seed in seeds]
    training.train_all([spec for pair in pairs for spec in pair], store)
    tables = []
    for seed, (f, g) in zip(seeds, pairs, strict=True):
        for setting in score:
            of_f, of_g = alignment(f, setting, store), alignment(g, setting, store)
            table = scoring.score_table(of_f, of_g, split_of(f), images.index, images.labels.numpy())
            tables.append(table.assign(seed=seed, representation=setting.representation))
    return pd.concat(tables, ignore_index=True)


def scores_of(
    bases: Mapping[str, TrainSpec], seeds: Sequence[int], score: Sequence[ScoreSpec], store: Store | None = None
) -> pd.DataFrame:
    """`scores` of several experiments, stacked with a column `dataset` that holds their names.

    Numbers are cut to single precision, which halves the tables that are published and is far below their errors. The
    index becomes text when official indices and paths meet in one table.
    """
    tables = [scores(base, seeds, score, store=store).assign(dataset=name) for name, base in bases.items()]
    table = pd.concat(tables, ignore_index=True)
    if len({one["index"].dtype.kind for one in tables}) > 1:
        table["index"] = table["index"].astype(str)
    return table.astype(dict.fromkeys(table.select_dtypes("float64"), "float32"))


def atypicality_of(spec: DatasetSpec) -> pd.DataFrame:
    """Atypicality of every image in pixel space (`stats.atypicality`), with its row."""
    images = data.load(spec)
    return stats.atypicality(images.images.numpy(), images.labels.numpy()).assign(row=np.arange(len(images)))


def replications(table: pd.DataFrame, column: str = "m_rel") -> pd.DataFrame:
    """Every score that counts as one measurement of an image's memorization, one row a seed and image.

    Candidates as they are and independents with the sign turned (there the roles of f and g are swapped), both centred
    on the external images of their seed, so that a global offset between f and g does not tell the halves apart.
    Columns: those of `table` plus `score`, and `top`: is it in the top decile of its seed?
    """
    keys = [name for name in ("dataset", "representation", "seed") if name in table]
    zero = table[column].where(table["set"] == "external").groupby([table[name] for name in keys]).transform("mean")
    sign = table["set"].map({"candidate": 1.0, "independent": -1.0})
    measured = table.assign(score=(table[column] - zero) * sign).dropna(subset="score")
    share = measured.groupby(keys)["score"].rank(pct=True)
    return measured.assign(top=share > 0.9).reset_index(drop=True)


def ranking(table: pd.DataFrame, column: str = "m_rel") -> pd.DataFrame:
    """Mean score of every image over the seeds that measured it (`replications`), the highest first.

    Columns: row, index, label, n (measurements), score, se (over seeds; NaN when n = 1), p_top: the share of its
    measurements in which it was in the top decile.
    """
    grouped = replications(table, column).groupby(["row", "index", "label"])
    out = grouped.agg(n=("score", "size"), score=("score", "mean"), se=("score", "sem"), p_top=("top", "mean"))
    return out.reset_index().sort_values("score", ascending=False, ignore_index=True)


def with_pictures(rows: pd.DataFrame, spec: DatasetSpec) -> pd.DataFrame:
    """The rows of a dataset with `class` names and pictures: `pixels` (flat uint8) and their sizes `c`, `h`, `w`."""
    images = data.load(spec)
    some = images.take(rows["row"].to_numpy()).images.numpy()
    names = [images.classes[label] if label >= 0 else "" for label in rows["label"]]
    sizes = dict(zip("chw", some.shape[1:], strict=True))
    return rows.assign(**{"class": names}, pixels=[list(image.ravel()) for image in some], **sizes)
