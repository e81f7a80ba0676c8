"""Label memorization by hand, beside SSLMem of the same networks, and the joint table of all measures."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sslmem_utils import comparison, data, ensembles, figures, joint, labels, pairs, scoring, training
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.specs import DatasetSpec, EncoderSpec, ScoreSpec, TrainSpec
from sslmem_utils.store import Store

SCORE = ScoreSpec(views=4)
DIGITS = DatasetSpec(name="digits")


def base(method: str = "supervised", **changes: object) -> TrainSpec:
    small = EncoderSpec(name="mlp", options={"width": 16, "depth": 1})
    sizes = {"candidate": 20, "shared": 20, "external": 30}
    return comparison.experiment("digits", method, small, **sizes, batch=20, epochs=2).but(**changes)


# ---------------------------------------------------------------- the estimator
MEMBER = np.array([[1, 1, 0, 1, 0], [1, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 0]], bool)
RIGHT = np.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 1, 1], [1, 0, 1, 0, 1]], bool)


def test_label_memorization_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    """Columns: with 1, 1 and without 0, 1; with 1, 0 and without 0, 0; with 1, 0 and without 0, 1; always in; never."""
    found = labels.memorization(RIGHT, MEMBER)
    assert found.score[:3].tolist() == [0.5, 0.5, 0.0]
    assert np.isnan(found.score[3:]).all() and np.isnan(found.se[3:]).all()
    assert found.n_in.tolist() == [2, 2, 2, 4, 0] and found.n_out.tolist() == [2, 2, 2, 0, 4]
    assert found.se[:3] == pytest.approx([0.5, 0.5, math.sqrt(0.5)])  # variances 0 or 1/2, over two networks each
    assert "2 of 5 images are in all or in none of the 4 training sets" in caplog.text
    caplog.clear()
    labels.memorization(RIGHT[:, :3], MEMBER[:, :3])
    assert not caplog.text
    with pytest.raises(SpecError, match="inclusion mask"):
        labels.memorization(RIGHT, MEMBER[:, :3])


def test_extremes_of_label_memorization() -> None:
    member = np.tile([[True], [False]], (5, 3))
    right = np.stack([member[:, 0], ~member[:, 1], np.ones(10, bool)], axis=1)
    assert labels.memorization(right, member).score.tolist() == [1.0, -1.0, 0.0]


def test_the_bound_is_that_of_the_lemma() -> None:
    assert labels.error_bound(40) == pytest.approx(math.exp(-0.75) / 2 + 1 / 12 + 1 / 28)
    assert labels.error_bound(4000) == pytest.approx(1 / 1200 + 1 / 2800)
    assert labels.error_bound(100, 0.3) == pytest.approx(labels.error_bound(100, 0.7))
    assert labels.error_bound(100, 0.5) < labels.error_bound(100, 0.7) < labels.error_bound(50, 0.7)
    for wrong in ((0, 0.7), (10, 1.0)):
        with pytest.raises(SpecError, match="between 0 and 1"):
            labels.error_bound(*wrong)


def test_the_bound_holds_in_simulation() -> None:
    """Networks that are right with known probabilities: the estimate's squared error stays below the bound."""
    rng, members = np.random.default_rng(0), 40
    p_in, p_out = rng.uniform(0.5, 1, 400), rng.uniform(0, 1, 400)
    member = np.argsort(rng.random((members, 400)), axis=0) < 28
    right = rng.random((members, 400)) < np.where(member, p_in, p_out)
    found = labels.memorization(right, member)
    squares = np.square(found.score - (p_in - p_out))
    assert squares.mean() < labels.error_bound(members)
    assert squares.mean() == pytest.approx(np.square(found.se).mean(), rel=0.25)


# ---------------------------------------------------------------- the same networks, the same points
def test_networks_of_two_methods_see_the_same_images(tmp_path: Path) -> None:
    ours, theirs = (labels.networks(base(name), 3, 10) for name in ("supervised", "simclr"))
    assert len(ours) == 10 and {spec.split.seed for spec in ours} == {3}
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(training.rows_of(a), training.rows_of(b)) and len(training.rows_of(a)) == 42
    with pytest.raises(SpecError, match="balanced in ensembles of 10"):
        labels.networks(base(), 0, 12)


