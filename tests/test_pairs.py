"""Experiments composed: several datasets, repeated measurements of an image, tables that can be published."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sslmem_utils import data, pairs
from sslmem_utils.recipes import recipe
from sslmem_utils.specs import DatasetSpec, ScoreSpec
from sslmem_utils.store import Store

QUICK = {"shared": 10, "candidate": 10, "external": 10, "epochs": 1, "batch": 10}


@pytest.fixture
def imported(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    for number in range(40):
        file = tmp_path / "mine" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    data.import_images("mine", tmp_path / "mine")
    return "mine"


def test_official_indices_and_paths_fit_in_one_table(
    tmp_path: Path, imported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")  # workers of an earlier test would look for data in its folder
    bases = {name: recipe(name, **QUICK, encoder="mlp") for name in ("digits", imported)}
    table = pairs.scores_of(bases, [0], [ScoreSpec(views=3)], Store(tmp_path / "store"))
    table.to_parquet(tmp_path / "scores.parquet")
    again = pd.read_parquet(tmp_path / "scores.parquet")
    paths = again.loc[again["dataset"] == imported, "index"]
    assert len(again) == 80 and paths.str.endswith(".png").all()
    assert again["m_rel"].dtype == np.float32


def test_alignments_are_kept_and_follow_their_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, base = Store(tmp_path), recipe("digits", **QUICK)
    first = pairs.scores(base, [0], [ScoreSpec(views=3)], store=store)
    other = pairs.scores(base, [0], [ScoreSpec(views=3, view_seed=1)], store=store)
    assert not first["align_f"].equals(other["align_f"])
    monkeypatch.setattr(pairs.scoring, "align", lambda *_, **__: pytest.fail("aligned again"))
    pd.testing.assert_frame_equal(pairs.scores(base, [0], [ScoreSpec(views=3)], store=store), first)


def test_pictures_and_class_names_are_those_of_the_rows() -> None:
    spec = DatasetSpec(name="digits", classes=("3", "6"))
    images = data.load(spec)
    rows = pd.DataFrame({"row": [5, 0], "label": images.labels[[5, 0]].numpy()})
    found = pairs.with_pictures(rows, spec)
    assert found["class"].tolist() == [images.classes[label] for label in rows["label"]]
    assert found[["c", "h", "w"]].to_numpy().tolist() == [[1, 8, 8]] * 2
    assert found["pixels"][0] == images.images[5].flatten().tolist()


def test_replicas_share_a_split_and_nothing_else(tmp_path: Path) -> None:
    store, base = Store(tmp_path), recipe("digits", **QUICK)
    table = pairs.scores(base, [3], [ScoreSpec(views=3)], replicas=2, store=store)
    one, two = (part.reset_index(drop=True) for _, part in table.groupby("replica"))
    assert one["set"].equals(two["set"]) and not np.isclose(one["align_f"], two["align_f"]).any()
    alone = pairs.scores(base, [3], [ScoreSpec(views=3)], store=store)
    assert "replica" not in alone and alone["set"].equals(one["set"])
    seeds = [spec.seed for replica in range(2) for spec in pairs.pair_specs(base, 3, replica=replica, replicas=2)]
    assert seeds == [12, 13, 14, 15]


def test_an_encoder_of_other_data_is_aligned_on_these(tmp_path: Path, imported: str) -> None:
    store, here = Store(tmp_path / "store"), recipe("digits", **QUICK, encoder="mlp")
    other = recipe(imported, **QUICK, encoder="mlp")
    for spec in (here, other):
        pairs.training.train(spec, store)
    own, table = (
        pairs.alignment(here, ScoreSpec(views=3), store),
        pairs.alignment(other, ScoreSpec(views=3), store, on=here),
    )
    assert table["row"].equals(own["row"]) and not np.isclose(table["align"], own["align"]).any()
    again = pairs.align_on(pairs.training.load(other, store), ScoreSpec(views=3), here)
    pd.testing.assert_frame_equal(again, table)
    fresh = pairs.align_on(pairs.untrained(here), ScoreSpec(views=3), here)
    assert not np.isclose(fresh["align"], own["align"]).all()
