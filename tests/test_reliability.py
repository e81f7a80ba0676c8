"""Variance components, planning, effect sizes over seeds, agreement beside chance and ceiling: truth is simulated."""

import math
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import jaccard_score

from sslmem_utils import cli, stats
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.store import write_json

effects = import_module("sslmem_utils.stats.hierarchical")  # the package has a function of that name
NAN = math.nan
PARTS = {"image": 1.0, "split": 0.5, "seed": 0.8, "views": 0.3, "rest": 0.4}


def crossed(n: int, splits: int, seeds: int, views: int, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Measurements (split x seed x views, images) with the variances PARTS and an offset each; and their levels."""
    shapes = {"image": (1, 1, 1), "split": (splits, 1, 1), "seed": (splits, seeds, 1), "views": (1, 1, views)}
    shapes["rest"] = (splits, seeds, views)
    values = sum(np.sqrt(PARTS[name]) * rng.normal(size=(*shape, n)) for name, shape in shapes.items())
    values = values + rng.normal(size=(splits, seeds, views, 1))
    split, seed, view = (one.ravel() for one in np.indices((splits, seeds, views)))
    return values.reshape(-1, n), {"split": split, "seed": seed, "views": view}


def pilot(seeds: int, n: int, rng: np.random.Generator, noise: float = 1.0, views: int = 20) -> pd.DataFrame:
    """Score tables of pairs with splits of their own; noise of the pairs and of the views that all pairs see."""
    half = views // 2
    truth, common = rng.normal(size=n), rng.normal(size=(2, n)) / math.sqrt(half)
    tables = []
    for seed in range(seeds):
        names = rng.permutation(np.resize(["candidate", "independent", "external"], n))
        sign = pd.Series(names).map({"candidate": 1, "independent": -1, "external": 0}).to_numpy()
        own = noise * rng.normal(size=n)
        halves = truth + common + own + 2 * rng.normal(size=(2, n)) / math.sqrt(half)
        columns = {"half_0": halves[0], "half_1": halves[1], "m_rel": halves.mean(0)}
        table = pd.DataFrame({name: sign * values + rng.normal() for name, values in columns.items()})
        tables.append(
            table.assign(seed=seed, row=range(n), index=range(n), label=0, set=names, representation="pooled")
        )
    return pd.concat(tables, ignore_index=True)


def repeated(pairs: int, views: int, rng: np.random.Generator, n: int = 40_000) -> float:
    """Spearman between two repetitions of the whole experiment of `pilot`."""
    truth, ends = rng.normal(size=n), []
    times = [rng.binomial(pairs, 2 / 3, n) if pairs > 1 else np.ones(n) for _ in range(2)]  # as `pilot` measures
    measured = np.minimum(*times) > 0
    for count in times:
        noise = 1 / views + (1 + 4 / views) / np.maximum(count, 1)
        ends.append(truth + np.sqrt(noise) * rng.normal(size=n))
    return stats.spearman(*(one[measured] for one in ends))


# ---------------------------------------------------------------- components
@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_variance_components_are_recovered_with_and_without_gaps(gaps: float) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(8):
        values, levels = crossed(800, 5, 3, 2, rng)
        values[np.repeat(rng.random((15, 800)) < gaps, 2, axis=0)] = np.nan  # both view sets of an encoder
        found.append(stats.variance_components(values, **levels))
    for name, truth in PARTS.items():
        each = [getattr(one, name) for one in found]
        assert np.mean(each) == pytest.approx(truth, abs=0.03), name
        assert sum(found[0].shares().values()) == pytest.approx(1)


def test_without_gaps_components_are_those_of_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(4, 50)) + rng.normal(size=50)
    residual = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    within = (residual**2).sum() / (3 * 49)
    between = 4 * y.mean(0).var(ddof=1)
    found = stats.variance_components(y, seed=np.arange(4))
    assert found.rest == pytest.approx(within)
    assert found.image == pytest.approx((between - within) / 4)
    assert all(math.isnan(value) for value in (found.split, found.seed, found.views))
    assert found.reliability(seeds=4) == pytest.approx(1 - within / between)  # Cronbach's alpha


def test_reliability_of_means_by_hand_and_what_was_not_measured() -> None:
    found = stats.Components(1.0, 0.5, 0.8, 0.3, 0.4)
    assert found.reliability() == pytest.approx(1 / 3)
    assert found.reliability(2, 4, 3) == pytest.approx(1 / (1 + 0.25 + 0.1 + 0.1 + 0.4 / 24))
    assert found.shares()["seed"] == pytest.approx(0.8 / 3)
    negative = stats.Components(1.0, math.nan, math.nan, math.nan, -0.1)
    assert negative.reliability(5) == 1 and math.isnan(negative.shares()["views"])
    with pytest.raises(SpecError, match="measured no other views"):
        negative.reliability(views=2)
    with pytest.raises(SpecError, match="counts must be positive, found 0"):
        found.reliability(0)


def test_designs_without_repetition_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 measurements"):
        stats.variance_components(np.ones((1, 5)), seed=[0])
    apart = np.array([[1.0, 2, 3, NAN, NAN, NAN], [NAN, NAN, NAN, 1.0, 2, 3]])
    with pytest.raises(DataError, match="share no image"):
        stats.variance_components(apart, split=[0, 1])
    with pytest.raises(DataError, match="must name all 2 rows"):
        stats.variance_components(apart, split=[0, 1, 2])


def test_reliability_over_views_is_the_correlation_of_the_halves_stepped_up() -> None:
    table = pilot(2, 300, np.random.default_rng(2))
    found = stats.view_reliability(table).set_index("seed")
    part = table[(table["seed"] == 1) & (table["set"] == "candidate")]
    rho = scipy.stats.spearmanr(part["half_0"], part["half_1"]).statistic
    assert found.loc[1, "half"] == pytest.approx(rho) and found.loc[1, "all"] == pytest.approx(2 * rho / (1 + rho))
    assert found.loc[1, "images"] == 100
    with pytest.raises(DataError, match="images of the set shared, found none"):
        stats.view_reliability(table, "shared")


# ---------------------------------------------------------------- planning
def test_the_plan_predicts_the_reliability_of_fresh_experiments() -> None:
    rng = np.random.default_rng(3)
    found = stats.planner(pilot(6, 3000, rng), resamples=60)
    for pairs, views in ((1, 20), (6, 20), (12, 80), (20, 10)):
        predicted = found.reliability(pairs, views)
        assert predicted.mean == pytest.approx(repeated(pairs, views, rng), abs=0.02)
        assert predicted.low < predicted.mean < predicted.high
    needed = found.pairs_for(0.9)
    assert found.reliability(needed.mean).mean >= 0.9 > found.reliability(needed.mean - 1).mean
    assert needed.low <= needed.mean <= needed.high
    shares = found.shares()
    assert shares["images"] == pytest.approx(1 / 2.25, abs=0.04) and shares["views"] == pytest.approx(
        0.05 / 2.25, abs=0.02
    )


def test_views_limit_what_seeds_can_reach() -> None:
    table = pilot(4, 1500, np.random.default_rng(4), views=4)  # one view in 4 is shared noise: at best 1 / 1.25
    found = stats.planner(table, views=4, resamples=20)
    assert math.isinf(found.pairs_for(0.9).mean) and math.isfinite(found.pairs_for(0.9, 40).mean)
    rows = found.table(0.9)
    assert rows["views"].tolist() == [2, 4, 8, 16] and rows["one_pair"].is_monotonic_increasing
    assert (rows["encoders"] == 2 * rows["pairs"]).all()


def test_a_pilot_without_halves_plans_seeds_alone_and_two_seeds_give_no_interval() -> None:
    table = pilot(2, 600, np.random.default_rng(5)).drop(columns=["half_0", "half_1"])
    found = stats.planner(table)
    assert found.table(0.9)["views"].tolist() == [20] and found.draws == ()
    assert math.isnan(found.reliability().low) and 0.2 < found.reliability().mean < 0.7
    with pytest.raises(SpecError, match="measured no other views"):
        found.reliability(2, 40)


def test_pilots_that_cannot_tell_noise_from_signal_are_refused() -> None:
    table = pilot(3, 90, np.random.default_rng(6))
    with pytest.raises(DataError, match="at least 2 seeds, found 1; train the pilot again with --seeds 3"):
        stats.planner(table[table["seed"] == 0])
    with pytest.raises(DataError, match="measure the same image 0 times.*--shared 0"):
        stats.planner(table.assign(index=table["index"] + 1000 * table["seed"]))
    with pytest.raises(DataError, match="one representation, found pooled, projector"):
        stats.planner(pd.concat([table, table.assign(representation="projector")]))
    with pytest.raises(DataError, match="found 3 of 270 that are not finite"):
        stats.planner(table.assign(m_rel=table["m_rel"].where(table.index > 2)))
    with pytest.raises(DataError, match="a seed whose scores are all equal"):
        stats.planner(table.assign(m_rel=table["m_rel"].where(table["seed"] > 0, 0.5)))
    with pytest.raises(SpecError, match="between 0 and 1, found 1.5"):
        stats.planner(table, resamples=2).pairs_for(1.5)


def test_the_command_prints_a_table_a_sentence_and_one_sentence_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = pilot(4, 600, np.random.default_rng(7))
    table.to_parquet(tmp_path / "scores.parquet")
    file = str(tmp_path / "scores.parquet")
    assert (
        cli.main(["plan", "--scores", file, "--reliability", "0.8", "--seconds-per-encoder", "90", "--jobs", "2"]) == 0
    )
    text = capsys.readouterr().out
    needed = int(stats.planner(table).pairs_for(0.8).mean)
    more = 2 * (needed - 4)
    assert f"A reliability of 0.8 needs {needed} seeds with 20 views: {2 * needed} encoders, {more} more" in text
    assert text.splitlines()[3].split()[:2] == ["views", "one"] and "time" in text.splitlines()[3]
    assert len(text.splitlines()) == 10
    assert cli.main(["plan", "--scores", file, "--representation", "projector"]) == 2
    assert "holds no scores of 'projector', but of pooled" in capsys.readouterr().err
    table.head(600).to_csv(tmp_path / "one.csv", index=False)
    assert cli.main(["plan", "--scores", str(tmp_path / "one.csv")]) == 1
    assert "at least 2 seeds, found 1" in capsys.readouterr().err
    (tmp_path / "broken.parquet").write_text("no table")
    assert cli.main(["plan", "--scores", str(tmp_path / "broken.parquet")]) == 1
    assert "cannot be read (" in capsys.readouterr().err
    sidecar = {"settings": {"seconds_per_encoder": 90, "score": {"views": 12}}}
    write_json(tmp_path / "scores.json", sidecar)
    assert cli.main(["plan", "--scores", file, "--reliability", "0.8", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert ", 12 views" in said and "which takes" in said


# ---------------------------------------------------------------- effects over seeds
def effects_table(seeds: int, n: int, spread: float, rng: np.random.Generator, shift: float = 0.8) -> pd.DataFrame:
    """Normal scores; candidates are higher by `shift`, give or take `spread` between seeds."""
    values = rng.normal(size=(seeds, 2, n))
    values[:, 0] += shift + spread * rng.normal(size=(seeds, 1))
    values += 5 * rng.normal(size=(seeds, 1, 1))
    seed, which, _ = (one.ravel() for one in np.indices(values.shape))
    return pd.DataFrame({"seed": seed, "set": np.array(["candidate", "external"])[which], "m_rel": values.ravel()})


@pytest.mark.parametrize("effect", ["cohens_d", "cliffs_delta"])
def test_hierarchical_intervals_cover_the_effect(effect: str) -> None:
    rng, spread, hits, repeats = np.random.default_rng(8), 0.4, 0, 300
    delta = 2 * scipy.stats.norm.cdf(0.8 / math.sqrt(2 + spread**2)) - 1
    truth = {"cohens_d": 0.8, "cliffs_delta": delta}[effect]
    for repeat in range(repeats):
        found = stats.hierarchical(effects_table(5, 60, spread, rng), effect=effect, resamples=100, seed=repeat)
        hits += found.low <= truth <= found.high
    assert 0.92 <= hits / repeats <= 0.98, hits / repeats


@pytest.mark.parametrize("effect", ["cohens_d", "cliffs_delta"])
def test_hierarchical_resampling_of_images_is_that_of_the_plain_effect(effect: str) -> None:
    """Without spread between seeds the width is that of resampling images, here by scipy on one seed."""
    rng = np.random.default_rng(9)
    table = effects_table(4, 200, 0.0, rng).round({"m_rel": 1})  # ties
    found = stats.hierarchical(table, effect=effect)
    plain = getattr(stats, effect)
    each = [
        plain(*(part.loc[part["set"] == name, "m_rel"] for name in ("candidate", "external")))
        for _, part in table.groupby("seed")
    ]
    assert found.mean == pytest.approx(np.mean(each)) and found.n == 4
    assert found == stats.hierarchical(table, effect=effect)
    one = table[table["seed"] == 0]
    sides = [one.loc[one["set"] == name, "m_rel"].to_numpy() for name in ("candidate", "external")]
    drawn = scipy.stats.bootstrap(
        sides, lambda a, b: plain(a, b), vectorized=False, n_resamples=400, method="percentile", rng=rng
    ).standard_error
    resampled = {"cohens_d": effects._all_d, "cliffs_delta": effects._all_delta}[effect](*sides, 4000, rng)
    assert resampled.std() == pytest.approx(drawn, rel=0.12)
    assert resampled.mean() == pytest.approx(plain(*sides), abs=0.02)


def test_hierarchical_intervals_need_both_sets_and_two_seeds() -> None:
    table = effects_table(2, 20, 0.1, np.random.default_rng(10))
    assert math.isnan(stats.hierarchical(table[table["seed"] == 0]).low)
    with pytest.raises(DataError, match="the sets candidate and shared"):
        stats.hierarchical(table, second="shared")
    with pytest.raises(SpecError, match="effect must be one of cohens_d, cliffs_delta, found 'd'"):
        stats.hierarchical(table, effect="d")
    with pytest.raises(DataError, match="some spread"):
        stats.hierarchical(table.assign(m_rel=1.0))


def test_power_seeds_and_differences_are_inverse_to_each_other_and_true_in_simulation() -> None:
    rng = np.random.default_rng(11)
    draws = rng.normal(0.5, 1, (4000, 20))
    share = (scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()
    assert stats.power(0.5, 1, 20) == pytest.approx(share, abs=0.025)
    needed = stats.seeds_needed(-0.5, 1)
    assert needed == 34 and stats.power(0.5, 1, 34) >= 0.8 > stats.power(0.5, 1, 33)
    assert stats.seeds_needed(100, 1) == 2
    assert stats.power(stats.detectable(2.0, 7), 2.0, 7) == pytest.approx(0.8, abs=1e-6)
    with pytest.raises(SpecError, match="a difference other than 0"):
        stats.seeds_needed(0, 1)
    with pytest.raises(SpecError, match="at least 2 seeds"):
        stats.power(1, 1, 1)
    with pytest.raises(SpecError, match="more than 10000 seeds"):
        stats.seeds_needed(1e-4, 1)


# ---------------------------------------------------------------- agreement
def two_scores(
    rng: np.random.Generator, n: int, rows: int, r: float, common: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Two scores whose truths correlate by `r`; noise as large as the signal, some of it common to row i of both."""
    truth = rng.normal(size=n)
    other = r * truth + math.sqrt(1 - r * r) * rng.normal(size=n)
    shared = common * rng.normal(size=(rows, n))
    own = math.sqrt(1 - common**2)
    return tuple(one + shared + own * rng.normal(size=(rows, n)) for one in (truth, other))


@pytest.mark.parametrize("common", [0.0, 0.8])
def test_disattenuated_agreement_covers_the_correlation_without_noise(common: float) -> None:
    rng, hits, means = np.random.default_rng(12), 0, []
    for repeat in range(40):
        a, b = two_scores(rng, 200, 6, 0.7, common)
        found = stats.disattenuated_interval(a, b, paired=bool(common), resamples=100, seed=repeat)
        hits += found.low <= 0.7 <= found.high
        means.append(found.mean)
    assert np.mean(means) == pytest.approx(0.69, abs=0.03) and hits >= 35
    assert np.mean([stats.spearman(*pair) for pair in zip(a, b, strict=True)]) < 0.75 * 0.7 or common


def test_disattenuated_agreement_by_hand_for_two_rows_each() -> None:
    a, b = two_scores(np.random.default_rng(13), 50, 2, 0.5)
    rho = scipy.stats.spearmanr(np.concatenate([a, b]), axis=1).statistic
    found = stats.disattenuated_interval(a, b, resamples=20)
    assert found.mean == pytest.approx(rho[:2, 2:].mean() / math.sqrt(rho[0, 1] * rho[2, 3]))
    paired = stats.disattenuated_interval(a, b, resamples=20, paired=True)
    assert paired.mean == pytest.approx((rho[0, 3] + rho[1, 2]) / 2 / math.sqrt(rho[0, 1] * rho[2, 3]))
    with pytest.raises(DataError, match="2 replications of each score, found 1 and 2"):
        stats.disattenuated_interval(a[:1], b)
    with pytest.raises(DataError, match="the same images"):
        stats.disattenuated_interval(a, b[:, :9])


def test_top_overlap_beside_chance() -> None:
    rng = np.random.default_rng(14)
    a, b = rng.normal(size=(2, 200))
    found = stats.top_overlap(a, b)
    inside = [np.isin(np.arange(200), np.argsort(-one)[:20]) for one in (a, b)]
    assert found.common == (inside[0] & inside[1]).sum() and found.share == found.common / 20
    assert found.jaccard == pytest.approx(jaccard_score(*inside))
    drawn = np.array([stats.top_overlap(a, rng.permutation(a)).common for _ in range(500)])
    assert drawn.mean() == pytest.approx(found.expected, abs=0.2)
    assert ((drawn >= found.low) & (drawn <= found.high)).mean() >= 0.94
    assert (drawn / (40 - drawn)).mean() == pytest.approx(found.jaccard_expected, abs=0.01)
    assert stats.top_overlap(a, a).jaccard == 1 and stats.top_overlap(a, a).p < 1e-10
    with pytest.raises(SpecError, match="share must lie between 0 and 1, found 10"):
        stats.top_overlap(a, b, 10)


def test_scores_of_the_same_thing_agree_up_to_the_seed_ceiling() -> None:
    rng = np.random.default_rng(15)
    same, other = two_scores(rng, 600, 4, 1.0), two_scores(rng, 600, 4, 0.3)
    for statistic in (stats.spearman, stats.kendall, lambda a, b: stats.top_overlap(a, b).share):
        assert stats.seed_ceiling(*same, statistic).ratio == pytest.approx(1, abs=0.12)
        assert stats.seed_ceiling(*other, statistic).ratio < 0.75
    paired = stats.seed_ceiling(*two_scores(rng, 600, 4, 0.3, 0.9), paired=True)
    assert paired.ratio == pytest.approx(0.3, abs=0.12)
    with pytest.raises(DataError, match="2 replications of each score, found 1 and 4"):
        stats.seed_ceiling(same[0][:1], same[1])
