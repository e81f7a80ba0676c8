"""Rivals: formulas by hand, losses against the methods' own, and what a table of them holds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightly.loss import NTXentLoss

from sslmem_utils import canaries, encoders, methods, pairs, rivals, scoring, stats, training, views
from sslmem_utils.methods import Batch, Method
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import SETS, EncoderSpec, ScoreSpec, TrainSpec, ViewSpec, seed_of
from sslmem_utils.store import Store

SCORE = ScoreSpec(views=4)
TINY_VIT = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 1})


def base(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 30, "candidate": 30, "external": 40, "epochs": 3, "batch": 30} | changes)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "DRAWS", 2)
    monkeypatch.setattr(rivals, "RUNS", 2)
    monkeypatch.setenv("SSLMEM_JOBS", "1")


# ---------------------------------------------------------------- formulas
def test_el2n_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [1 / 3] * 3], np.float32))
    found = rivals.el2n(logits, np.array([0, 1, 2]))
    assert found == pytest.approx([np.sqrt(0.375), np.sqrt(0.25 + 0.5625 + 0.0625), np.sqrt(2 / 3)])
    sure = np.array([[50.0, 0.0], [50.0, 0.0]], np.float32)
    assert rivals.el2n(sure, np.array([0, 1])) == pytest.approx([0, np.sqrt(2)])


def test_forgetting_by_hand() -> None:
    right = [
        [0, 0, 1, 0, 1, 0],  # learned and forgotten, twice, one column an image
        [1, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [0, 1, 1, 0, 1, 0],
    ]
    assert rivals.forgetting(np.array(right, bool)).tolist() == [2, 0, 0, 1, 1, 5]


# ---------------------------------------------------------------- supervised training
def test_supervised_specs_keep_the_images_and_schedule_of_f() -> None:
    f, _ = pairs.pair_specs(base(), 1)
    found = rivals.supervised_specs(f, 10)
    assert len({spec.key() for spec in found}) == len(found) == 2
    for spec in found:
        assert spec.method.name == "supervised" and (spec.sets, spec.split, spec.view) == (f.sets, f.split, f.view)
        assert np.array_equal(training.inputs(spec).rows, training.inputs(f).rows)
    masked = base(method="mae", encoder=TINY_VIT)
    assert rivals.supervised_specs(masked, 10)[0].view == base().view and masked.view.mask == 0.75
    cropped = masked.but(view=masked.view.but(crop_scale=(0.5, 1.0)))
    assert rivals.supervised_specs(cropped, 10)[0].view == ViewSpec(crop_scale=(0.5, 1.0))


def test_wrong_labels_are_hard_to_learn() -> None:
    """Known truth: the images with a wrong label stand out in both supervised scores."""
    spec = rivals.supervised_specs(base(shared=100, candidate=100, batch=50, epochs=20), 10)[0]
    given = training.inputs(spec)
    labels, wrong = given.images.labels.clone(), given.rows[::10]
    labels[wrong] = (labels[wrong] + 5) % 10
    found = rivals._watched(spec, replace(given, images=replace(given.images, labels=labels)))
    mask = found["row"].isin(wrong)
    assert stats.auc(found["el2n"][mask], found["el2n"][~mask]) > 0.9
    assert stats.auc(found["forgetting"][mask], found["forgetting"][~mask]) > 0.7


def test_el2n_is_taken_early_and_watching_changes_nothing() -> None:
    spec = rivals.supervised_specs(base(epochs=20), 10)[0]
    given, seen = training.inputs(spec), {}
    plain = training.Training.start(training.resolved(spec), given.images.shape)

    def keep(state: training.Training) -> None:
        seen[state.epoch] = {name: value.clone() for name, value in state.model.state_dict().items()}

    training.run(plain, training.Source.of(given.images, torch.from_numpy(given.rows)), keep)
    found, model, right = rivals._watched(spec, given), plain.model.eval(), []
    x, y = given.images.rows(given.rows).float() / 255, given.images.labels[given.rows]
    for epoch in range(1, 21):
        model.load_state_dict(seen[epoch])
        with torch.no_grad():
            logits = model.classifier(model.encoder(x))
        right.append((logits.argmax(1) == y).numpy())
        if epoch == 2:
            errors = torch.softmax(logits, 1) - torch.eye(10)[y]
            assert found["el2n"].to_numpy() == pytest.approx(errors.norm(dim=1).numpy(), abs=1e-5)
    assert found["forgetting"].tolist() == rivals.forgetting(np.stack(right)).tolist()


def test_images_without_labels_have_no_supervised_scores(tmp_path: Path) -> None:
    given = training.inputs(base())
    unlabelled = replace(given, images=replace(given.images, labels=torch.full_like(given.images.labels, -1)))
    found = rivals._supervised(base(), unlabelled, Store(tmp_path))
    assert len(found) == 60 and found[["el2n", "forgetting"]].isna().all(axis=None)


# ---------------------------------------------------------------- the loss of one image
def untrained(spec: TrainSpec) -> Method:
    return training.Training.start(training.resolved(spec), (1, 8, 8)).model


def test_contrastive_loss_is_that_of_a_batch_with_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "DRAWS", 1)
    spec = base(external=200, batch=12)
    given, model, seed = training.inputs(spec), untrained(spec), 5
    images, candidates = given.images, given.split.candidate[:6]
    found = rivals.losses(model, spec, images, given.split, candidates, seed)
    keys = rivals.shuffle_keys(seed_of(seed, "references"), given.split.external)
    references = given.split.external[np.argsort(keys)[:11]]
    criterion = NTXentLoss(model.criterion.temperature)
    criterion.cross_entropy = torch.nn.CrossEntropyLoss(reduction="none")
    for row, value in zip(candidates, found, strict=True):
        some = np.concatenate([[row], references])
        drawn = views.views(images.rows(some), images.ids[torch.from_numpy(some)], spec.view, torch.arange(2), seed)
        with torch.no_grad():
            z = model.projector(model.encoder(drawn.transpose(0, 1).flatten(0, 1)))
            each = criterion(*z.unflatten(0, (2, 12)))  # of both views of every image
        assert value == pytest.approx(float(each[0] + each[12]) / 2, abs=1e-5)


def test_contrastive_loss_averages_draws_and_leaves_an_image_out_of_its_negatives() -> None:
    spec = base(external=40, batch=30)
    given, model = training.inputs(spec), untrained(spec)
    split = replace(given.split, external=given.split.external[:1])  # one reference: itself
    found = rivals.losses(model, spec, given.images, split, split.external, 0)
    assert found.tolist() == [0.0]
    alone = rivals.losses(model, spec, given.images, given.split, given.split.candidate[:4], 0)
    together = rivals.losses(model, spec, given.images, given.split, given.split.rows(*SETS), 0)
    at = np.searchsorted(given.split.rows(*SETS), given.split.candidate[:4])
    assert together[at] == pytest.approx(alone, abs=1e-6)
    none = replace(given.split, external=given.split.external[:0])
    assert np.isnan(rivals.losses(model, spec, given.images, none, split.external, 0)).all()


@pytest.mark.parametrize("method", ["simsiam", "byol", "dino", "mae", "supervised"])
def test_losses_of_images_average_to_the_loss_of_their_batch(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "DRAWS", 1)
    spec = base(method=method, encoder=TINY_VIT if method == "mae" else EncoderSpec(name="mlp"))
    given, model, seed = training.inputs(spec), untrained(spec), 3
    images, rows = given.images, given.rows[:8]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = rivals.losses(model, spec, images, given.split, rows, seed)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert rivals.losses(model, spec, images, given.split, rows[3:], seed) == pytest.approx(found[3:], abs=1e-12)
    at, start, drawn, hidden = torch.from_numpy(rows), 0, [], None
    for view, k in model.plan(spec.view):
        numbers, start = torch.arange(start, start + k), start + k
        drawn.append(views.views(images.rows(at), images.ids[at], view, numbers, seed))
        if view.mask:
            hidden = views.mask(view, images.ids[at], numbers, seed, images.shape)
    with torch.no_grad():
        whole = float(model.eval()(Batch(tuple(drawn), images.labels[at], hidden)))
    assert found.mean() == pytest.approx(whole, abs=1e-5) and found.std() > 0


@pytest.mark.parametrize("method", rivals.COUPLED)
def test_an_image_has_no_loss_of_its_own_in_coupled_methods(method: str) -> None:
    spec = base(method=method)
    given = training.inputs(spec)
    assert np.isnan(rivals.losses(untrained(spec), spec, given.images, given.split, given.rows, 0)).all()


# ---------------------------------------------------------------- the table
def test_a_table_has_every_rival_of_every_image_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, store = base(plants=canaries.dose(2, (1, 2))), Store(tmp_path)
    table = rivals.table(spec, 3, store, SCORE)
    f, g = pairs.pair_specs(spec, 3)
    given = training.inputs(f)
    assert table.columns.tolist() == ["row", "set", *rivals.NAMES]
    assert table["row"].tolist() == given.split.rows(*SETS).tolist()
    assert table["set"].tolist() == [given.split.names()[row] for row in table["row"]]
    of_f, of_g = (pairs.alignment(one, SCORE, store) for one in (f, g))
    assert table["align_f"].tolist() == (-of_f["align"]).tolist()
    assert table["align_g"].tolist() == of_g["align"].tolist()
    supervised = table["set"].isin(["shared", "candidate"])
    for name in rivals.NAMES:
        assert table[name].notna().tolist() == (
            supervised.tolist() if name in ("el2n", "forgetting") else [True] * len(table)
        )
    copies = canaries.table(given.images, given.split, spec.plants)
    nearest = stats.knn_distance(given.images.rows(given.split.rows(*SETS)).numpy())
    assert table["knn_pixels"].tolist() == nearest.tolist() and len(copies) == 4
    monkeypatch.setattr(rivals, "_table", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(rivals.table(spec, 3, store, SCORE), table)


def test_a_table_is_the_same_again_and_another_with_another_setting(tmp_path: Path) -> None:
    one, again = (rivals.table(base(), 0, Store(tmp_path / name), SCORE) for name in ("a", "b"))
    pd.testing.assert_frame_equal(one, again)
    other = rivals.table(base(), 0, Store(tmp_path / "a"), SCORE.but(view_seed=1))
    assert not other["m_random"].equals(one["m_random"]) and other["el2n"].equals(one["el2n"])


def test_the_random_reference_is_g_before_its_first_step(tmp_path: Path) -> None:
    store = Store(tmp_path)
    table = rivals.table(base(), 0, store, SCORE)
    f, g = pairs.pair_specs(base(), 0)
    given = training.inputs(g)
    torch.manual_seed(seed_of("init", g.seed))
    model = methods.build(g.method, encoders.build(g.encoder, given.images.shape))
    rows = given.split.rows(*SETS)
    mark, images = given.images.fingerprint, given.images
    start = scoring.align(model, images.images, images.ids, SCORE, view=g.view, fingerprint=mark, rows=rows)["align"]
    end = pairs.alignment(f, SCORE, store)["align"]
    assert table["m_random"].to_numpy() == pytest.approx(((start - end) / (start + end)).to_numpy(), abs=1e-12)


def test_the_gap_is_positive_where_f_was_trained(tmp_path: Path) -> None:
    pair = pairs.pair_specs(base(shared=50, candidate=50, external=50, batch=50, epochs=60), 0)
    training.train_all(pair, store := Store(tmp_path))
    given = training.inputs(pair[0])
    rows, names = given.split.rows(*SETS), given.split.names()
    loss = [rivals.losses(training.load(one, store), one, given.images, given.split, rows, 0) for one in pair]
    means = pd.Series(loss[1] - loss[0]).groupby([names[row] for row in rows.tolist()]).mean()
    means -= means["external"]
    assert means["candidate"] > 0.1 > abs(means["shared"]) and means["independent"] < -0.1
