"""Cells of Table 1 and agreement between methods: against numbers worked out by hand, in simulation, on tiny runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sslmem_utils import comparison, data, encoders, figures, pairs, recipes, stats, training
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.specs import EncoderSpec, TrainSpec
from sslmem_utils.store import Store

SMALL = EncoderSpec(name="mlp", options={"width": 16, "depth": 1})
VIT = EncoderSpec(name="vit", options={"patch": 2, "width": 8, "depth": 1, "heads": 2})
SIZES = {"candidate": 24, "shared": 8, "external": 100, "batch": 16, "epochs": 2}


def tiny(method: str = "simclr", encoder: EncoderSpec = SMALL) -> TrainSpec:
    return comparison.experiment("digits", method, encoder, **SIZES)


def score_table(**sets: list[float]) -> pd.DataFrame:
    parts = [pd.DataFrame({"set": name, "m_rel": values}) for name, values in sets.items()]
    table = pd.concat(parts, ignore_index=True)
    same = {"m_range": table["m_rel"] / 2, "half_0": table["m_rel"], "half_1": table["m_rel"] ** 3}
    return table.assign(row=np.arange(len(table)), align_f=1.0, align_g=1.0, **same)


# ---------------------------------------------------------------- levels
def test_levels_by_hand() -> None:
    external = np.arange(-49, 50) / 490  # its 95th and 99th percentile are the 95th and the 99th value
    found = comparison.levels(score_table(candidate=[0.0, 0.2, 0.3, 0.5], shared=[0.0, 0.9], external=list(external)))
    assert found["avg"] == found["avg_raw"] == pytest.approx(0.25) and found["avg_range"] == pytest.approx(0.125)
    assert found["frac95"] == found["frac99"] == 0.75 and found["frac95_shared"] == 0.5
    assert found["auc"] == pytest.approx((3 + 0.5) / 4) and found["rel_views"] == pytest.approx(1)
    moved = comparison.levels(score_table(candidate=[0.3, 0.5], shared=[], external=list(external + 0.3)))
    assert moved["avg"] == pytest.approx(0.1) and moved["avg_raw"] == pytest.approx(0.4)
    assert np.isnan(moved["frac95_shared"])
    with pytest.raises(DataError, match="raise `external`"):
        comparison.levels(score_table(candidate=[0.3, 0.5]))


@pytest.mark.parametrize(("percentile", "least"), [(0.95, 19), (0.99, 99)])
@pytest.mark.parametrize("extra", [0, 30])
def test_thresholds_keep_their_nominal_rate(percentile: float, least: int, extra: int) -> None:
    rng = np.random.default_rng(0)
    shares = [comparison.above(rng.random(40), rng.random(least + extra), percentile) for _ in range(2000)]
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - (1 - percentile)) < 4 * error
    assert np.isnan(comparison.above(rng.random(40), rng.random(least - 1), percentile))


def test_noise_is_that_of_encoders_trained_on_the_same_images() -> None:
    one = score_table(candidate=[0.1, 0.4, 0.2, 0.3], external=[0.0])
    twice = comparison.noise([one, one])
    assert twice["floor"] == 0 and twice["rel_seeds"] == pytest.approx(1)
    assert twice["spread"] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 10)
    f = np.array([1.0, 3.0, 1.0, 3.0, 1.0])  # m_rel between the two f's is 0 or .5 by turns, between the g's 0
    found = comparison.noise([one, one.assign(align_f=f)])
    assert found["floor"] == pytest.approx(np.sqrt(0.25**2 / 2))
    alone = comparison.noise([one])
    assert np.isnan(alone["rel_seeds"]) and np.isnan(alone["floor"])


def test_a_cell_is_the_mean_over_its_pairs(tmp_path: Path) -> None:
    store, base = Store(tmp_path), tiny()
    score = comparison.setting(base, 4)
    found = comparison.cell(base, [3, 5], replicas=2, score=score, labelled=60, store=store)
    table = pairs.scores(base, [3, 5], [score], replicas=2, store=store)
    each = [stats.summary(part.drop(columns="replica")) for _, part in table.groupby(["seed", "replica"])]
    by_hand = pd.concat(each).groupby("seed")[["candidate", "auc_external", "d_external"]].mean()
    assert found["seed"].tolist() == [3, 5]
    assert np.allclose(found[["avg", "auc", "d"]], by_hand)
    assert found["linear"].between(0, 1).all() and found["knn"].between(0, 1).all()
    assert (found["parameters"] == 64 * 16 + 2 * 16).all() and found["floor"].gt(0).all()
    plain = comparison.cell(base, [0], score=score, labelled=0, store=store)
    assert plain["linear"].isna().all() and plain["rel_seeds"].isna().all()


def test_ways_differ_in_one_thing_each() -> None:
    found = comparison.ways(tiny(), 6)
    ours = found.pop("as here").model_dump()
    changed = [{key for key, value in way.model_dump().items() if value != ours[key]} for way in found.values()]
    assert changed == [{"representation"}, {"normalize"}, {"comparison"}, {"view"}]
    assert found["strong views"].view.grayscale == 0  # digits are grey


# ---------------------------------------------------------------- what is refused, before anything is trained
def test_what_cannot_be_compared_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = tiny("mae", VIT).view
    with pytest.raises(
        SpecError, match=r"hides patches and mlp has none to hide; score a ViT with it, or set mask to 0\.$"
    ):
        comparison.setting(tiny(), view=mask)
    assert comparison.setting(tiny("mae", VIT)).representation == "mean_patch"
    assert (
        comparison.setting(tiny()).representation == comparison.setting(tiny("simclr", VIT)).representation == "pooled"
    )
    images = data.load(tiny().dataset)
    unlabelled = images.__class__(**{**vars(images), "labels": images.labels * 0 - 1})
    monkeypatch.setattr(data, "load", lambda _: unlabelled)
    with pytest.raises(DataError, match=r"take supervised out of the methods or label the images\.$"):
        tiny("supervised")


def test_supervised_training_gets_the_classes_of_its_data() -> None:
    assert tiny("supervised").method.options["classes"] == 10
    assert tiny("byol").method == recipes.recipe("digits", method="byol", **SIZES).method


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
@pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), 93_000), ((1, 8, 8), 13_000)])
def test_architectures_are_matched_in_size(name: str, shape: tuple[int, int, int], size: int) -> None:
    base = EncoderSpec(name=name, options={"patch": 2} if name == "vit" else {})
    found = comparison.matched(base, size, shape)
    assert abs(encoders.parameters(encoders.build(found, shape)) - size) < 0.1 * size
    assert found.options.items() >= base.options.items()


def test_sizes_that_cannot_be_matched_are_refused() -> None:
    fixed = EncoderSpec(name="resnet9")
    assert comparison.matched(fixed, 1_600_000, (3, 32, 32)) == fixed
    with pytest.raises(SpecError, match="found resnet9 with 16"):
        comparison.matched(fixed, 93_000, (3, 32, 32))
    with pytest.raises(SpecError, match="found mlp with .* nearest to 1000"):
        comparison.matched(EncoderSpec(name="mlp"), 1_000, (3, 32, 32))


def test_variants_are_simclr_and_differ_in_the_encoder_alone() -> None:
    found = comparison.variants("digits", ["mlp:8", "mlp:32"], [EncoderSpec(name="cnn")], 5_000, **SIZES)
    assert list(found) == [("sizes", "mlp, width 8"), ("sizes", "mlp, width 32"), ("architectures", "cnn, 5 k")]
    assert len({base.but(encoder=SMALL) for base in found.values()}) == 1
    small, large = (comparison.size_of(found["sizes", f"mlp, width {width}"]) for width in (8, 32))
    assert small < large
    with pytest.raises(SpecError, match="found 'mlp:wide'"):
        comparison.variants("digits", ["mlp:wide"], [], 5_000, **SIZES)


# ---------------------------------------------------------------- accuracy and memorization
def test_ranks_are_taken_within_datasets() -> None:
    """One dataset is better and memorizes less than the other, which must not count."""
    rows = []
    for dataset, accuracy, avg in (("a", 0.9, 0.1), ("b", 0.3, 0.5)):
        for step in range(4):
            row = {"dataset": dataset, "cell": str(step), "seed": 0, "linear": accuracy + step / 100}
            rows.append({**row, "knn": 0.5 - step / 100, "avg": avg + step / 100, "auc": 0.5 + (step % 2) / 10})
    found = comparison.rank_with_accuracy(pd.DataFrame(rows)).set_index(["accuracy", "value"])
    assert found.loc[("linear", "avg"), "rho"] == pytest.approx(1)
    assert found.loc[("knn", "avg"), "rho"] == pytest.approx(-1)
    assert (found["cells"] == 4).all()
    assert comparison.rank_with_accuracy(pd.DataFrame(rows[:2])).empty
    assert comparison.rank_with_accuracy(pd.DataFrame(rows).assign(avg=0.0))["value"].unique().tolist() == ["auc"]


# ---------------------------------------------------------------- agreement
def scores_of(values: dict[tuple[str, int], np.ndarray], where: str = "candidate", seed: int = 0) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"method": m, "replica": r, "set": where, "seed": seed, "row": np.arange(len(x)), "value": x})
        for (m, r), x in values.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_agreement_leaves_out_what_shares_a_training_seed() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 200))
    scores = scores_of({(m, r): noise[r] for m in "ab" for r in range(2)})  # methods differ in nothing but their names
    found = comparison.agree(scores).set_index(["a", "b", "statistic"])
    expected = stats.spearman(*noise)
    assert found.loc[("a", "b", "spearman"), "value"] == pytest.approx(expected)  # and not (1 + expected) / 2
    assert found.loc[("a", "a", "spearman"), "value"] == pytest.approx(expected)
    assert found.loc[("a", "b", "kendall"), "value"] == pytest.approx(stats.kendall(*noise))
    assert found.loc[("a", "b", "overlap"), "value"] == stats.top_overlap(*noise, 0.1).share
    assert found.loc[("a", "b", "overlap"), "chance"] == pytest.approx(0.1)


def test_independents_are_ranked_by_what_g_memorizes() -> None:
    first = np.arange(20.0)
    other = np.r_[5:20.0, 0:5.0]  # the lowest five are common as little as the highest
    values = {("a", 0): first, ("a", 1): first, ("b", 0): other, ("b", 1): other}
    one, both = scores_of(values), scores_of({key: -x for key, x in values.items()}, "independent")
    found = comparison.agree(pd.concat([one, both]), 0.25)
    alone = comparison.agree(one, 0.25)
    assert np.allclose(found["value"], alone["value"]) and set(found["images"]) == {"trained on"}
    assert len(found) == 9
    never = comparison.agree(scores_of(values, "external"), 0.25)
    assert set(never["images"]) == {"never seen"}


def test_agreement_needs_a_second_pair_and_all_images() -> None:
    values = {("a", 0): np.arange(5.0), ("b", 0): np.arange(5.0)}
    with pytest.raises(SpecError, match="set replicas to 2"):
        comparison.agree(scores_of(values))
    values |= {("a", 1): np.arange(5.0), ("b", 1): np.arange(4.0)}
    with pytest.raises(DataError, match="score the same images"):
        comparison.agree(scores_of(values))


def agreement_of(rho: np.ndarray, seed: int) -> list[dict]:
    """Rows of one split from the correlations among methods (m, m), ceilings on the diagonal."""
    names = ["x", "y", "supervised"]
    return [
        {"seed": seed, "a": names[i], "b": names[j], "statistic": "spearman", "value": rho[i, j], "chance": 0.0}
        for i in range(3)
        for j in range(i, 3)
    ]


def simulated(rng: np.random.Generator, splits: int, rel: float, true: np.ndarray, n: int = 200) -> pd.DataFrame:
    """Two noisy measurements of each method's true score a split, correlated as `agree` does."""
    rows = []
    for seed in range(splits):
        signal = np.linalg.cholesky(true) @ rng.normal(size=(3, n))
        a, b = (np.sqrt(rel) * signal + np.sqrt(1 - rel) * rng.normal(size=(3, n)) for _ in range(2))
        across = np.corrcoef(a, b)[:3, 3:]
        rows += agreement_of((across + across.T) / 2, seed)
    return pd.DataFrame(rows)


