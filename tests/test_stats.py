"""Hand-computed values, agreement with scipy, scikit-learn and statsmodels, and coverage in simulation."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from sslmem_utils import stats
from sslmem_utils.errors import DataError, SpecError


def table(seeds=3, per_set=40, effect=0.1, offset=0.0, representations=("pooled",)):
    """A score table whose means are `effect` on candidates, its mirror on independents, plus one offset per seed."""
    rng, rows = np.random.default_rng(7), []
    for representation in representations:
        for seed in range(seeds):
            for name, mean in (("external", 0), ("candidate", effect), ("shared", 0), ("independent", -effect)):
                for index in range(per_set):
                    m_rel = mean + offset * (seed + 1) + 0.05 * rng.standard_normal()
                    rows.append((representation, seed, name, index, m_rel))
    return pd.DataFrame(rows, columns=["representation", "seed", "set", "index", "m_rel"])


def test_importing_needs_neither_torch_nor_the_slow_parts_of_scipy():
    code = "import sys, sslmem_utils.stats, sslmem_utils.claims; print([m for m in sys.modules if m in %r])"
    heavy = ["torch", "scipy.stats", "sklearn", "statsmodels", "seaborn", "matplotlib"]
    out = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_interval_by_hand():
    found = stats.interval([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)  # t(.975, 4) = 2.7764451
    assert (found.n, found.mean) == (5, 3.0)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), rel=1e-7)


def test_interval_and_its_test_agree_with_scipy():
    values = np.random.default_rng(0).normal(0.3, 1, 9)
    found, wanted = stats.interval(values, 0.9), scipy.stats.ttest_1samp(values, 0)
    assert (found.t, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.9)), rel=1e-12)


def test_one_replication_has_no_interval():
    found = stats.interval([0.4])
    assert (found.n, found.mean) == (1, 0.4)
    assert all(math.isnan(number) for number in (found.sd, found.low, found.high, found.t, found.p))
    assert str(found) == "0.4"


@pytest.mark.parametrize("value, p", [(0.5, 0.0), (0.0, 1.0)])
def test_equal_replications_have_an_interval_of_width_zero(value, p):
    found = stats.interval([value] * 4)
    assert (found.low, found.high, found.p) == (value, value, p)


@pytest.mark.parametrize("values, words", [([], "found none"), ([1.0, math.nan], "1 of 2"), ([math.inf], "1 of 1")])
def test_values_that_are_no_numbers_are_refused(values, words):
    with pytest.raises(DataError, match=words):
        stats.interval(values)


def test_level_is_checked():
    with pytest.raises(SpecError, match="level must lie between 0 and 1, found 95"):
        stats.interval([1, 2], level=95)


@pytest.mark.parametrize(
    "numbers, text",
    [
        ((0.12345, 0.1001, 0.1468), "0.123 [0.100, 0.147]"),
        ((1234.5, 1000.0, 1469.0), "1234 [1000, 1469]"),
        ((-0.0001, -0.2, 0.2), "0.00 [-0.20, 0.20]"),
        ((1e-9, 0.5e-9, 1.5e-9), "1e-09 [5e-10, 1.5e-09]"),
        ((0.5, 0.5, 0.5), "0.500 [0.500, 0.500]"),
        ((0.5, None, None), "0.5"),
    ],
)
def test_numbers_are_shown_to_the_precision_of_their_interval(numbers, text):
    assert stats.show(*numbers) == text


@pytest.mark.parametrize("count", [3, 5, 20])
def test_intervals_cover_what_they_say(count):
    rng, hits = np.random.default_rng(count), 0
    for _ in range(1000):
        found = stats.interval(rng.normal(0.2, 3, count))
        hits += found.low <= 0.2 <= found.high
    assert 0.92 <= hits / 1000 <= 0.98


def test_bootstrap_intervals_cover_what_they_say():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(1000):
        found = stats.bootstrap(rng.normal(1, 1, 30), resamples=199)
        hits += found.low <= 1 <= found.high
    assert 0.92 <= hits / 1000 <= 0.98


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_bootstrap_agrees_with_the_t_interval_and_repeats(method):
    values = np.random.default_rng(2).normal(size=200)
    found, again, t = (
        stats.bootstrap(values, method=method),
        stats.bootstrap(values, method=method),
        stats.interval(values),
    )
    assert found == again and found.mean == t.mean
    assert (found.low, found.high) == pytest.approx((t.low, t.high), abs=0.02)
    median = stats.bootstrap(values, np.median, method=method)
    assert median.low < np.median(values) == median.mean < median.high


def test_bootstrap_of_one_and_of_equal_values():
    assert math.isnan(stats.bootstrap([2.0]).low)
    equal = stats.bootstrap([2.0, 2.0, 2.0], np.median)
    assert (equal.mean, equal.low, equal.high) == (2.0, 2.0, 2.0)


def test_paired_test_agrees_with_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=8), rng.normal(size=8)
    found, wanted = stats.paired_test(a, b), scipy.stats.ttest_rel(a, b)
    assert (found.t, found.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval()), rel=1e-12)
    assert found.mean == pytest.approx((a - b).mean())
    with pytest.raises(DataError, match="found 8 and 7"):
        stats.paired_test(a, b[:7])


def test_holm_by_hand_and_with_a_test_that_gave_no_p():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = stats.holm([0.01, math.nan])
    assert adjusted[0] == pytest.approx(0.02) and math.isnan(adjusted[1])
    assert stats.holm([]).size == 0
    with pytest.raises(SpecError, match="p values must lie"):
        stats.holm([1.2])


def test_cohens_d_by_hand():
    assert stats.cohens_d([2, 4], [1, 3]) == pytest.approx(1 / math.sqrt(2))
    assert stats.cohens_d([1, 3], [2, 4, 6]) == pytest.approx(-2 / math.sqrt((2 + 8) / 3))
    assert math.isnan(stats.cohens_d([1], [2, 3])) and math.isnan(stats.cohens_d([1, 1], [2, 2]))


def test_auc_with_ties_agrees_with_scikit_learn_and_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 6, 50), rng.integers(1, 7, 30)
    found = stats.auc(a, b)
    assert found == pytest.approx(roc_auc_score(np.r_[np.ones(50), np.zeros(30)], np.r_[a, b]), rel=1e-12)
    assert found == pytest.approx(scipy.stats.mannwhitneyu(a, b).statistic / 1500, rel=1e-12)
    assert stats.auc([1, 2], [1, 0]) == 0.875  # three wins and one tie of four
    assert stats.cliffs_delta([1, 2], [1, 0]) == 0.75
    assert stats.auc([1, 1], [1, 1]) == 0.5


def test_paper_t_tests_are_the_papers_and_say_that_they_are_descriptive():
    scores = stats.scores_by_set(table())
    found = stats.paper_t_tests(scores)
    assert len(found) == 12 and list(scores) == ["shared", "candidate", "independent", "external"]
    for row in found.itertuples():
        a, b = scores[row.first], scores[row.second]
        assert row.t == pytest.approx(scipy.stats.ttest_ind(a, b).statistic)
        assert row.p_two_sided == pytest.approx(scipy.stats.ttest_ind(a, b).pvalue)
        assert row.p_greater == pytest.approx(scipy.stats.ttest_ind(a, b, alternative="greater").pvalue)
    assert found["use"].str.startswith("descriptive").all()
    rows = found.set_index(["first", "second"])
    assert (
        rows.loc[("candidate", "external"), "p_greater"]
        < 1e-6
        < 0.99
        < rows.loc[("independent", "external"), "p_greater"]
    )


def test_paper_t_tests_of_tiny_and_constant_sets_are_nan_and_quiet():
    found = stats.paper_t_tests({"candidate": [0.1], "external": [0.0, 0.2]})
    assert found["t"].isna().all() and len(found) == 2
    assert stats.paper_t_tests({"a": [0.0, 0.0], "b": [0.0, 0.0]})["t"].isna().all()


def test_rank_correlations_agree_with_scipy():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 9, 60), rng.integers(0, 9, 60)
    assert stats.spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, rel=1e-12)
    assert stats.kendall(a, b) == pytest.approx(scipy.stats.kendalltau(a, b).statistic, rel=1e-12)
    assert math.isnan(stats.spearman([1, 1, 1], [1, 2, 3])) and math.isnan(stats.kendall([1, 1, 1], [1, 2, 3]))


def test_disattenuation_and_spearman_brown_by_hand():
    assert stats.disattenuated(0.3, 0.36, 0.25) == pytest.approx(1.0)
    assert math.isnan(stats.disattenuated(0.3, -0.1, 0.5)) and math.isnan(stats.disattenuated(0.3, math.nan, 0.5))
    assert stats.spearman_brown(0.34, 18) == pytest.approx(0.9027, abs=1e-4)
    assert stats.spearman_brown(stats.spearman_brown(0.34, 18), 1 / 18) == pytest.approx(0.34)
    assert math.isnan(stats.spearman_brown(-1.0, 2)) and math.isnan(stats.spearman_brown(-0.9, 5))
    with pytest.raises(SpecError, match="factor must be positive, found 0"):
        stats.spearman_brown(0.5, 0)


def test_reliability_recovers_the_share_of_signal():
    rng = np.random.default_rng(6)
    truth, rows = rng.normal(size=3000), 6
    matrix = truth + rng.normal(size=(rows, 3000)) * math.sqrt(1.5)  # 40 % of the variance is signal
    of_all, halves = stats.reliability(matrix), stats.split_half(matrix)
    spearman = 6 / math.pi * math.asin(0.4 / 2)  # Spearman of normal variables whose Pearson correlation is .4
    assert of_all.single == pytest.approx(spearman, abs=0.03) and halves.single == pytest.approx(spearman, abs=0.03)
    assert of_all.mean == pytest.approx(stats.spearman_brown(of_all.single, rows))
    assert of_all.mean == pytest.approx(stats.spearman(matrix.mean(0), truth) ** 2, abs=0.04)
    assert halves.mean == pytest.approx(of_all.mean, abs=0.02)
    assert (of_all.replications, of_all.images) == (6, 3000)


def test_split_half_of_two_rows_is_their_correlation_stepped_up():
    matrix = np.random.default_rng(8).normal(size=(2, 50)) + np.arange(50) / 20
    rho = stats.spearman(*matrix)
    found = stats.split_half(matrix)
    assert found.single == pytest.approx(rho) and found.mean == pytest.approx(2 * rho / (1 + rho))
    assert stats.reliability(matrix) == pytest.approx(stats.reliability(pd.DataFrame(matrix)))


def test_one_replication_has_no_reliability():
    assert math.isnan(stats.reliability(np.ones((1, 5))).single) and math.isnan(stats.split_half(np.ones((1, 5))).mean)


def test_replicate_matrix_and_top_probability():
    rows = pd.DataFrame({"seed": [0, 0, 1, 1, 1], "index": [7, 9, 7, 8, 9], "set": "candidate"})
    rows["m_rel"] = [0.1, 0.2, 0.9, 0.8, 0.7]
    matrix = stats.replicate_matrix(rows)
    assert list(matrix.columns) == [7, 8, 9] and math.isnan(matrix.loc[0, 8])
    assert stats.top_probability(matrix).tolist() == [0.5, 0.0, 0.5]
    assert stats.top_probability(np.arange(20.0)[None]).tolist() == [0.0] * 18 + [1.0] * 2
    both = pd.concat([rows.assign(representation="pooled"), rows.assign(representation="projector")])
    with pytest.raises(DataError, match="one representation, found pooled, projector"):
        stats.replicate_matrix(both)


def test_knn_distance_is_exact_and_leaves_out_only_the_image_itself():
    rng = np.random.default_rng(9)
    images = rng.integers(0, 256, (70, 1, 4, 4)).astype(np.uint8)
    images[1] = images[0]  # a duplicate is a neighbour at distance 0
    flat = images.reshape(70, -1) / 255
    distances = cdist(flat, flat)
    np.fill_diagonal(distances, np.inf)
    assert stats.knn_distance(images, 5) == pytest.approx(np.sort(distances, axis=1)[:, :5].mean(1), abs=1e-5)
    assert stats.knn_distance(images, 1)[:2] == pytest.approx([0, 0], abs=1e-6)
    assert stats.knn_distance([[0.0], [1.0], [3.0], [7.0]], 2).tolist() == [2.0, 1.5, 2.5, 5.0]
    with pytest.raises(SpecError, match="k must lie between 1 and 69"):
        stats.knn_distance(images, 70)
    with pytest.raises(DataError, match="found shape"):
        stats.knn_distance([1.0, 2.0])


def test_atypicality_finds_the_planted_outlier():
    rng = np.random.default_rng(10)
    labels = np.repeat([0, 1], 20)
    images = labels[:, None] * 5 + rng.normal(size=(40, 3))
    images[0] += 5  # an image of class 0 among class 1
    found = stats.atypicality(images, labels)
    assert found.loc[0, "same_class_share"] == 0 and found.loc[25, "same_class_share"] > 0.8
    assert found["centroid_distance"].idxmax() == 0
    centre = images[labels == 1].mean(0)
    assert found.loc[30, "centroid_distance"] == pytest.approx(np.linalg.norm(images[30] - centre))
    assert found["knn_distance"].to_numpy() == pytest.approx(stats.knn_distance(images))
    assert stats.atypicality(images, np.full(40, -1))["same_class_share"].isna().all()


def test_set_means_are_centred_per_seed_and_representation():
    found = stats.set_means(table(offset=1.0, representations=("pooled", "projector")))
    assert len(found) == 2 * 3 * 4 and found["set"].head(4).tolist() == list(stats.SETS)
    by = found.pivot(index=["representation", "seed"], columns="set", values="centred")
    assert (by["external"] == 0).all()
    assert by["candidate"].to_numpy() == pytest.approx(0.1, abs=0.05)
    assert found.groupby("seed")["mean"].mean().tolist() == pytest.approx([1, 2, 3], abs=0.05)
    with pytest.raises(DataError, match="without it; score S_E as well"):
        stats.set_means(table().query("set != 'external'"))
    with pytest.raises(DataError, match="needs the columns m, found"):
        stats.set_means(table(), "m")


def test_over_seeds_gives_one_interval_a_group():
    means = stats.set_means(table(seeds=5))
    found = stats.over_seeds(means, "centred", ["set"]).set_index("set")
    wanted = stats.interval(means.loc[means["set"] == "candidate", "centred"])
    assert found.loc["candidate", ["n", "mean", "low", "high"]].tolist() == [5, wanted.mean, wanted.low, wanted.high]
    assert stats.over_seeds(means, "centred")["n"].tolist() == [20]


def test_summary_by_hand():
    rows = [("candidate", 3.0), ("candidate", 5.0), ("independent", -1.0), ("independent", -2.0)]
    rows += [("external", 0.0), ("external", 2.0), ("shared", 1.0), ("shared", 1.5)]
    found = stats.summary(pd.DataFrame(rows, columns=["set", "m_rel"])).iloc[0]
    assert (found["seed"], found["candidate"], found["independent"], found["shared"]) == (0, 3.0, -2.5, 0.25)
    assert (found["auc_external"], found["auc_independent"], found["auc_shared"]) == (1.0, 1.0, 1.0)
    assert found["d_external"] == pytest.approx(3 / math.sqrt(2))
    assert (found["asymmetry"], found["asymmetry_limit"], found["symmetry"]) == (0.5, 0.75, 0.25)


def test_summary_has_one_row_a_replication_and_nan_for_a_missing_set():
    found = stats.summary(table(seeds=4, per_set=400, representations=("pooled", "projector")))
    assert len(found) == 8 and (found["auc_external"] > 0.8).all() and (found["symmetry"] > 0).all()
    alone = stats.summary(table().query("set != 'independent'"))
    assert alone["d_independent"].isna().all() and alone["symmetry"].isna().all() and alone["d_external"].notna().all()


def measured() -> pd.DataFrame:
    """Two seeds; image 1 is a candidate once and an independent once, f is 0.1 worse than g everywhere in seed 1."""
    rows = [
        (0, 1, "candidate", 0.5),
        (0, 2, "independent", -0.1),
        (0, 3, "shared", 0.0),
        (0, 4, "external", 0.0),
        (1, 1, "independent", -0.2),
        (1, 2, "candidate", 0.3),
        (1, 4, "external", 0.1),
    ]
    table = pd.DataFrame(rows, columns=["seed", "row", "set", "m_rel"])
    return table.assign(index=table["row"] * 10, label=0, representation="pooled")


def test_measurements_are_centred_and_turned() -> None:
    found = stats.replications(measured()).set_index(["seed", "row"])["score"]
    assert found.to_dict() == pytest.approx({(0, 1): 0.5, (0, 2): 0.1, (1, 1): 0.3, (1, 2): 0.2})


def test_the_ranking_is_the_mean_over_measurements() -> None:
    found = stats.ranking(measured())
    assert found["row"].tolist() == [1, 2] and found["n"].tolist() == [2, 2]
    assert found["score"].tolist() == pytest.approx([0.4, 0.15])
    assert found["se"].tolist() == pytest.approx([0.1, 0.05])
    assert found["p_top"].tolist()[0] == pytest.approx(1.0)


def test_nearness_by_hand() -> None:
    found = stats.nearness(np.array([[0.0], [1.0], [3.0]]), sharpness=2.0)  # squares 1, 9, 4: the median is 4
    wanted = np.exp(-2 / 4 * np.array([[0, 1, 9], [1, 0, 4], [9, 4, 0]])) - np.eye(3)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    assert stats.nearness(np.zeros((3, 2))).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
