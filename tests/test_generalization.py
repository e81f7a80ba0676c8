"""Why it generalizes: the factors and their bound, the long tail, and one image of an outlier class."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sslmem_utils import data, generalization, probes, removal, training
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.generalization import bounds, tails
from sslmem_utils.specs import EncoderSpec, TrainSpec
from sslmem_utils.store import Store

SMALL = EncoderSpec(name="mlp", options={"width": 32, "depth": 2})
FEW = {"views": 4, "fit": 80, "test": 80}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")


def base(**changes: object) -> TrainSpec:
    return removal.base("digits", 40, 60, **{"encoder": SMALL, "epochs": 4, "batch": 20} | changes)


# ---------------------------------------------------------------- factors and their bound
def test_the_image_that_is_farthest_from_others_leaves_its_main_part_first() -> None:
    at = np.array([0.0, 1.0, 1.5, 2.0, 9.0])
    found = generalization.main_parts(abs(at[:, None] - at), (1.0, 0.8, 0.6))
    assert [kept.tolist() for kept in found.values()] == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 3]]
    rng = np.random.default_rng(0)
    distances = rng.uniform(1, 2, (20, 20))
    distances = np.maximum(distances, distances.T) * (1 - np.eye(20))
    parts = generalization.main_parts(distances)
    diameters = [distances[np.ix_(kept, kept)].max() for kept in parts.values()]
    assert [len(kept) for kept in parts.values()] == [20, 19, 18, 16, 14, 12, 10]
    assert diameters == sorted(diameters, reverse=True)


def test_rho_is_that_of_the_theorem() -> None:
    assert generalization.rho(0.9, 0.02, 0.1, 0.3, 0.05) == pytest.approx(2 * 0.1 + 0.02 / 0.1 + 0.9 * (0.3 + 0.1))


def test_classes_that_are_points_at_right_angles_have_a_bound_of_zero() -> None:
    labels = np.repeat([0, 1, 2], 4)
    clean = np.eye(3)[labels]
    nothing = np.zeros((12, 12))
    found = generalization.bound(np.repeat(clean[:, None], 2, axis=1), clean, labels, nothing, nothing)
    assert (found.alignment, found.divergence, found.error, found.bound) == (0, 0, 0, 0)
    assert found.slack == pytest.approx(1) and found.sigma == 1 and found.spread == pytest.approx(0)
    apart, other = np.linalg.norm(clean[:, None] - clean, axis=2), np.tile([0, 1, 2], 4)
    mixed = generalization.bound(np.repeat(clean[:, None], 2, axis=1), clean, other, apart, apart)
    assert mixed.bound == 1 and mixed.slack < 0 and mixed.error == 0.5, "classes that are spread over all points"
    with pytest.raises(DataError, match="needs images of 2 classes, found 1"):
        generalization.bound(clean[:, None], clean, labels * 0, nothing, nothing)


def test_the_bound_holds_where_it_says_something() -> None:
    found = generalization.clusters([0.01, 0.03, 0.05, 2.0, 4.0])
    assert (found["error"] <= found["bound"] + 1e-12).all()
    assert found["bound"].iloc[0] < 0.05 and found["bound"].iloc[-1] == 1
    assert found["slack"].is_monotonic_decreasing and found["error"].iloc[-1] > 0.2
    assert ((found["slack"] > 0) == (found["bound"] < 1)).all()


def test_a_share_of_misaligned_images_is_in_the_bound() -> None:
    """One image of 20 a class has views that are opposite: R = 0.05 at the best epsilon, sigma stays 1."""
    labels = np.repeat(np.arange(2), 40)
    clean = np.eye(2)[labels]
    views = np.repeat(clean[:, None], 2, axis=1)
    views[[0, 40], 1] *= -1
    nothing = np.zeros((80, 80))
    found = generalization.bound(views, clean, labels, nothing, nothing)
    assert found.unaligned == pytest.approx(2 / 80) and found.epsilon == 0
    rho = 2 / 80 / 0.5
    spread = 1 - np.linalg.norm(views[:40].mean((0, 1))) ** 2
    assert found.slack == pytest.approx(1 - rho - np.sqrt(2 * rho) - spread / 2)
    assert found.bound == pytest.approx(2 / 80) and found.error == 0


def test_augmented_distances_are_the_smallest_between_views() -> None:
    drawn, labels = torch.rand(7, 3, 10), np.array([0, 1, 0, 0, 1, 1, 0])
    distances, first, second = generalization.augmented_distances(drawn, labels)
    for i in range(7):
        for j in range(7):
            if labels[i] != labels[j]:
                assert np.isinf(distances[i, j])
            elif i != j:
                by_hand = torch.cdist(drawn[i], drawn[j])
                assert distances[i, j] == pytest.approx(float(by_hand.min()), abs=1e-5)
                assert float(by_hand[first[i, j], second[i, j]]) == pytest.approx(float(by_hand.min()), abs=1e-5)
    assert (np.diag(distances) == 0).all()


def test_factors_of_an_encoder_are_stored_and_belong_to_external_images(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), removal.retrained(base(), 0, ())
    found = generalization.factors(spec, store, views=4).iloc[0]
    assert 0 < found["alignment"] <= 2 and 0 <= found["error"] <= 1 and found["bound"] <= 1
    assert found["bound"] == 1 or found["error"] <= found["bound"]
    store.remove(training.KIND, training.key(spec, data.load(spec.dataset).fingerprint))
    assert generalization.factors(spec, store, views=4).iloc[0].equals(found), "nothing is trained again"


def test_concentration_is_that_of_the_images_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, spec = Store(tmp_path), removal.retrained(base(), 0, ())
    rows = training.rows_of(spec)
    whole = generalization.concentration(spec, store, views=3).set_index("sigma")
    less = generalization.concentration(removal.retrained(base(), 0, rows[:10]), store, views=3).set_index("sigma")
    assert whole["delta"].is_monotonic_decreasing and (whole["mean"] <= whole["delta"]).all()
    assert less.loc[1.0, "delta"] <= whole.loc[1.0, "delta"], "a part of a set is not wider than the set"
    monkeypatch.setattr(generalization.measuring, "LARGEST", 20)
    some = generalization.concentration(spec, store, views=3).set_index("sigma")
    assert some.loc[1.0, "mean"] < whole.loc[1.0, "mean"], "of large sets a part is drawn"


# ---------------------------------------------------------------- the long tail
def test_losses_follow_the_removed_images(tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = generalization.losses(base(), [0], fraction=0.5, store=store, **FEW)
    assert set(found["arm"]) == {"top", "random"} and found["loss"].between(-1, 1).all()
    specs = generalization.arms(base(), 0, 0.5, views=4, store=store)
    same = removal.measure(base(), [0], [0.5], ("top",), setting=removal.Setting(views=4, fit=80, test=80), store=store)
    assert specs["top"].images == int(same["left"].iloc[0]) == 20
    assert probes.of(specs["top"], store, fit=80, test=80)["knn"].iloc[0] == same["knn"].iloc[0], "page 10's encoder"
    gaps = found.pivot(index="image", columns="arm", values="gap")
    assert gaps.lt(0).any().all() and gaps.gt(0).any().all(), "half is gone, so the nearest image is gone for some"
    both = generalization.contrast(found)
    assert np.allclose(both["gap"], gaps["top"] - gaps["random"]) and set(both["arm"]) == {"top - random"}
    for fraction in (0.0, 1.0):
        with pytest.raises(SpecError, match="takes some images and leaves some"):
            generalization.losses(base(), [0], fraction=fraction, store=store, **FEW)
    with pytest.raises(SpecError, match="at least one seed"):
        generalization.losses(base(), [], store=store)


def test_votes_are_those_of_the_probe(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), removal.retrained(base(), 0, ())
    training.train(spec, store)
    asked = probes.sample(spec, 80, 80)
    votes = tails._votes(spec, asked, store)
    right = probes.of(spec, store, fit=80, test=80)["knn"].iloc[0]
    assert votes.shape == (80,) and (votes > 0.5).mean() <= right <= (votes > 0).mean()


def test_sums_by_gap() -> None:
    gap = np.linspace(-1, 1, 41)
    table = pd.DataFrame({"seed": 0, "arm": "top", "image": range(41), "gap": gap, "loss": 0.2 * gap + 0.1})
    curves, sums = generalization.by_gap(table, 4)
    assert curves["part"].tolist() == [12.5, 37.5, 62.5, 87.5] and curves["loss"].is_monotonic_increasing
    row = sums.iloc[0]
    assert row["rho"] == pytest.approx(1) and row["share"] == pytest.approx(20 / 41)
    assert row["near"] == pytest.approx(0.1 + 0.2 * 0.525) and row["far"] == pytest.approx(0.1 - 0.2 * 0.5)


# ---------------------------------------------------------------- one image of an outlier class
def test_f_and_g_differ_in_one_training_image() -> None:
    labels = data.load(base().dataset).labels.numpy()
    one = generalization.one_image(base(), 1, 3)
    f, g = (set(training.rows_of(spec).tolist()) for spec in (one.f, one.g))
    assert len(f) == len(g) == one.f.images and f - g == {one.x} and len(g - f) == 1
    assert labels[one.x] == 3 and (labels[sorted(g)] != 3).all() and (labels[sorted(f)] == 3).sum() == 1
    assert one.f.seed == one.g.seed
    apart = generalization.one_image(base(), 1, 3, coupled=False)
    assert apart.g.seed != apart.f.seed and (apart.f, apart.x) == (one.f, one.x)
    others = [generalization.one_image(base(), seed, label) for seed, label in ((0, 3), (1, 4))]
    assert len({one.f.seed, *(other.f.seed for other in others)}) == 3
    assert len({one.f.split.seed, *(other.f.split.seed for other in others)}) == 3
    with pytest.raises(SpecError, match="found 0 of class 11"):
        generalization.one_image(base(), 0, 11)


def test_an_outlier_class_is_measured_once_and_leaves_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    found = generalization.outliers(base(), [0], [3], store=store, **FEW)
    row, one = found.iloc[0], generalization.one_image(base(), 0, 3)
    assert row["class"] == "3" and row["x"] == one.x and len(found) == 1
    for side in "fg":
        assert all(0 <= row[f"{name}_{side}"] <= 1 for name in ("knn", "precision", "all", "near"))
    assert row["m_rel"] == pytest.approx((row["align_g"] - row["align_f"]) / (row["align_g"] + row["align_f"]))
    asked = probes.sample(one.f, 80, 80)
    assert row["all_f"] == probes.of(one.f, store, fit=80, test=80)["knn"].iloc[0]
    assert round(row["knn_f"] * (asked.labels[asked.test] == 3).sum(), 6) % 1 == 0
    monkeypatch.setattr(training.several, "train", lambda *_: pytest.fail("trained again"))
    again = generalization.outliers(base(), [0], [3], store=store, **FEW)
    pd.testing.assert_frame_equal(found, again)
    assert store.get(training.KIND, training.key(one.g, data.load(one.g.dataset).fingerprint)) is None
    with pytest.raises(SpecError, match="at least one seed"):
        generalization.outliers(base(), [], [3], store=store)
    assert bounds.SHARES[0] == 1