def test_both_kinds_of_memorization_come_of_the_same_networks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seen, specs = labels.watch(base(), 0, 10, SCORE, store=store), labels.networks(base(), 0, 10)
    assert not list(tmp_path.glob("encoders/*")), "weights are not kept"
    table = labels.table(seen, 0)
    split = training.split_of(specs[0])
    assert table["row"].tolist() == split.rows(*labels.POOL).tolist()
    assert table["set"].value_counts().to_dict() == {"shared": 20, "candidate": 20, "independent": 20}
    assert table["label"].tolist() == data.load(DIGITS).labels.numpy()[table["row"]].tolist()
    assert set(table["n_in"]) == {7} and set(table["n_out"]) == {3}
    assert (table["accuracy_in"] - table["accuracy_out"]).to_numpy() == pytest.approx(table["label_memorization"])
    plain = ensembles.measure(specs, [SCORE], store)[0]
    assert np.array_equal(plain.member, seen.ensemble.member)
    score = scoring.subsampled(plain.a, plain.member, relative=True).score
    assert table["sslmem"].to_numpy() == pytest.approx(score[seen.pool]) and np.isnan(score[~seen.pool]).all()
    training.train(specs[0], store)
    model, images = training.load(specs[0], store), data.load(DIGITS)
    x = images.rows(seen.ensemble.rows).float() / 255
    right = (model.classifier(model.encoder(x)).argmax(1) == images.labels[seen.ensemble.rows]).numpy()
    assert np.array_equal(right, seen.right[0])
    found = labels.summary(seen, 0)
    assert found["accuracy_external"] == pytest.approx(seen.right[:, seen.sets == "external"].mean())
    assert found["bound"] == pytest.approx(math.sqrt(labels.error_bound(10)))


