"""Removal: which images an arm takes, how encoders are paired, what the controls change, and what can be found."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sslmem_utils import data, pairs, probes, removal, stats, training
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.removal import retraining, scored
from sslmem_utils.specs import PlantSpec, ScoreSpec, TrainSpec
from sslmem_utils.store import Store

SETTING = removal.Setting(views=4, fit=80, test=80)


def base(n: int = 40, **changes: object) -> TrainSpec:
    return removal.base("digits", n, 40, **{"epochs": 4, "batch": 20} | changes)


def scored_table(n: int = 60) -> pd.DataFrame:
    """Rows out of order, three classes of unequal size, the score growing with the row."""
    rows = np.random.default_rng(0).permutation(n)
    return pd.DataFrame({"row": rows, "label": np.where(rows < 6, 0, np.where(rows < 24, 1, 2)), "m_rel": rows / n})


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")


def test_the_room_loads_no_torch_until_it_trains() -> None:
    code = "import sys; from sslmem_utils import removal; removal.effects; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute"):
        removal.nothing  # noqa: B018
    assert all(getattr(removal, name) is not None for name in removal.__all__)


# ---------------------------------------------------------------- which images
def test_arms_take_the_extremes_of_their_measure() -> None:
    table = scored_table().assign(el2n=lambda found: -found["row"], prototype=lambda found: (found["row"] - 30).abs())
    assert removal.chosen("top", table, 5, 0).tolist() == [55, 56, 57, 58, 59]
    assert removal.chosen("bottom", table, 5, 0).tolist() == [0, 1, 2, 3, 4]
    assert removal.chosen("el2n", table, 3, 0).tolist() == [0, 1, 2]
    assert removal.chosen("prototypes", table, 3, 0).tolist() == [29, 30, 31]
    assert removal.chosen("atypical", table, 1, 0).tolist() == [0]
    assert removal.chosen("top", table, 0, 0).size == 0


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("how", ["top", "bottom", "random"])
def test_smaller_removals_are_part_of_larger_ones(how: str, balanced: bool) -> None:
    table = scored_table()
    found = [set(removal.chosen(how, table, count, 3, balanced=balanced)) for count in (5, 20, 60)]
    assert found[0] < found[1] < found[2] == set(range(60))


def test_random_images_depend_on_the_seed_alone() -> None:
    table = scored_table()
    again = table.sort_values("row", ignore_index=True).assign(m_rel=0.0)
    first = removal.chosen("random", table, 20, 1)
    assert first.tolist() == removal.chosen("random", again, 20, 1).tolist()
    assert first.tolist() != removal.chosen("random", table, 20, 2).tolist()
    ties = removal.chosen("top", table.assign(m_rel=1.0), 20, 1)
    assert ties.tolist() == first.tolist(), "images that cannot be told apart are drawn"


def test_balanced_takes_the_same_share_of_every_class() -> None:
    """6, 18 and 36 images: a third of them are 2, 6 and 12, the highest of each class."""
    table = scored_table()
    found = removal.chosen("top", table, 20, 0, balanced=True)
    assert found.tolist() == [4, 5, *range(18, 24), *range(48, 60)]
    for count in range(61):
        labels = table.set_index("row")["label"].loc[removal.chosen("random", table, count, 0, balanced=True)]
        shares = [((labels == one).sum(), count * size / 60) for one, size in enumerate((6, 18, 36))]
        assert all(abs(got - wanted) <= 1 for got, wanted in shares)
    both = [
        removal.chosen(*how, table, 20, 0, balanced=one) for how, one in ((["classwise"], False), (["random"], True))
    ]
    assert both[0].tolist() == both[1].tolist()


def test_what_cannot_be_taken_is_said_in_one_sentence() -> None:
    table = scored_table()
    with pytest.raises(SpecError, match=r"61 images cannot be taken from 60; take 60 or fewer\.$"):
        removal.chosen("top", table, 61, 0)
    with pytest.raises(SpecError, match="arm must be one of top, bottom, random"):
        removal.chosen("best", table, 1, 0)
    sets = np.where(table["row"] < 5, "shared", "candidate")
    with pytest.raises(SpecError, match="only candidates have scores .* found images of the shared set"):
        removal.chosen("top", table.assign(set=sets), 1, 0)
    with pytest.raises(DataError, match="needs a label for every image"):
        removal.chosen("top", table.assign(label=-1), 1, 0, balanced=True)
    with pytest.raises(DataError, match="el2n"):
        removal.chosen("el2n", table, 1, 0)
    with pytest.raises(DataError, match="must be finite"):
        removal.chosen("top", table.assign(m_rel=np.nan), 1, 0)


# ---------------------------------------------------------------- pairing
def accuracies() -> pd.DataFrame:
    """Two seeds with two retrainings each: top is 1 and 3, then 2 and 2 points below random."""
    rows = []
    for seed, losses in enumerate(((1, 3), (2, 2))):
        for number, loss in enumerate(losses):
            names = {"seed": seed, "retraining": number, "fraction": 0.4}
            random = 0.8 + 0.05 * seed + 0.01 * number
            rows += [{**names, "arm": "none", "fraction": 0.0, "linear": random + 0.04, "knn": 0.5}]
            rows += [{**names, "arm": "random", "linear": random, "knn": 0.5}]
            rows += [{**names, "arm": "top", "linear": random - loss / 100, "knn": 0.5}]
    return pd.DataFrame(rows)


def test_effects_are_paired_and_averaged_over_retrainings() -> None:
    found = removal.effects(accuracies().sample(frac=1, random_state=1)).sort_values("seed")
    assert found["arm"].tolist() == ["top", "top"]
    assert found["effect"].tolist() == pytest.approx([-2, -2]), "the levels of seeds and retrainings are gone"
    assert removal.effects(accuracies(), "knn")["effect"].tolist() == [0, 0]
    whole = removal.effects(accuracies(), against="none").pivot(index="seed", columns="arm", values="effect")
    assert whole["random"].tolist() == pytest.approx([-4, -4]) and whole["top"].tolist() == pytest.approx([-6, -6])


def test_arms_without_a_partner_are_refused() -> None:
    table = accuracies()
    lost = table[~((table["arm"] == "random") & (table["seed"] == 1))]
    with pytest.raises(
        DataError, match=r"the arm 'top' of fraction 0.4, seed 1, .* has no partner in the arm 'random'"
    ):
        removal.effects(lost)
    with pytest.raises(DataError, match="share fraction, seed, retraining; name what tells them apart"):
        removal.effects(pd.concat([table, table]))
    with pytest.raises(DataError, match="found none, random, top; measure it as well"):
        removal.effects(table, against="bottom")


# ---------------------------------------------------------------- what can be found
def test_the_seeds_that_a_difference_takes() -> None:
    values = np.random.default_rng(0).normal(-0.5, 0.8, 12)
    found = pd.DataFrame({"dataset": "a", "seed": range(12), "effect": values})
    row = removal.needed(found, 0.25, ["dataset"]).iloc[0]
    sd = values.std(ddof=1)
    assert row["n"] == 12 and row["mean"] == pytest.approx(values.mean()) and row["sd"] == pytest.approx(sd)
    assert stats.power(row["detectable"], sd, 12) == pytest.approx(0.8, abs=1e-6)
    assert row["seeds"] == stats.seeds_needed(0.25, sd) > row["seeds_for_mean"]
    assert row["power"] == pytest.approx(stats.power(0.25, sd, 12)) and row["power"] < 0.8
    text = removal.in_words(pd.DataFrame([row]), 0.25)
    assert text.startswith("a: 12 seeds find") and "cannot be relied on for one of 0.25" in text
    assert f"takes {row['seeds']:.0f} seeds" in text


def test_what_few_seeds_leave_open_is_left_open() -> None:
    one = pd.DataFrame({"dataset": ["a"], "seed": [0], "effect": [1.5]})
    row = removal.needed(one, 0.25, ["dataset"]).iloc[0]
    assert math.isnan(row["detectable"]) and row["mean"] == 1.5
    assert "too few" in removal.in_words(pd.DataFrame([row]), 0.25)
    same = pd.DataFrame({"dataset": "a", "seed": range(4), "effect": 1.0})
    assert math.isnan(removal.needed(same, 0.25, ["dataset"]).iloc[0]["seeds"])
    wild = pd.DataFrame({"dataset": "a", "seed": range(4), "effect": [-900.0, 900, -800, 800.001]})
    found = removal.needed(wild, 0.25, ["dataset"])
    assert math.isnan(found.iloc[0]["seeds"]) and "more than 10,000 seeds" in removal.in_words(found, 0.25)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 10, 20])
def test_power_is_a_number_everywhere(seeds: int) -> None:
    """scipy's noncentral t has none for some large shifts; between its neighbours power rises with the difference."""
    found = [stats.power(difference, 1, seeds) for difference in np.geomspace(0.1, 60, 40)]
    assert np.isfinite(found).all() and (np.diff(found) >= -1e-6).all() and found[-1] > 0.99
    assert stats.power(stats.detectable(0.7, seeds), 0.7, seeds) == pytest.approx(0.8, abs=1e-6)