def test_over_the_ceiling_noise_is_taken_out_and_its_interval_covers() -> None:
    true = np.array([[1, 0.8, 0.4], [0.8, 1, 0.4], [0.4, 0.4, 1]])
    rng, inside, means = np.random.default_rng(1), 0, []
    for _ in range(100):
        table = comparison.over_ceiling(simulated(rng, 5, 0.4, true))
        found = stats.interval(comparison.contrast(table, "ratio"))
        inside += found.low <= 0.4 <= found.high
        means.append(found.mean)
    assert np.mean(means) == pytest.approx(0.4, abs=0.03)  # 0.16 without the correction
    assert 0.88 <= inside / 100 <= 0.99


def test_over_the_ceiling_by_hand_and_without_a_ceiling() -> None:
    rho = np.array([[0.5, 0.4, 0.1], [0.4, 0.5, 0.1], [0.1, 0.1, 0.2]])
    table = pd.DataFrame([row for seed in range(3) for row in agreement_of(rho, seed)])
    found = comparison.over_ceiling(table).groupby(["a", "b"])["ratio"].mean()
    assert found["x", "y"] == pytest.approx(0.8) and found["x", "supervised"] == pytest.approx(0.1 / np.sqrt(0.1))
    shifted = table.assign(value=table["value"] + 0.1, chance=0.1)
    assert np.allclose(comparison.over_ceiling(shifted)["ratio"], comparison.over_ceiling(table)["ratio"])
    rho[2, 2] = -0.1
    none = comparison.over_ceiling(pd.DataFrame([row for seed in range(3) for row in agreement_of(rho, seed)]))
    assert none.set_index(["a", "b"])["ratio"].isna().to_dict()["x", "supervised"]
    assert comparison.contrast(none, "ratio").empty
    one = comparison.over_ceiling(table[table["seed"] == 0])
    assert one["ratio"].notna().all() and len(one) == 3


