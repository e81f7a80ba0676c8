"""Ensembles: who trains on what, and the matrices that come of it."""

from pathlib import Path

import numpy as np
import pytest

from sslmem_utils import data, ensembles, pairs, recipes, splits, training
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
        assert np.array_equal(one.a[2], table["align"]) and np.array_equal(one.se_views[2], table["se_views"])
    saw = {name: np.isin(one.rows, getattr(split, name)) for name in ("shared", "candidate", "independent")}
    assert np.array_equal(one.member[0], saw["shared"] | saw["candidate"])
    assert np.array_equal(one.member[3], saw["shared"] | saw["independent"])
    with pytest.raises(SpecError, match="must share dataset, split and canaries"):
        ensembles.measure([*specs, base()], SETTINGS, store)


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