def test_power_where_scipy_has_none() -> None:
    """2 replications and a difference of 8 sd, by simulation; 4 and 2 sd, where scipy has one."""
    rng = np.random.default_rng(0)
    for seeds, shift in ((2, 8.0), (4, 2.0)):
        drawn = rng.normal(shift, 1, (40_000, seeds))
        t = drawn.mean(1) / drawn.std(1, ddof=1) * math.sqrt(seeds)
        share = (np.abs(t) > {2: 12.7062, 4: 3.18245}[seeds]).mean()
        assert stats.power(shift, 1, seeds) == pytest.approx(share, abs=0.01)


def test_controls_by_name() -> None:
    assert removal.design("plain") == removal.Design()
    both = removal.design("balanced + equal steps")
    assert both.balanced and both.equal_steps and not both.weight_decay and not both.same_seed
    with pytest.raises(SpecError, match="found 'balance'; choose one of them"):
        removal.design("balance")


# ---------------------------------------------------------------- retraining
def test_arms_share_their_seed_which_is_no_pairs() -> None:
    found = base()
    split = training.split_of(found)
    one, two = (removal.retrained(found, 0, rows) for rows in (split.candidate[:8], split.candidate[8:16]))
    assert one.seed == two.seed and one.batch == two.batch and one.epochs == two.epochs
    assert training.rows_of(one).tolist() == split.candidate[8:].tolist()
    others = {removal.retrained(found, seed, [], again).seed for seed in range(20) for again in range(3)}
    pair_seeds = {spec.seed for seed in range(20) for spec in pairs.pair_specs(found, seed)}
    assert len(others) == 60 and not others & pair_seeds
    f = pairs.pair_specs(found, 3)[0]
    assert removal.retrained(found, 3, [], same_seed=True) == f, "nothing removed, the same seed: f itself"