def test_contrasts_set_methods_against_supervised_training() -> None:
    rho = np.array([[0.5, 0.4, 0.1], [0.4, 0.5, 0.2], [0.1, 0.2, 0.2]])
    table = pd.DataFrame([row for seed in range(2) for row in agreement_of(rho, seed)])
    assert comparison.contrast(table, "value").tolist() == pytest.approx([0.25, 0.25])
    full = table.assign(images="trained on", alike=True)
    found = comparison.contrasts(full).groupby(["methods", "form"])["value"].mean()
    assert found["all", "plain"] == found["same encoder and views", "plain"] == pytest.approx(0.25)
    with pytest.raises(SpecError, match="found x, y; add methods"):
        comparison.contrast(table[(table["a"] != "supervised") & (table["b"] != "supervised")], "value")


def test_agreement_of_trained_methods_knows_which_differ_in_the_method_alone(tmp_path: Path) -> None:
    bases = {name: tiny(name) for name in ("simclr", "byol", "supervised")} | {"mae": tiny("mae", VIT)}
    settings = {name: comparison.setting(base, 4) for name, base in bases.items()}
    found = comparison.agreement(bases, [0], settings=settings, values=("m_rel", "align_f"), store=Store(tmp_path))
    alike = found.groupby(["a", "b"])["alike"].first()
    assert alike["simclr", "byol"] and alike["byol", "supervised"] and not alike["simclr", "mae"]
    assert set(found["score"]) == {"m_rel", "align_f"} and found["value"].between(-1, 1).all()
    with pytest.raises(SpecError, match="give all the same"):
        other = bases["byol"].but(split=bases["byol"].split.but(shared=9))
        comparison.agreement({"simclr": bases["simclr"], "byol": other}, [0])


