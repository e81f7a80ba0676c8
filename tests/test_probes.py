"""Probes: which images, the two classifiers against plain ones, what is stored, and what is refused."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sslmem_utils import data, pairs, probes, training
from sslmem_utils.data import ImageSet
from sslmem_utils.errors import DataError
from sslmem_utils.probes import accuracy
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import SETS, DatasetSpec, EncoderSpec, TrainSpec
from sslmem_utils.store import Store

FEW = {"fit": 200, "test": 150}


def base(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 30, "candidate": 30, "external": 40, "epochs": 3, "batch": 30} | changes)


def spec(seed: int = 0, **changes: object) -> TrainSpec:
    return pairs.pair_specs(base(**changes), seed)[0]


# ---------------------------------------------------------------- the images
def test_no_encoder_has_seen_an_image_and_classes_are_even() -> None:
    images, found = data.load(DatasetSpec()), probes.sample(spec(), 200, 150)
    assert found.test.sum() == 150 and found.held_out.sum() == 40 and len(found.labels) == 350
    assert not (found.test & found.held_out).any()
    seen = images.rows(training.split_of(spec()).rows(*SETS)).flatten(1)
    every = images.images.flatten(1)
    twice = {row.numpy().tobytes() for row in seen} & {row.numpy().tobytes() for row in found.pixels.flatten(1)}
    copies = len(every) - len(torch.unique(every, dim=0))
    assert len(twice) <= copies, "equal pictures may be two images of the data set"
    for part in (found.test, found.held_out, ~found.test):
        counts = np.bincount(found.labels[part], minlength=10)
        assert counts.max() - counts.min() <= 2 + 0.1 * counts.mean()


def test_the_images_depend_on_the_split_alone() -> None:
    f, g = pairs.pair_specs(base(), 1)
    one = probes.sample(f, 200, 150)
    for other in (g, f.but(seed=99), f.but(epochs=9)):
        assert torch.equal(probes.sample(other, 200, 150).pixels, one.pixels)
    assert not torch.equal(probes.sample(spec(2), 200, 150).pixels, one.pixels)


def test_fewer_where_fewer_are_left() -> None:
    whole = len(data.load(DatasetSpec()))
    found = probes.sample(spec(external=whole - 90 - 300), 400, 200)
    assert (found.test.sum(), (~found.test).sum()) == (100, 200)
    with pytest.raises(DataError, match="100 labelled images outside the four sets, found 60 in digits; make a set"):
        probes.sample(spec(external=whole - 90 - 60), 400, 200)


def test_images_without_labels_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    images, load = data.load(DatasetSpec()), data.load
    rows = training.split_of(spec()).rows(*SETS)
    free = np.setdiff1d(np.arange(len(images)), rows)

    def with_labels(labels: torch.Tensor) -> None:
        fields = {name: getattr(images, name) for name in ("name", "pixels", "places", "index", "classes")}
        changed = ImageSet(**fields, labels=labels, fingerprint=images.fingerprint)
        monkeypatch.setattr(accuracy.data, "load", lambda spec=None: changed if spec is not None else load())

    labels = images.labels.clone()
    labels[free[::2]] = -1
    split = training.split_of(spec())
    monkeypatch.setattr(accuracy.training, "split_of", lambda _: split)
    with_labels(labels)
    assert (probes.sample(spec(), 300, 300).labels >= 0).all()
    with_labels(torch.full_like(labels, -1))
    with pytest.raises(DataError, match="found 0"):
        probes.sample(spec(), 300, 300)
    with_labels(torch.full_like(labels, 3))
    with pytest.raises(DataError, match="of one"):
        probes.sample(spec(), 300, 300)


# ---------------------------------------------------------------- the classifiers
def test_the_linear_probe_is_a_plain_logistic_regression() -> None:
    found = probes.sample(spec(), 200, 150)
    x = found.pixels.flatten(1).numpy().astype(np.float32)
    fit, test = ~found.test, found.test
    inner, outer = fit & ~found.held_out, found.held_out

    def score(on: np.ndarray, at: np.ndarray, c: float) -> float:
        scaler = StandardScaler().fit(x[on])
        model = LogisticRegression(C=c, max_iter=300).fit(scaler.transform(x[on]), found.labels[on])
        return model.score(scaler.transform(x[at]), found.labels[at])

    best = max(accuracy.PENALTIES, key=lambda c: (score(inner, outer, c), -c))
    assert probes.linear_accuracy(x, found) == score(fit, test, best)


def test_features_that_tell_everything_and_nothing() -> None:
    found = probes.sample(spec(), 200, 150)
    known = np.eye(10, dtype=np.float32)[found.labels]
    assert probes.linear_accuracy(known, found) == 1
    noise = np.random.default_rng(0).normal(size=(350, 5)).astype(np.float32)
    assert probes.linear_accuracy(noise, found) < 0.3


def test_a_vit_is_probed_at_the_mean_of_its_patches() -> None:
    tiny = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 1})
    one = spec(encoder=tiny)
    model = training.Training.start(training.resolved(one), (1, 8, 8)).model
    model.train()
    images = probes.sample(one, 60, 60)
    row = probes.measure(model, images).iloc[0]
    assert row["representation"] == "mean_patch" and model.training
    with torch.no_grad():
        x = model.eval().features(images.pixels.float() / 255, "mean_patch").numpy()
    assert row["linear"] == probes.linear_accuracy(x, images)


def test_a_feature_that_is_not_finite_is_refused() -> None:
    model = training.Training.start(training.resolved(spec()), (1, 8, 8)).model
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    with pytest.raises(DataError, match="not finite"):
        probes.measure(model, probes.sample(spec(), 60, 60))


# ---------------------------------------------------------------- what is stored
def test_a_probe_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first = probes.of(spec(), store, **FEW)
    assert training.load(spec(), store) is not None, "trained where it was missing"
    assert list(first.columns) == ["knn", "linear", "spread", "fit", "test", "representation"]
    assert first["fit"][0] == 200 and first["test"][0] == 150 and first["knn"].between(0, 1).all()
    fresh = probes.of(spec(), store, **FEW, untrained=True)
    plain = probes.pixels(spec(), store, **FEW)
    assert plain["representation"][0] == "pixels" and plain["linear"][0] > 0.7
    assert fresh["spread"][0] != first["spread"][0]
    monkeypatch.setattr(probes, "measure", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(probes.of(spec(), store, **FEW), first)
    pd.testing.assert_frame_equal(probes.of(spec(), store, **FEW, untrained=True), fresh)
    pd.testing.assert_frame_equal(probes.pixels(spec(epochs=9), store, **FEW), plain)
    assert probes.key(spec(), **FEW) != probes.key(spec(), fit=100, test=100)


def test_what_cannot_be_probed_is_said_before_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    few = spec(external=len(data.load(DatasetSpec())) - 90 - 60)
    with pytest.raises(DataError, match="labelled images"):
        probes.of(few, Store(tmp_path))
    assert not (tmp_path / training.KIND).exists()