def test_batches_fit_and_steps_can_be_kept() -> None:
    """40 images in 2 batches of 20; 28 left: 2 of 14, no image waits; 12 left: 1 of 12, so twice the epochs."""
    found = base()
    rows = training.split_of(found).candidate
    assert removal.retrained(found, 0, rows[:12]).batch == 14
    few = removal.retrained(found, 0, rows[:28], equal_steps=True)
    assert (few.batch, few.epochs, few.images) == (12, 8, 12)
    assert removal.retrained(found, 0, rows[:28]).epochs == 4
    assert removal.retrained(found, 0, []).batch == 20


def test_rows_that_cannot_be_removed() -> None:
    found = base()
    split = training.split_of(found)
    with pytest.raises(SpecError, match=f"found row {split.external[0]} of the external set, whose score"):
        removal.retrained(found, 0, split.external[:1])
    with pytest.raises(SpecError, match=r"removing 39 of 40 images leaves 1 to train on; remove fewer\."):
        removal.retrained(found, 0, split.candidate[:39])
    shared = found.but(split=found.split.but(shared=20))
    with pytest.raises(SpecError, match="of the shared set, whose score says nothing about f alone"):
        removal.retrained(shared, 0, training.split_of(shared).shared[:3])
    with pytest.raises(SpecError, match="found 1000; lower it"):
        removal.retrained(found, 0, [], retraining.AGAIN)


