"""Typicality: measures with known answers, neutral encoders, correlations, galleries, odd folders of images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sslmem_utils import data, pairs, rivals, stats, training, typicality
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import SETS, DatasetSpec, EncoderSpec, PlantSpec, TrainSpec

TINY_VIT = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 1})


def base(**changes: object) -> TrainSpec:
    return recipe("digits", **{"shared": 60, "candidate": 40, "external": 60, "epochs": 2, "batch": 50} | changes)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "DRAWS", 2)
    monkeypatch.setattr(rivals, "RUNS", 1)
    monkeypatch.setenv("SSLMEM_JOBS", "1")


# ---------------------------------------------------------------- the neutral encoders
@pytest.mark.parametrize("method", ["simclr", "mae"])
def test_neutral_encoders_saw_none_of_the_four_sets(method: str) -> None:
    spec = base(**({"method": "mae", "encoder": TINY_VIT} if method == "mae" else {}))
    f, g = pairs.pair_specs(spec, 3)
    found = typicality.neutral(spec, 3)
    assert len(found) == typicality.ENCODERS and len({one.key() for one in found}) == len(found)
    own = set(training.split_of(f).rows(*SETS).tolist())
    for one in found:
        rows = training.rows_of(one).tolist()
        assert not own & set(rows)
        assert len(rows) == f.images  # as many as f has
        assert one.seed not in (f.seed, g.seed)
        assert (one.encoder, one.method, one.view, one.epochs) == (f.encoder, f.method, f.view, f.epochs)


def test_neutral_encoders_take_what_is_left_and_need_some() -> None:
    tight = base(external=1797 - 140 - 60)
    assert len(training.rows_of(typicality.neutral(tight, 0)[0])) == 60 and typicality.neutral(tight, 0)[0].batch == 50
    with pytest.raises(DataError, match=r"need 50 images .* found 49 left .*; lower external\.$"):
        typicality.neutral(base(external=1797 - 140 - 49), 0)


# ---------------------------------------------------------------- the measures
def test_measures_find_what_does_not_belong_and_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = base(plants=(PlantSpec(kind="noise", count=8),), epochs=10)
    found = typicality.measures(spec, 0)
    assert list(found.columns) == ["row", "set", *typicality.NAMES]
    split = training.split_of(pairs.pair_specs(spec, 0)[0])
    assert found["row"].tolist() == split.rows(*SETS).tolist()
    assert found.set_index("row")["set"].to_dict() == split.names()
    given = training.inputs(pairs.pair_specs(spec, 0)[0]).images
    rows = found["row"].to_numpy()
    changed = (given.rows(rows) != data.load(spec.dataset).rows(rows)).flatten(1).any(1).numpy()
    assert changed.sum() == 8
    for name in ("knn_pixels", "centroid_pixels", "knn_neutral"):
        assert stats.auc(found.loc[changed, name], found.loc[~changed, name]) > 0.9, name
    seen = found["set"].isin(["shared", "candidate"])
    assert found["el2n"].notna().tolist() == seen.tolist()
    assert found.drop(columns="el2n").notna().all(axis=None)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("computed twice")

    monkeypatch.setattr(training, "train_all", never)
    pd.testing.assert_frame_equal(typicality.measures(spec, 0), found)


def test_measures_do_not_depend_on_the_labels_but_where_they_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = typicality.measures(base(), 0, el2n=False)
    assert found["el2n"].isna().all()
    monkeypatch.setattr(typicality, "_classes", lambda labels: np.zeros(len(labels), bool))  # as if no class had two
    without = typicality.measures(base(), 0)
    assert without[list(typicality.LABELLED)].isna().all(axis=None)
    same = ["row", "knn_pixels", "knn_neutral"]
    pd.testing.assert_frame_equal(without[same], found[same])


def test_distance_to_the_other_images_of_the_class_by_hand() -> None:
    vectors = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [9.0, 9.0], [1.0, 1.0]])
    found = typicality._from_others(vectors, np.array([0, 0, 0, 1, -1]))
    assert found == pytest.approx([3.0, 0.0, 3.0, np.nan, np.nan], nan_ok=True)


def test_distance_to_prototypes_by_hand() -> None:
    centres = np.repeat(np.array([[0.0, 0.0], [10.0, 0.0]]), 15, axis=0)
    shifts = np.tile(np.array([[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]), (10, 1))
    found = typicality.prototype_distance((centres + shifts).astype(np.float32), 2)
    assert found == pytest.approx(np.abs(shifts[:, 1]), abs=1e-5)


# ---------------------------------------------------------------- against the score
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    rows = np.arange(8)
    sets = ["candidate"] * 4 + ["external"] * 4
    score = pd.DataFrame({"seed": 1, "row": rows, "set": sets, "m_rel": [1, 2, 3, 4, 4, 3, 2, 1]})
    score = score.assign(align_f=-score["m_rel"], align_g=0.5 * score["m_rel"], knn_pixels=0.0)
    odd = pd.DataFrame({"seed": 1, "row": rows[::-1], "knn_pixels": np.arange(8, 0, -1)})
    return score, odd.assign(el2n=np.where(odd["row"] < 4, odd["row"] ** 2, np.nan))


def test_correlations_by_hand() -> None:
    found = typicality.correlations(*tables()).set_index(["set", "measure", "of"])["rho"]
    assert found["candidate", "knn_pixels", "m_rel"] == pytest.approx(1)
    assert found["external", "knn_pixels", "m_rel"] == pytest.approx(-1)
    assert found["candidate", "knn_pixels", "align_f"] == pytest.approx(-1)
    assert found["candidate", "el2n", "align_g"] == pytest.approx(1)
    assert ("external", "el2n", "m_rel") not in found.index


def test_correlations_join_by_seed_and_dataset() -> None:
    score, odd = tables()
    both = pd.concat([score.assign(dataset="a"), score.assign(dataset="b", m_rel=-score["m_rel"])])
    known = pd.concat([odd.assign(dataset="a"), odd.assign(dataset="b")])
    found = typicality.correlations(both, known, of=["m_rel"])
    found = found[(found["measure"] == "knn_pixels") & (found["set"] == "candidate")].set_index("dataset")["rho"]
    assert found["a"] == pytest.approx(1) and found["b"] == pytest.approx(-1) and len(found) == 2
    with pytest.raises(SpecError, match="share no image; measure the splits"):
        typicality.correlations(score, odd.assign(seed=2))


# ---------------------------------------------------------------- galleries
def replicas() -> pd.DataFrame:
    """Twenty candidates of two classes in two replicas: row 19 is at the top of both, row 18 of one."""
    one = pd.DataFrame({"row": np.arange(20), "label": np.arange(20) % 2, "set": "candidate", "m_rel": np.arange(20.0)})
    other = one.assign(m_rel=np.where(one["row"] == 18, -1.0, one["m_rel"]))
    outside = pd.DataFrame({"row": [20], "label": [2], "set": ["external"], "m_rel": [99.0]})
    return pd.concat([one.assign(replica=0), other.assign(replica=1), outside.assign(replica=0)], ignore_index=True)


def test_ranked_and_extremes_by_hand() -> None:
    found = typicality.ranked(replicas())
    assert found["row"].tolist()[:2] == [19, 17] and len(found) == 20 and (found["n"] == 2).all()
    assert found.set_index("row")["p_top"].loc[[19, 18, 17, 0]].tolist() == [1.0, 0.5, 0.5, 0.0]
    assert typicality.extremes(found, 2)["row"].tolist() == [19, 17, 1, 0]
    by_class = typicality.extremes(found, 1, [1, 0], ["even", "odd"])
    assert by_class["label"].tolist() == [1, 1, 0, 0] and by_class["row"].tolist()[:2] == [19, 1]
    assert len(typicality.extremes(found, 99)) == 20  # no image on both sides


@pytest.mark.parametrize(("one", "name"), [(2, "third"), (7, "7")])
def test_a_class_without_candidates_is_one_sentence(one: int, name: str) -> None:
    with pytest.raises(
        DataError, match=f"class {name} needs two candidates .* found 0 .* of mine; raise candidate"
    ) as e:
        typicality.extremes(typicality.ranked(replicas()), 3, [0, one], ["even", "odd", "third"], "mine")
    assert str(e.value).count(". ") == 0


def test_repeatability_by_hand() -> None:
    found = typicality.repeatability(replicas())
    assert found["overlap"] == 0.5 and found["chance"] == 0.1 and 0 < found["one pair"] < found["their mean"] < 1
    turned = replicas().assign(m_rel=lambda table: table["m_rel"] * (1 - 2 * table["replica"]))
    assert np.isnan(typicality.repeatability(turned)["their mean"])  # noise has no mean to rely on
    with pytest.raises(SpecError, match="raise replicas"):
        typicality.repeatability(replicas().query("replica == 0"))


# ---------------------------------------------------------------- folders in the style of ImageNet
def folder(place: Path, classes: int, each: int, grey: int = 0) -> Path:
    rng = np.random.default_rng(0)
    for number in range(classes):
        (place / "train" / f"n{number:08d}").mkdir(parents=True)
        for image in range(each):
            shape = (12, 12) if number * each + image < grey else (12, 12, 3)
            picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            picture.save(place / "train" / f"n{number:08d}" / f"{image}.png")
    return place


def test_one_image_a_class_leaves_out_what_needs_classes(tmp_path: Path) -> None:
    data.import_images("mine", folder(tmp_path / "net", 220, 1, grey=5), size=8, channels="rgb")
    sizes = {"shared": 30, "candidate": 30, "external": 60, "epochs": 2, "batch": 30}
    spec = recipe(DatasetSpec(name="mine", size=8), **sizes, encoder="mlp")
    assert not training.split_of(spec).stratified
    found = typicality.measures(spec, 0)
    assert found[list(typicality.LABELLED)].isna().all(axis=None)
    assert found[["knn_pixels", "knn_neutral", "prototype_neutral"]].notna().all(axis=None)


def test_wrong_folders_are_one_sentence(tmp_path: Path) -> None:
    mixed = folder(tmp_path / "mixed", 2, 3, grey=2)
    (tmp_path / "empty").mkdir()
    wrong = {
        mixed: r"is grey and .* is colour; import with channels grey or rgb \(--channels\) to make them alike\.$",
        tmp_path / "nowhere": r"There is no folder or zip .*; check the path\.$",
        tmp_path / "empty": r"There are no images in .*; expected files such as CLASS/name\.png or \.jpg\.$",
    }
    for place, words in wrong.items():
        with pytest.raises(DataError, match=words):
            data.import_images("mine", place)
    with pytest.raises(SpecError, match=r"no dataset 'mine' \(`sslmem data import mine PATH` adds one\)"):
        data.load(DatasetSpec(name="mine"))
