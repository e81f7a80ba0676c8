"""The score as an instrument: small ensembles are compared with the truth, designs and references with each other."""

from pathlib import Path

import pandas as pd
import pytest

from sslmem_utils import pairs, recipes, stats, training, validation
from sslmem_utils.errors import SpecError
from sslmem_utils.specs import EncoderSpec, ScoreSpec, TrainSpec
from sslmem_utils.store import Store

SCORE = ScoreSpec(views=4)


def base() -> TrainSpec:
    """Four of seven images of the pool are trained on, as in the notebook; seconds for all of it."""
    small = EncoderSpec(name="mlp", options={"width": 16, "depth": 1})
    return recipes.recipe("digits", candidate=24, shared=8, external=30, batch=15, epochs=2, encoder=small)


def test_estimators_and_rivals_stand_beside_the_truth_and_share_no_draw_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    measure = validation.ensembles.measure

    def watched(specs, score, store):
        seen.extend((spec.seed, score[0].view_seed) for spec in specs)
        return measure(specs, score, store)

    monkeypatch.setattr(validation.ensembles, "measure", watched)
    table = validation.against_truth(base(), points=4, seeds=2, encoders=14, score=SCORE, store=Store(tmp_path))
    truth, others = seen[:8], seen[8:]
    assert {seed for seed, _ in truth} == {0, 1} and len(others) == 28
    assert not {seed for seed, _ in truth} & {seed for seed, _ in others}
    assert {views for _, views in truth} == {0} and {views for _, views in others} == {1}
    blocks = table.dropna(subset="encoders").groupby(["estimator", "encoders"]).size()
    assert blocks["subsampled", 7] == blocks["controlled", 7] == 2 and blocks["replicated", 2] == 7
    assert blocks["align_f", 1] == 7 and table["truth"].nunique() == 1
    assert {"knn_pixels", "el2n", "loss_gap"} <= set(table.loc[table["encoders"].isna(), "estimator"])
    assert validation.fraction(base()) == pytest.approx(4 / 7)


def test_references_are_compared_on_the_same_f(tmp_path: Path) -> None:
    store, wide = Store(tmp_path), EncoderSpec(name="mlp", options={"width": 32, "depth": 1})
    table = pairs.scores(base(), [0], [SCORE], replicas=2, store=store)
    wanted = table[table["replica"] == 1].set_index("row")["m_rel"]
    found = validation.references(base(), 0, 2, {"wider": {"encoder": wide}}, SCORE, wanted, store).set_index("g")
    assert found.index.tolist() == ["trained alike", "wider", "not trained", "none: align of f alone"]
    first = table[table["replica"] == 0].set_index("row")
    split = training.inputs(base()).split
    m = first["m_rel"]
    assert found.loc["trained alike", "auc"] == stats.auc(m.loc[split.candidate], m.loc[split.external])
    alone = stats.spearman(-first.loc[split.candidate, "align_f"], wanted.loc[split.candidate])
    assert found.loc["none: align of f alone", "agreement"] == pytest.approx(alone)
    with pytest.raises(SpecError, match="must name every candidate"):
        validation.references(base(), 0, 2, {}, SCORE, wanted.iloc[:5], store)


def test_reliability_of_fractions_is_that_of_disjoint_ensembles(tmp_path: Path) -> None:
    table = validation.fractions(base(), 14, [SCORE], (7, 14), [0, 3], Store(tmp_path))
    assert table["encoders"].tolist() == [7] * 4 and table["design"].tolist() == list(validation.DESIGNS) * 2
    assert table["pool"].tolist() == [0, 0, 3, 3]
    assert table["reliability"].between(-1, 1).all() and isinstance(table, pd.DataFrame)
    assert table["reliability"].nunique() == 4