def test_what_is_stored_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    first = labels.table(labels.watch(base(), 0, 10, SCORE, store=store), 0)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr("sslmem_utils.training.several.train", lambda *_: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(labels.table(labels.watch(base(), 0, 10, SCORE, store=store), 0), first)


def test_encoders_without_a_classifier_have_sslmem_alone(tmp_path: Path) -> None:
    seen = labels.watch(base("simclr"), 0, 10, SCORE, store=Store(tmp_path))
    assert seen.right is None and labels.estimates(seen).columns.tolist() == [
        "row", "label", "set", "sslmem", "align_out",
    ]  # fmt: skip
    with pytest.raises(SpecError, match="classifier"):
        labels.summary(seen, 0)


# ---------------------------------------------------------------- agreement
def simulated(signal: float, members: int = 20, n: int = 200, seed: int = 0) -> labels.Seen:
    """An ensemble in which images are memorized to different extents, which `signal` scales, with noise."""
    rng, extra = np.random.default_rng(seed), 20
    order = np.argsort(rng.random((members // 10, n)), axis=1) % 10
    member = np.concatenate([(order[[r]] - np.arange(10)[:, None]) % 10 < 7 for r in range(members // 10)])
    member = np.concatenate([member, np.zeros((members, extra), bool)], axis=1)
    effect = np.random.default_rng(99).gamma(1, 1, n + extra)
    a = 10 - signal * effect * member + 0.5 * rng.standard_normal((members, n + extra))
    right = member | (rng.random(member.shape) > effect / (1 + effect))
    sets = np.array(["candidate"] * n + ["external"] * extra)
    rows, zeros = np.arange(n + extra), np.zeros(n + extra, int)
    return labels.Seen(ensembles.Ensemble(a, member, rows, np.arange(members)), right, zeros, sets, 10)


def test_measures_agree_over_their_ceilings_where_they_are_of_one_thing() -> None:
    seen = {"supervised": simulated(1), "simclr": replace(simulated(1, seed=1), right=None)}
    found = pd.concat([labels.agreement(seen, 0), labels.agreement(seen, 1)])
    assert set(found["statistic"]) == {"spearman", "kendall", "overlap"} and set(found["n"]) == {200}
    ratio = comparison.over_ceiling(found).set_index(["statistic", "a", "b"])["ratio"].groupby(level=[0, 1, 2]).mean()
    assert ratio["spearman", "SSLMem, supervised", "SSLMem, simclr"] == pytest.approx(1, abs=0.1)
    assert ratio["spearman", "label memorization", "SSLMem, simclr"] == pytest.approx(1, abs=0.2)
    assert ratio["spearman", "label memorization", "label difficulty"] == pytest.approx(1)
    assert abs(ratio["spearman", "alignment, supervised", "SSLMem, simclr"]) < 0.5 or math.isnan(
        ratio["spearman", "alignment, supervised", "SSLMem, simclr"]
    )


def test_common_networks_and_common_noise_count_for_nothing() -> None:
    """The very same numbers under two names agree as much as one agrees with itself, and noise agrees with nothing."""
    seen = {"supervised": replace(simulated(0), right=None)}
    found = labels.agreement(seen | {"again": seen["supervised"]}, 0).set_index(["statistic", "a", "b"])["value"]
    names = [f"SSLMem, {name}" for name in ("supervised", "again")]
    assert found["spearman", names[0], names[1]] == pytest.approx(found["spearman", names[0], names[0]])
    assert abs(found["spearman", names[0], names[1]]) < 0.2


def test_images_of_equal_value_overlap_by_chance_alone() -> None:
    seen = simulated(1, members=40)
    constant = replace(seen, right=np.ones_like(seen.right))
    values = labels.agreement({"supervised": constant}, 0).set_index(["statistic", "a", "b"])["value"]
    assert values["overlap", "label memorization", "label memorization"] == pytest.approx(0.1, abs=0.12)


def test_ensembles_that_cannot_be_halved() -> None:
    with pytest.raises(SpecError, match="even number of rounds of 10 encoders, found 30 encoders; set members to 40"):
        labels.agreement({"supervised": simulated(1, members=30)}, 0)
    with pytest.raises(SpecError, match="equally many encoders"):
        labels.agreement({"supervised": simulated(1), "simclr": simulated(1, members=40)}, 0)


# ---------------------------------------------------------------- published scores
def test_published_scores_are_joined_by_official_index(tmp_path: Path) -> None:
    images = data.load(DIGITS)
    order = np.random.default_rng(0).permutation(len(images))[:100]
    frame = pd.DataFrame({"index": images.index[order], "label": images.labels.numpy()[order], "mem": order / 2000})
    frame.to_csv(tmp_path / "some.csv", index=False)
    found = labels.published(tmp_path / "some.csv", DIGITS)
    assert len(found) == 100 and (found["label_memorization"] == found["row"] / 2000).all()
    count = 50  # the first images, as the training part of a dataset is
    arrays = {"tr_labels": images.labels.numpy()[:count], "tr_mem": np.arange(count) / count, "infl": np.zeros(3)}
    np.savez(tmp_path / "theirs.npz", **arrays)
    assert labels.published(tmp_path / "theirs.npz", DIGITS)["row"].tolist() == list(range(count))
    np.savez(tmp_path / "shuffled.npz", **arrays | {"tr_labels": arrays["tr_labels"][::-1]})
    with pytest.raises(DataError, match="with another label; give the file of this dataset"):
        labels.published(tmp_path / "shuffled.npz", DIGITS)


def test_files_that_are_no_published_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "other.npz", memorization=np.zeros(3))
    with pytest.raises(DataError, match=r"must hold tr_labels, tr_mem, found memorization; give Feldman[^.]*\.$"):
        labels.published(tmp_path / "other.npz", DIGITS)
    pd.DataFrame({"index": [1], "mem": [0.5]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="must hold index, label, mem, found index, mem"):
        labels.published(tmp_path / "other.parquet", DIGITS)
    with pytest.raises(DataError, match="cannot be read"):
        labels.published(tmp_path / "missing.npz", DIGITS)
    images = data.load(DIGITS)
    named = replace(images, index=np.array([f"{row}.png" for row in range(len(images))]))
    monkeypatch.setattr(data, "load", lambda _: named)
    with pytest.raises(DataError, match="joined by official index, found paths"):
        labels.published(tmp_path / "other.parquet", DIGITS)


# ---------------------------------------------------------------- the joint table
def measure(values: dict[str, list], rows: range = range(5), **facts: object) -> pd.DataFrame:
    return pd.DataFrame({"dataset": "digits", "seed": 0, "row": list(rows), "set": "candidate", **facts, **values})


def test_measures_are_joined_image_by_image() -> None:
    first = measure({"m_rel": [1.0, 2, 3, 4, 5]}, label=[0, 1, 2, 3, 4])
    second = measure({"quadrant": list("abcd"), "sure": [True, False, True, True]}, range(1, 5))
    table = joint.joint({"sslmem": first.rename(columns={"m_rel": "sslmem"}), "dejavu": second})
    assert table.columns.tolist() == [*joint.KEYS, "label", "set", "sslmem", "dejavu_quadrant", "dejavu_sure"]
    assert (
        len(table) == 5 and pd.isna(table["dejavu_quadrant"][0]) and table["dejavu_sure"].tolist()[1:] == [1, 0, 1, 1]
    )
    assert joint.measures(table) == ["sslmem", "dejavu_sure"]
    longer = joint.joint({"sslmem": first, "more": measure({"x": [1.0]}, range(9, 10), label=[7])})
    assert longer["row"].tolist() == [0, 1, 2, 3, 4, 9] and longer["label"].tolist() == [0, 1, 2, 3, 4, 7]
    several = joint.joint({"sslmem": pd.concat([first, first.assign(seed=1)]), "dejavu": second})
    assert len(several) == 10 and several["dejavu_sure"].notna().sum() == 4


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "needs a measure"),
        ({"a": measure({"m": [1] * 5}).drop(columns="seed")}, "needs the columns seed, found dataset"),
        ({"a": measure({})}, "needs a column of its own"),
        ({"a": measure({"m": [1] * 5}, [0, 0, 1, 2, 3])}, "once, found 1 again"),
        ({"a": measure({"m": [1] * 5}), "b": measure({"m": [1] * 5}, set="shared")}, "another set for 5 images"),
        ({"a_m": measure({"a_m": [1] * 5}), "a": measure({"m": [1] * 5})}, "a second column 'a_m'"),
    ],
)
def test_tables_that_cannot_be_joined(tables: dict[str, pd.DataFrame], message: str) -> None:
    with pytest.raises(DataError, match=message):
        joint.joint(tables)


def test_rank_correlations_over_seeds_by_hand() -> None:
    parts = []
    for seed, second in enumerate(([1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 4, 3])):
        parts.append(measure({"a": [10.0, 20, 30, 40], "b": second, "c": [np.nan, np.nan, 1, 2]}, range(4), seed=seed))
    parts.append(measure({"a": [0.0], "b": [99]}, range(9, 10), set="shared"))
    each = joint.each_seed(pd.concat(parts))
    assert each["rho"].tolist() == [1.0, -1.0, pytest.approx(0.8)] and set(each["n"]) == {4}
    table = pd.concat(parts)
    (found,) = joint.correlations(table).to_dict("records")
    assert (found["a"], found["b"], found["n"]) == ("a", "b", 3) and found["mean"] == pytest.approx(0.8 / 3)
    half = 4.302653 * np.std([1, -1, 0.8], ddof=1) / math.sqrt(3)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-5)
    with pytest.raises(SpecError, match="no measure 'd'; it has a, b, c"):
        joint.correlations(table, ["a", "d"])
    with pytest.raises(DataError, match="known of the same images"):
        joint.correlations(table, ["a", "c"])


def test_images_of_largest_disagreement_by_hand() -> None:
    a, b = [0.0, 1, 2, 3, 4], [4.0, 1, 2, 3, 0]
    table = measure({"a": a, "b": b}, label=[5, 6, 7, 8, 9])
    found = joint.disagreements(table, "a", "b", 2)
    assert found["row"].tolist() == [4, 0] and found["more"].tolist() == ["a", "b"]
    assert found[["rank_a", "rank_b"]].to_numpy().tolist() == [[1, 0], [0, 1]]
    again = pd.concat([table, table.assign(seed=1, b=a)])
    assert joint.disagreements(again, "a", "b", 9)["seed"].tolist() == [0, 0]
    with pytest.raises(DataError, match="of no common image"):
        joint.disagreements(table.assign(b=np.nan), "a", "b", 2)


def test_sslmem_and_membership_of_pairs_take_the_encoder_that_saw_the_image(tmp_path: Path) -> None:
    scores = pairs.scores(base("simclr"), [0], [SCORE], replicas=2, store=Store(tmp_path))
    scores = scores.assign(dataset="digits", method="simclr")
    found = joint.sslmem(scores).set_index("row")
    assert set(found["set"]) == {"candidate", "independent"} and len(found) == 40
    for name, sign in joint.SIGN.items():
        part = scores[scores["set"] == name].groupby("row")["m_rel"].mean()
        assert found.loc[part.index, "simclr"].to_numpy() == pytest.approx(sign * part.to_numpy())
    members = joint.membership(scores).set_index("row")
    for name, loss in {"candidate": "align_f", "independent": "align_g"}.items():  # of the encoder trained on it
        part = scores[scores["set"] == name].groupby("row")[loss].mean()
        assert members.loc[part.index, "simclr"].to_numpy() == pytest.approx(-part.to_numpy())


def test_the_figure_of_disagreements_says_both_ranks() -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 1, 8, 8), dtype=np.uint8)
    figure = figures.disagreements(images, [[0.9, 0.1], [0.1, 0.9], [0.8, 0.75]], ("labels", "SSLMem, pairs"))
    assert "2 ranked higher by labels than by SSLMem, pairs, up to 0.80" in figures.alt(figure)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert "0.90\n0.10" in said and "higher by\nSSLMem,\npairs" in said
    with pytest.raises(DataError, match="two names"):
        figures.disagreements(images, np.zeros((2, 2)), ("a", "b"))
