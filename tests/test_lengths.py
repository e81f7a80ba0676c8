"""Training length: the rule of the plateau, slopes, and that looking at a training does not change it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sslmem_utils import data, figures, lengths, pairs, probes, training
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.lengths import following
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import ScoreSpec, TrainSpec
from sslmem_utils.store import Store

SCORE = ScoreSpec(views=4)
FEW = {"fit": 60, "test": 60}


def base(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 30, "candidate": 30, "external": 40, "epochs": 6, "batch": 30} | changes)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")


# ---------------------------------------------------------------- the plateau
def test_the_plateau_of_a_line_that_ends_in_a_level() -> None:
    """Loss 1 - t/100 down to 0 at epoch 100 and level until 200; windows of 20 around epoch e."""
    loss = np.maximum(0, 1 - np.arange(200) / 100)
    found = lengths.plateau(loss)
    # e - 20 .. e lies on the slope by k = 100 - (e - 20) epochs, whose mean over the window is k (k + 1) / 2 / 20 / 100
    drops = {e: (120 - e) * (121 - e) / 2 / 20 / 100 for e in range(101, 121)}
    assert found == min(e for e, drop in drops.items() if drop <= 0.04)
    assert lengths.plateau(loss, fall=0.1) < found < lengths.plateau(loss, fall=0.001)
    assert lengths.plateau(5 + 3 * loss) == found, "neither level nor scale matter"


def test_a_plateau_that_does_not_last_is_none() -> None:
    t = np.arange(200)
    steps = np.where(t < 50, 1 - t / 100, 0.5) - np.where(t > 110, np.minimum(t - 110, 40) / 80, 0)
    assert 150 < lengths.plateau(steps) < 175, "the level at half of the height is followed by another fall"
    assert np.isnan(lengths.plateau(1 - t / 200)), "a line never levels off"
    with pytest.raises(DataError, match="train longer"):
        lengths.plateau(t / 10)


def test_the_plateau_of_an_experiment_is_that_of_its_mean_loss() -> None:
    t = np.arange(200)
    one, two = np.maximum(0, 1 - t / 50), np.maximum(0, 1 - t / 100)
    curves = {("a", 0, "f"): one, ("a", 1, "g"): two, ("b", 0, "f"): two}
    names = ("dataset", "seed", "encoder")
    parts = [
        pd.DataFrame({**dict(zip(names, key, strict=True)), "epoch": t + 1, "loss": loss})
        for key, loss in curves.items()
    ]
    found = lengths.plateaus(pd.concat(parts))
    before = two[int(found["plateau"][1]) - 20 : int(found["plateau"][1])].mean()
    assert found["fallen"][1] == pytest.approx(1 - before), "it falls from 1 to 0"
    assert found.drop(columns="fallen").to_dict("records") == [
        {"dataset": "a", "plateau": lengths.plateau((one + two) / 2), "last": 200},
        {"dataset": "b", "plateau": lengths.plateau(two), "last": 200},
    ]
    assert lengths.plateaus(parts[0].drop(columns="dataset"))["plateau"][0] == lengths.plateau(one)
    parts[2]["loss"] = 1 - t / 200
    with pytest.raises(DataError, match="the loss of b still falling at epoch 200"):
        lengths.plateaus(pd.concat(parts))


def test_slopes_are_per_doubling_and_past_the_plateau_only() -> None:
    epochs = [10, 20, 40, 80, 160]
    rows = [
        {"dataset": name, "seed": seed, "epoch": e, "candidate": (seed + 1) * 0.1 * np.log2(max(e, 40)) - (e < 40)}
        for name in ("a", "b")
        for seed in (0, 1)
        for e in epochs
    ]
    where = pd.DataFrame({"dataset": ["a", "b"], "plateau": [40.0, 33.0], "last": 160})
    found = lengths.slopes(pd.DataFrame(rows), where)
    assert list(zip(found["dataset"], found["seed"], strict=True)) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert list(found["slope"]) == pytest.approx([0.1, 0.2] * 2) and set(found["checkpoints"]) == {3}
    alone = lengths.slopes(pd.DataFrame(rows[:10]).drop(columns="dataset"), where[:1].drop(columns="dataset"))
    assert list(alone["slope"]) == pytest.approx([0.1, 0.2])
    with pytest.raises(DataError, match="3 checkpoints after the plateau at epoch 41, found 2"):
        lengths.slopes(pd.DataFrame(rows), where.assign(plateau=41))


# ---------------------------------------------------------------- following a training
def test_looking_does_not_change_the_training(tmp_path: Path) -> None:
    spec, _ = pairs.pair_specs(base(), 0)
    folders = lengths.follow(spec, [2, 6], SCORE, Store(tmp_path), **FEW)
    plain = training.train(spec, Store(tmp_path))
    metrics = pd.read_parquet(plain / "metrics.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(folders[6] / "losses.parquet"), metrics)
    pd.testing.assert_frame_equal(pd.read_parquet(folders[2] / "losses.parquet"), metrics.head(2))
    aligned = pairs.alignment(spec, SCORE, Store(tmp_path))
    pd.testing.assert_frame_equal(pd.read_parquet(folders[6] / "alignment.parquet"), aligned)
    early = pd.read_parquet(folders[2] / "alignment.parquet")
    assert not np.allclose(early["align"], aligned["align"])
    probed = probes.of(spec, Store(tmp_path), **FEW)
    pd.testing.assert_frame_equal(pd.read_parquet(folders[6] / "probe.parquet"), probed)


def test_a_killed_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, _ = pairs.pair_specs(base(), 1)
    whole = lengths.follow(spec, [2, 4, 6], SCORE, Store(tmp_path / "whole"), **FEW)
    monkeypatch.setattr(following, "SAVE_SECONDS", -1.0)
    real, began = following._keep, []

    def killed(state: training.Training, *rest: object) -> None:
        if state.epoch == 4:
            raise KeyboardInterrupt
        real(state, *rest)

    store = Store(tmp_path / "killed")
    monkeypatch.setattr(following, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        lengths.follow(spec, [2, 4, 6], SCORE, store, **FEW)
    checkpoint = store.checkpoint(lengths.KIND, training.key(spec, data.load(spec.dataset).fingerprint))
    assert int(load_file(checkpoint)["epoch"]) == 3
    monkeypatch.setattr(following, "_keep", real)
    run = training.run
    monkeypatch.setattr(training, "run", lambda state, *rest: (began.append(state.epoch), run(state, *rest)))
    again = lengths.follow(spec, [2, 4, 6], SCORE, store, **FEW)
    assert began == [3] and not checkpoint.exists()
    for epoch, folder in whole.items():
        for file in folder.glob("*.parquet"):
            pd.testing.assert_frame_equal(pd.read_parquet(again[epoch] / file.name), pd.read_parquet(file))
    lengths.follow(spec, [2, 6], SCORE, store, **FEW)
    assert began == [3], "nothing is left to train"
    lengths.follow(spec, [1, 2], SCORE, store, **FEW)
    assert began == [3, 0], "an epoch that was missed needs the training from its start"


def test_a_longer_schedule_has_the_same_warm_up() -> None:
    short, long = base(epochs=20), lengths.stretched(base(epochs=20), 4)
    rates = [[training.learning_rate(spec, step, spec.epochs) for step in range(20)] for spec in (short, long)]
    assert rates[0][:2] == pytest.approx(rates[1][:2]) and rates[0][19] < 0.1 * short.lr
    assert min(rates[1][2:]) > 0.85 * short.lr
    assert lengths.stretched(base(), 1) == base()
    with pytest.raises(SpecError, match="horizon must be at least 1"):
        lengths.stretched(base(), 0.5)


def test_curves_and_losses(tmp_path: Path) -> None:
    store, course = Store(tmp_path), lengths.Course(base(), [0, 1], [1, 3], SCORE, horizon=2.0, **FEW)
    found = lengths.curves(course, store)
    assert list(zip(found["seed"], found["epoch"], strict=True)) == [(0, 1), (0, 3), (1, 1), (1, 3)]
    assert (found.loc[found["epoch"] == 3, "order"] == 1).all()
    assert found[["knn", "linear", "auc_f", "auc_external"]].stack().between(0, 1).all()
    assert found["knn"].tolist() == pytest.approx(((found["knn_f"] + found["knn_g"]) / 2).tolist())
    f, g = lengths.pair(base(), 0, [1, 3], 2.0)
    assert f.epochs == 6 and f.split == g.split
    table = pairs.align_on(_after(f, 1), SCORE, f).set_index("row")["align"]
    external = training.split_of(f).external
    assert found["align_f_external"][0] == pytest.approx(table.loc[external].mean())
    loss = lengths.losses(course, store)
    assert len(loss) == 2 * 2 * 3 and loss["epoch"].max() == 3 and loss["loss"].gt(0).all()


def _after(spec: TrainSpec, epochs: int) -> training.Training:
    """The model after some epochs of a training, by its own loop."""

    class Enough(Exception): ...

    def look(state: training.Training) -> None:
        if state.epoch == epochs:
            raise Enough

    given = training.inputs(spec)
    state = training.Training.start(training.resolved(spec), given.images.shape)
    with pytest.raises(Enough):
        training.run(state, training.Source.of(given.images, torch.from_numpy(given.rows)), look)
    return state.model


@pytest.mark.parametrize("checkpoints", [[], [0, 3], [7]])
def test_checkpoints_lie_within_the_training(checkpoints: list[int], tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="between 1 and 6 epochs"):
        lengths.follow(pairs.pair_specs(base(), 0)[0], checkpoints, SCORE, Store(tmp_path), **FEW)


# ---------------------------------------------------------------- the figure
def test_the_figure_shades_what_comes_after() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"dataset": name, "panel": panel, "series": one, "seed": seed, "epoch": epoch, "value": rng.random()}
        for name in ("digits", "mnist")
        for panel, series in (("loss", ["f", "g"]), ("accuracy", ["linear"]))
        for one in series
        for seed in range(3)
        for epoch in (10, 20, 40, 80)
    ]
    figure = figures.along(pd.DataFrame(rows), past={"digits": 20}, bounds={"accuracy": (0, 1)})
    svg, text = figures.to_svg(figure), figures.alt(figure)
    assert "digits plateau from 20 on" in text and "MNIST accuracy linear" in text and svg.count("plateau") == 1
    shaded = [axes for axes in figure.axes if any(patch.get_alpha() == 0.12 for patch in axes.patches)]
    assert [axes.get_xlim() for axes in shaded] == [(10, 80)] * 2
    low, high = figure.axes[2].get_ylim()
    assert low >= 0 and high <= 1
    assert figures.to_svg(figure) == svg
