"""Ensembles: who trains on what, and the matrices that come of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sslmem_utils import data, ensembles, pairs, recipes, splits, stats, training
from sslmem_utils.errors import SpecError, SplitError
from sslmem_utils.specs import EncoderSpec, ScoreSpec, SubsetSpec, TrainSpec
from sslmem_utils.store import Store

SETTINGS = [ScoreSpec(views=4), ScoreSpec(views=4, representation="projector")]


def base(**changes: object) -> TrainSpec:
    """A small encoder of digits: seconds for a whole ensemble."""
    small = EncoderSpec(name="mlp", options={"width": 16, "depth": 1})
    sizes = {"candidate": 40, "shared": 20, "external": 30}
    return recipes.recipe("digits", **sizes, batch=20, epochs=2, encoder=small).but(**changes)


def test_an_ensemble_sees_every_image_equally_often() -> None:
    whole = base(sets=("shared", "candidate", "independent"))
    labels = data.load(whole.dataset).labels.numpy()
    for fraction, blocks in ((0.5, 2), (0.7, 10), (4 / 7, 7)):
        specs = ensembles.subsampled(whole, 2 * blocks, fraction)
        rows = [training.inputs(spec).rows for spec in specs]
        times = np.unique(np.concatenate(rows), return_counts=True)
        assert len(times[0]) == 100 and set(times[1]) == {round(2 * blocks * fraction)}
        assert max(map(len, rows)) - min(map(len, rows)) <= blocks
        if blocks == 2:
            assert not set(rows[0]) & set(rows[1]) and set(rows[0]) != set(rows[2])
            assert np.bincount(labels[rows[0]], minlength=10).tolist() == [5] * 10  # of 10 a class
    assert len({spec.seed for spec in specs}) == len(specs)


def test_leaving_one_out() -> None:
    points = training.inputs(base()).split.candidate[:3]
    specs = ensembles.leave_one_out(base(), points, seeds=[0, 1])
    every = set(training.inputs(base()).rows)
    assert [every - set(training.inputs(spec).rows) for spec in specs] == [{row} for row in points] * 2
    assert [spec.seed for spec in specs] == [0, 0, 0, 1, 1, 1]
    outside = int(training.inputs(base()).split.external[0])
    with pytest.raises(SplitError, match="cannot be left out"):
        training.inputs(base(subset=SubsetSpec(without=(outside,))))
    with pytest.raises(SpecError, match="give 2 or more"):
        ensembles.leave_one_out(base(), points[:1], seeds=[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.5, "members": 3}, "balanced in ensembles of 2, 4"),
        ({"fraction": 0.123456, "members": 2}, "ratio of whole numbers"),
        ({"fraction": 0.5, "members": 2, "member": 2}, "counts from 0 to 1"),
    ],
)
def test_ensembles_that_cannot_be_balanced(options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        SubsetSpec(**options)


def test_too_few_images_for_a_batch_are_found_before_training() -> None:
    with pytest.raises(SpecError, match="exceeds the 15 training images"):
        base(subset=SubsetSpec(fraction=0.25, members=4))


def test_measured_in_parallel_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "2")
    monkeypatch.setattr(training.several, "SMALL", 0)
    store, specs = Store(tmp_path), ensembles.replicated(base(), seed=3, replicas=2)
    found = ensembles.measure(specs, SETTINGS, store)
    monkeypatch.setattr(training, "train_all", lambda *_, **__: pytest.fail("trained again"))
    again = ensembles.measure(specs, SETTINGS, store)
    assert not list((tmp_path / "encoders").glob("*")), "weights are not kept"
    split = training.inputs(specs[0]).split
    for one, two, setting in zip(found, again, SETTINGS, strict=True):
        assert np.array_equal(one.a, two.a) and one.a.shape == (4, 130)
        assert np.array_equal(one.rows, split.rows("shared", "candidate", "independent", "external"))
        table = pairs.alignment(specs[2], setting, store)
        assert np.array_equal(one.a[2], table["align"])
    saw = {name: np.isin(one.rows, getattr(split, name)) for name in ("shared", "candidate", "independent")}
    assert np.array_equal(one.member[0], saw["shared"] | saw["candidate"])
    assert np.array_equal(one.member[3], saw["shared"] | saw["independent"])
    with pytest.raises(SpecError, match="must share dataset, split and canaries"):
        ensembles.measure([*specs, base()], SETTINGS, store)


def test_weights_that_were_there_before_stay(tmp_path: Path) -> None:
    store, specs = Store(tmp_path), ensembles.replicated(base(), seed=3, replicas=1)
    folder = training.train(specs[0], store)
    ensembles.measure(specs, SETTINGS[:1], store)
    assert list((tmp_path / "encoders").glob("*")) == [folder], "only what was trained for the ensemble is removed"


def test_an_ensemble_s_encoder_is_the_one_that_is_trained_alone(tmp_path: Path) -> None:
    """The same bits, whether its images are named by sets or by leaving images out."""
    whole, part = base(), base(sets=("shared",), batch=20)
    out = tuple(int(row) for row in training.inputs(whole).split.candidate)
    same = whole.but(subset=SubsetSpec(without=out))
    assert np.array_equal(training.inputs(same).rows, training.inputs(part).rows)
    for spec in (same, part):
        training.train(spec, Store(tmp_path))
    one, two = (pairs.alignment(spec, SETTINGS[0], Store(tmp_path)) for spec in (same, part))
    assert one.equals(two)


def test_rows_without_a_subset_are_left_alone() -> None:
    rows = np.array([1, 5, 9])
    assert splits.subset(rows, np.zeros(10, int), None, fingerprint="x") is rows


# ---------------------------------------------------------------- against the truth
def simulated(estimator: str, t: int = 40, n: int = 30, outside: int = 10) -> tuple[ensembles.Ensemble, np.ndarray]:
    """Alignments with a known effect of training on an image; pairs see a second effect of their one split."""
    rng = np.random.default_rng(7)
    effect, base = rng.uniform(0.5, 2, n + outside), rng.uniform(8, 9, n + outside)
    accident = rng.normal(0, 1, n + outside)
    if estimator == "subsampled":
        four = (np.arange(4)[:, None] % 2 == 0).repeat(n, axis=1)
        member = np.concatenate([rng.permuted(four, axis=0) for _ in range(t // 4)])  # in and out in every four
        member = np.concatenate([member, np.zeros((t, outside), dtype=bool)], axis=1)
        a = base + effect * ~member
    else:
        member = np.zeros((t, n + outside), dtype=bool)
        member[0::2, :n] = True
        a = base + np.where(member, 0, effect + accident)
    noisy = a + rng.normal(0, 0.15, a.shape)
    rows = np.arange(100, 100 + n + outside)
    return ensembles.Ensemble(noisy, member, rows, np.arange(t)), effect[:n] / (2 * base + effect)[:n]


def test_agreement_with_the_truth_grows_with_the_blocks_and_stops_at_the_split() -> None:
    found, truth = simulated("subsampled")
    known = ensembles.Truth(found.rows[:30], np.stack([truth, truth]))
    assert known.reliability == pytest.approx(1)
    table = ensembles.against(known, found, "subsampled", [4, 20, 40])
    assert table.groupby("encoders").size().to_dict() == {4: 10, 20: 2, 40: 1}
    by_size = table.groupby("encoders")["rho"].mean()
    assert by_size[4] < by_size[20] < by_size[40] and by_size[40] > 0.97
    assert np.isnan(table.loc[table["encoders"] == 40, "reliability"]).all()
    assert table.loc[table["encoders"] == 4, "disattenuated"].mean() == pytest.approx(1, abs=0.03), "noise taken out"
    paired, _ = simulated("replicated")
    of_pairs = ensembles.against(known, paired, "replicated", [2, 20])
    whole = of_pairs[of_pairs["encoders"] == 20]
    assert (whole["reliability"] > 0.98).all() and (whole["rho"] < 0.85).all(), "reliable, and not valid"
    alone = ensembles.against(known, paired, "align_f", [1, 20])
    assert alone.groupby("encoders").size().to_dict() == {1: 20, 20: 1}
    with pytest.raises(SpecError, match="estimator must be one of"):
        ensembles.against(known, paired, "median", [2])


def test_rivals_that_have_no_value_are_left_out() -> None:
    rows, wanted = np.arange(12)[::-1], np.arange(12.0)
    truth = ensembles.Truth(rows, np.stack([wanted, wanted]))
    values = np.where(np.arange(12) == 0, 5.5, -np.arange(12.0))  # in the opposite order of rows, one of them moved
    scores = {"row": range(12), "set": "candidate", "el2n": np.nan, "align_g": values, "one": 1.0}
    found = ensembles.rivals_against(truth, pd.DataFrame(scores))
    assert found["estimator"].tolist() == ["align_g"] and found["rho"].item() == pytest.approx(1)  # row 0 stays first
    assert found["low"].item() <= found["rho"].item() <= found["high"].item() + 1e-12


def test_leave_one_out_truth_of_trained_encoders(tmp_path: Path) -> None:
    points = training.inputs(base()).split.candidate[:3]
    specs = ensembles.leave_one_out(base(), points, seeds=[0, 1])
    found = ensembles.measure(specs, SETTINGS[:1], Store(tmp_path))[0]
    truth = ensembles.truth_of(found)
    assert truth.rows.tolist() == points.tolist() and truth.by_seed.shape == (2, 3)
    at = [found.rows.tolist().index(row) for row in points]
    a = found.a[3:, at]  # the second seed: encoder k saw all points but the k-th
    out, inside = np.diag(a), (a.sum(0) - np.diag(a)) / 2
    np.testing.assert_allclose(truth.by_seed[1], (out - inside) / (out + inside))
    assert truth.reliability == pytest.approx(stats.split_half(truth.by_seed).mean, nan_ok=True)