def test_strangers_that_resemble_one_side_are_scored_by_it() -> None:
    base = tiny()
    given = training.inputs(pairs.pair_specs(base, 0)[0])
    rows = given.split.external
    pixels = {
        of: given.images.rows(getattr(given.split, of)).flatten(1).numpy() / 255 for of in ("candidate", "independent")
    }
    here = given.images.rows(rows).flatten(1).numpy() / 255
    near = {of: np.linalg.norm(here[:, None] - there, axis=2).min(1) for of, there in pixels.items()}
    score = near["independent"] / near["candidate"]  # nearer to a candidate: higher
    scores = pd.DataFrame({"method": "simclr", "seed": 0, "replica": 0, "set": "external", "row": rows, "m_rel": score})
    found = comparison.resemblance({"simclr": base}, scores)
    assert found["rho"].tolist() == pytest.approx([1.0], abs=1e-3) and found["images"].tolist() == ["never seen"]
    seen = given.split.candidate
    own = pd.DataFrame(
        {"method": "simclr", "seed": 0, "replica": 0, "set": "candidate", "row": seen, "m_rel": 1.0 * seen}
    )
    assert abs(comparison.resemblance({"simclr": base}, own)["rho"].item()) < 1  # an image is not its own neighbour


# ---------------------------------------------------------------- figures
def test_a_heatmap_says_what_it_shows() -> None:
    table = pd.DataFrame({"a": ["x", "x", "y"], "b": ["x", "y", "y"], "mean": [0.9, -0.2, np.nan]})
    table["low"], table["high"] = table["mean"] - 0.1, table["mean"] + 0.1
    figure = figures.heatmap(table, "a", "b", "mean", "low", "high", what="tau")
    assert "x and x 0.90 [0.80, 1.00]" in figures.alt(figure) and "y and x -0.20" in figures.alt(figure)
    assert "y and y" not in figures.alt(figure)
    frames = [patch for patch in figure.axes[0].patches if patch.get_facecolor()[3] == 0]
    assert len(frames) == 2 and figures.to_svg(figure) == figures.to_svg(figure)
    plain = figures.heatmap(table, "a", "b", "mean")
    assert "[" not in figures.alt(plain)


def test_a_table_with_bars_starts_where_there_is_no_effect() -> None:
    table = pd.DataFrame(
        {"cell": ["simclr", "mae"], "column": "auc", "mean": [0.7, 0.4], "low": 0.3, "high": [0.8, np.nan]}
    )
    figure = figures.table_with_bars(table, "cell", {"auc": "AUC"}, group="cell", marks={"auc": 0.5})
    bars = figure.axes[0].patches
    assert [round(bar.get_width(), 6) for bar in bars] == [0.2, -0.1] and all(bar.get_x() == 0.5 for bar in bars)
    assert figures.alt(figure).count("AUC") == 2