def test_scores_are_those_of_the_pair() -> None:
    store = Store()
    found = removal.scores(base(), 1, store, views=4)
    other = pairs.scores(base(), [1], [ScoreSpec(views=4)], store=store)
    other = other[other["set"] == "candidate"].set_index("row").loc[found["row"]]
    assert np.array_equal(found["m_rel"], other["m_rel"]) and np.array_equal(found["label"], other["label"])
    several = removal.scores(base(), 1, store, views=4, replicas=2)
    table = pairs.scores(base(), [1], [ScoreSpec(views=4)], replicas=2, store=store)
    means = table[table["set"] == "candidate"].groupby("row")["align_g"].mean().loc[several["row"]]
    assert np.allclose(several["align_g"], means)


def test_near_duplicates_are_found_and_leave_halves_of_equal_size() -> None:
    found = base(plants=(PlantSpec(kind="near", count=4),))
    planted = removal.planted_rows(found, 0)
    gone = removal.near_duplicates(found, 0, 0.1)
    assert len(planted) == len(gone) == 4 and len(set(gone)) == 4
    images = training.inputs(found).images
    rows = training.split_of(found).candidate
    flat = images.rows(rows).flatten(1).double().numpy()
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2) + np.eye(len(rows)) * 1e9
    nearest = np.sort(distance.min(1))
    kept = distance[np.ix_(~np.isin(rows, gone), ~np.isin(rows, gone))]
    assert kept.min() > nearest[0], "one of the nearest pair is gone"
    assert kept.shape[0] == 36 and kept.min() >= nearest[2]
    f, g = scored.scored_pairs(base(), 0, duplicates=0.1)[0]
    assert f.images == g.images == 36
    with pytest.raises(SpecError, match="at most a quarter of a half, found a share of 0.5"):
        removal.near_duplicates(base(), 0, 0.5)


# ---------------------------------------------------------------- the whole experiment
@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Store]:
    store = Store(tmp_path_factory.mktemp("removal"))
    arms = ["random", "top", "bottom", "atypical"]
    return removal.measure(base(), range(2), [0.0, 0.5], arms, setting=SETTING, store=store), store


def test_every_arm_is_retrained_and_probed(measured: tuple[pd.DataFrame, Store]) -> None:
    table, store = measured
    assert table.groupby("seed")["arm"].apply(list).iloc[0] == ["none", "random", "top", "bottom", "atypical"]
    assert table["removed"].tolist() == [0, 20, 20, 20, 20] * 2 and set(table["left"]) == {40, 20}
    assert set(table["steps"]) == {8, 4} and (table["epochs"] == 4).all()
    taken = table.pivot(index="seed", columns="arm", values="taken")
    assert (taken["top"] > taken["random"]).all() and (taken["random"] > taken["bottom"]).all()
    assert np.allclose(taken["top"], -taken["bottom"]), "half and half of what has the mean 0"
    plan = removal.planned(base(), range(2), [0.0, 0.5], ["random", "top"], setting=SETTING, store=store)
    (names, spec), counts = plan[2], {"fit": SETTING.fit, "test": SETTING.test}
    row = table[(table["arm"] == "top") & (table["seed"] == 0)].iloc[0]
    assert names["arm"] == "top" and row["linear"] == probes.of(spec, store, **counts)["linear"].item()
    assert len(removal.effects(table)) == 6


