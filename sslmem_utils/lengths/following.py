"""Train pairs of encoders for long, and look at them on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .. import data, pairs, probes, scoring, stats, training
from ..errors import SpecError
from ..specs import ScoreSpec, TrainSpec, digest
from ..stats import Number
from ..store import Store, write_atomic
from ..versions import version_of

KIND = "lengths"
HORIZON = 4.0
SAVE_SECONDS = 20.0  # a kill loses at most this much work
ACCURACIES = ("knn", "linear", "spread")


class _Enough(Exception):
    """The last epoch that was asked for is done."""


def stretched(base: TrainSpec, horizon: Number = HORIZON) -> TrainSpec:
    """`base` with a schedule for `horizon` times its epochs and a warm-up of as many epochs as before."""
    if horizon < 1:
        raise SpecError(f"horizon must be at least 1, the whole schedule, found {horizon:g}; raise it.")
    return base.but(epochs=round(base.epochs * horizon), warmup=base.warmup / horizon)


def pair(
    base: TrainSpec, seed: int, checkpoints: Sequence[int], horizon: Number = HORIZON
) -> tuple[TrainSpec, TrainSpec]:
    """f and g of one replication with the schedule that `curves` follows them along; SpecError without checkpoints."""
    if not checkpoints:
        raise SpecError("following a training needs a checkpoint, found none; the last one is its length.")
    return pairs.pair_specs(stretched(base.but(epochs=max(checkpoints)), horizon), seed)


@dataclass(frozen=True)
class Course:
    """What is trained, and when and how it is looked at.

    The pairs of every seed are trained up to the last of the `checkpoints`, whatever epochs `base` has, along a
    schedule of `horizon` times as many. `fit` and `test` are images of the probes.
    """

    base: TrainSpec
    seeds: Sequence[int]
    checkpoints: Sequence[int]
    score: ScoreSpec
    horizon: Number = HORIZON
    fit: int = probes.FIT
    test: int = probes.TEST


def curves(course: Course, store: Store | None = None) -> pd.DataFrame:
    """What is measured after each checkpoint of a course; trains what is missing.

    One row a seed and epoch: the columns of `stats.summary` for m_rel (centred means of the sets, auc_external and
    others); `auc_f`: candidates against external images by minus align_f alone; `align_f_SET`, `align_g_SET`: mean
    alignment losses; `order`: Spearman of the candidates' m_rel with that after the last checkpoint; knn, linear and
    spread (`probes`) of f as `knn_f` and so on, of g likewise, and the mean of both as `knn` and so on.
    """
    rows = []
    for seed, both in _followed(course, store or Store()).items():
        split, images = training.split_of(both["f"][0]), data.load(course.base.dataset)
        tables = {}
        for epoch in sorted(set(course.checkpoints)):
            found = [pd.read_parquet(both[name][1][epoch] / "alignment.parquet") for name in "fg"]
            tables[epoch] = scoring.score_table(*found, split, images.index, images.labels.numpy()).assign(seed=seed)
        last = _candidates(tables[max(tables)])
        for epoch, table in tables.items():
            row = {"seed": seed, "epoch": epoch, **stats.summary(table).iloc[0].drop("seed").to_dict()}
            by_set = stats.scores_by_set(table.assign(value=-table["align_f"]), "value")
            row["auc_f"] = stats.auc(by_set["candidate"], by_set["external"])
            for name, mean in table.groupby("set")[["align_f", "align_g"]].mean().to_dict("index").items():
                row |= {f"{side}_{name}": value for side, value in mean.items()}
            row["order"] = stats.spearman(_candidates(table), last)
            rows.append(row | _accuracies(both, epoch))
    return pd.DataFrame(rows)


def _candidates(table: pd.DataFrame) -> np.ndarray:
    return table.loc[table["set"] == "candidate", "m_rel"].to_numpy()


def _accuracies(both: dict[str, tuple[TrainSpec, dict[int, Path]]], epoch: int) -> dict[str, float]:
    found = {name: pd.read_parquet(both[name][1][epoch] / "probe.parquet").iloc[0] for name in "fg"}
    each = {f"{what}_{name}": float(one[what]) for name, one in found.items() for what in ACCURACIES}
    return each | {what: (each[f"{what}_f"] + each[f"{what}_g"]) / 2 for what in ACCURACIES}


def losses(course: Course, store: Store | None = None) -> pd.DataFrame:
    """The training loss of the same pairs: seed, encoder (f, g), epoch, loss (mean over the epoch), lr."""
    parts = []
    for seed, both in _followed(course, store or Store()).items():
        for name, (_, folders) in both.items():
            table = pd.read_parquet(folders[max(folders)] / "losses.parquet")
            parts.append(table[["epoch", "loss", "lr"]].assign(seed=seed, encoder=name))
    return pd.concat(parts, ignore_index=True)


# ---------------------------------------------------------------- following one training
def follow(
    spec: TrainSpec,
    checkpoints: Sequence[int],
    score: ScoreSpec,
    store: Store | None = None,
    *,
    fit: int = probes.FIT,
    test: int = probes.TEST,
) -> dict[int, Path]:
    """Train `spec` up to the last checkpoint and look at it after each of them; a folder of tables for each epoch.

    `alignment.parquet` (as `scoring.align`, every image of the four sets), `probe.parquet` (as `probes.of`) and
    `losses.parquet` (the metrics up to there). Looking does not change the training. What is stored is not computed
    again, and a killed training goes on from its last state. SpecError for a checkpoint outside of the training.
    """
    store, at = store or Store(), sorted(set(checkpoints))
    if not at or at[0] < 1 or at[-1] > spec.epochs:
        raise SpecError(f"checkpoints must lie between 1 and {spec.epochs} epochs, found {at or 'none'}; change them.")
    score = score.but(view=score.view or spec.view)
    encoder = training.key(spec, data.load(spec.dataset).fingerprint)
    rooms = version_of("lengths", "probes", "scoring", "views")
    names = {epoch: digest(encoder, epoch, score.key(), fit, test, rooms) for epoch in at}
    if any(store.get(KIND, name) is None for name in names.values()):
        with store.lock(KIND, encoder):
            _follow(spec, names, score, store, encoder, (fit, test))
            store.forget(KIND, encoder)
    return {epoch: store.path(KIND, name) for epoch, name in names.items()}


def _follow(
    spec: TrainSpec, names: dict[int, str], score: ScoreSpec, store: Store, encoder: str, sizes: tuple[int, int]
) -> None:
    torch.set_num_threads(spec.compute.threads)
    given, asked = training.inputs(spec), probes.sample(spec, *sizes)
    missing = [epoch for epoch, name in names.items() if store.get(KIND, name) is None]
    if not missing:
        return
    state, saved = _begun(spec, given, store.checkpoint(KIND, encoder), min(missing)), time.monotonic()

    def look(state: training.Training) -> None:
        nonlocal saved
        if state.epoch in missing:
            _keep(state, spec, score, asked, store, names[state.epoch])
        if state.epoch >= max(missing):
            raise _Enough
        if time.monotonic() - saved > SAVE_SECONDS:
            write_atomic(store.checkpoint(KIND, encoder), lambda file: file.write_bytes(save(state.tensors())))
            saved = time.monotonic()

    try:
        training.run(state, training.Source.of(given.images, torch.from_numpy(given.rows)), look)
    except _Enough:
        pass


def _begun(spec: TrainSpec, given: training.Inputs, checkpoint: Path, first: int) -> training.Training:
    """The training as a killed process left it, if no epoch from `first` on was missed; else a new one."""
    state = training.Training.start(training.resolved(spec), given.images.shape)
    if checkpoint.is_file():
        try:
            tensors = load(checkpoint.read_bytes())
        except SafetensorError:
            return state
        if int(tensors["epoch"]) < first:
            state.restore(tensors)
    return state


def _keep(
    state: training.Training, spec: TrainSpec, score: ScoreSpec, asked: probes.Sample, store: Store, name: str
) -> None:
    mode = state.model.training
    aligned = pairs.align_on(state.model, score, spec)
    probed = probes.measure(state.model, asked)
    state.model.train(mode)

    def write(folder: Path) -> None:
        aligned.to_parquet(folder / "alignment.parquet", index=False)
        probed.to_parquet(folder / "probe.parquet", index=False)
        state.table().to_parquet(folder / "losses.parquet", index=False)

    store.put(KIND, name, write, {"spec": spec.model_dump(mode="json"), "epoch": state.epoch})


def _followed(course: Course, store: Store) -> dict[int, dict[str, tuple[TrainSpec, dict[int, Path]]]]:
    """For every seed, f and g: the spec and the folders of its checkpoints. Several trainings at a time on a CPU."""
    base, checkpoints, score = course.base, tuple(course.checkpoints), course.score
    if not course.seeds:
        raise SpecError("an experiment needs at least one seed, found none; raise `seeds`.")
    plan = {seed: pair(base, seed, checkpoints, course.horizon) for seed in course.seeds}
    specs, sizes = [spec for both in plan.values() for spec in both], (course.fit, course.test)
    arguments = [(spec.canonical(), checkpoints, score.canonical(), str(store.root), *sizes) for spec in specs]
    training.side_by_side(_follow_in_worker, arguments, specs)
    found = [follow(spec, checkpoints, score, store, fit=course.fit, test=course.test) for spec in specs]
    each = iter(zip(specs, found, strict=True))
    return {seed: {"f": next(each), "g": next(each)} for seed in plan}


def _follow_in_worker(arguments: tuple[str, tuple[int, ...], str, str, int, int]) -> None:
    spec, checkpoints, score, root, fit, test = arguments
    settings = TrainSpec.model_validate_json(spec), checkpoints, ScoreSpec.model_validate_json(score)
    follow(*settings, Store(Path(root)), fit=fit, test=test)