def test_nothing_is_trained_twice(measured: tuple[pd.DataFrame, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    table, store = measured
    monkeypatch.setattr(training, "train_all", lambda *_, **__: pytest.fail("trained again"))
    again = removal.measure(base(), range(2), [0.5], ["random", "top"], setting=SETTING, store=store)
    merged = again.merge(table, on=["seed", "arm", "fraction"], suffixes=("", "_first"))
    assert len(merged) == 4 and (merged["linear"] == merged["linear_first"]).all()


def test_controls_change_what_they_say(measured: tuple[pd.DataFrame, Store]) -> None:
    store, found = measured[1], {}
    for control in ("plain", *removal.CONTROLS):
        plan = removal.planned(base(), [0], [0.4], control=control, setting=SETTING, store=store)
        found[control] = {names["arm"]: spec for names, spec in plan}
    plain, labels = found["plain"]["top"], data.load(base().dataset).labels.numpy()
    assert found["weight decay"]["top"].weight_decay > 0 == plain.weight_decay
    assert found["same seed"]["top"].seed == pairs.pair_specs(base(), 0)[0].seed != plain.seed
    assert found["same seed"]["top"].but(seed=plain.seed) == plain
    steps = [spec.epochs * (spec.images // spec.batch) for spec in (found["equal steps"]["top"], base())]
    assert steps[0] == steps[1]
    assert found["duplicates first"]["top"].images == 38 - 15
    left = np.bincount(labels[training.rows_of(found["balanced"]["top"])], minlength=10)
    whole = np.bincount(labels[training.split_of(base()).candidate], minlength=10)
    assert (np.abs(left - 0.6 * whole) <= 1).all()
    for design in found.values():
        assert design["random"].but(subset=None) == design["top"].but(subset=None), "arms differ in images alone"
        assert design["random"].images == design["top"].images


def test_keeping_is_removing_the_rest(measured: tuple[pd.DataFrame, Store]) -> None:
    store = measured[1]
    how = {"setting": SETTING, "store": store}
    plan = removal.planned(base(), [0], [0.0, 0.25], ["top"], keep=True, epochs=[2, 4], **how)
    assert [(names["arm"], names["epochs"], names["left"]) for names, _ in plan] == [
        *(("none", 2, 40), ("none", 4, 40), ("top", 2, 10), ("top", 4, 10))
    ]
    scores = removal.scores(base(), 0, store, views=4)
    assert training.rows_of(plan[2][1]).tolist() == removal.chosen("top", scores, 10, 0).tolist()
    assert plan[2][1].seed == plan[3][1].seed


def test_planted_images_can_be_removed_and_are_counted(measured: tuple[pd.DataFrame, Store]) -> None:
    found = base(plants=(PlantSpec(kind="corrupted", count=4),))
    arms, how = ["random", "planted"], {"setting": SETTING, "store": measured[1]}
    plan = removal.planned(found, [0], [0.0, 0.1, 0.5], arms, **how)
    caught = {(names["arm"], names["fraction"]): names["caught"] for names, _ in plan}
    assert caught["planted", 0.1] == caught["planted", 0.5] == 1 and caught["none", 0.0] == 0
    rows = {names["fraction"]: training.rows_of(spec) for names, spec in plan if names["arm"] == "planted"}
    assert not set(removal.planted_rows(found, 0)) & set(rows[0.1])
    assert np.isnan(measured[0]["caught"]).all()


def test_removed_images_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Store(tmp_path_factory.mktemp("forgotten"))
    found = removal.forgotten(base(n=50, epochs=50, batch=50), [0], 0.4, ["top"], setting=SETTING, store=store)
    m = found.groupby(["images", "encoder"])["m_rel"].mean()
    assert m["removed", "before"] > 3 * abs(m["removed", "after"])
    assert m["kept", "after"] > 3 * abs(m["removed", "after"])
    auc = found.groupby(["images", "encoder"])["auc"].mean()
    assert auc["removed", "before"] > 0.7 and 0.35 < auc["removed", "after"] < 0.65
    with pytest.raises(SpecError, match="must lie between 0 and 1, found 0"):
        removal.forgotten(base(), [0], 0.0, store=store)


def test_experiments_that_make_no_sense() -> None:
    with pytest.raises(SpecError, match="at least one seed"):
        removal.measure(base(), [])
    with pytest.raises(SpecError, match=r"must lie in \[0, 1\), found 1;"):
        removal.measure(base(), [0], [0.4, 1.0])
