"""The closed forms against integration and simulation; the trained encoders against what training must do."""

import math

import lightly.loss
import numpy as np
import pytest
import torch
from scipy import integrate, spatial, special, stats

from sslmem_utils import theory
from sslmem_utils.errors import SpecError, TrainingError
from sslmem_utils.scoring import align_features
from sslmem_utils.theory import LineSpec

CASE = {"coverage": {"views": 5, "features_f": 1, "features_g": 2}, "convergence": {"counts": [2], "features": 1}}
SMALL = LineSpec(points=16, width=16, steps=150)


@pytest.fixture(scope="module")
def encoders():
    return theory.train_line(LineSpec(steps=300), [2.0, 0.0], range(6))


# ---------------------------------------------------------------- Gaussian toy
@pytest.mark.parametrize("features", [1, 2, 5])
def test_pair_moments_equal_numeric_integration(features):
    mean, variance, covariance = theory.pair_moments(0.3, features, scale=2.0)
    unit = 0.6 * math.sqrt(2)  # of the difference of two representations, in each direction
    chi = stats.chi(features)
    assert mean == pytest.approx(unit * integrate.quad(lambda r: r * chi.pdf(r), 0, np.inf)[0])
    assert variance == pytest.approx(unit**2 * integrate.quad(lambda r: r**2 * chi.pdf(r), 0, np.inf)[0] - mean**2)

    def given(a):  # mean distance from a view at distance a (in units of its noise) of the clean point: noncentral chi
        ratio = math.gamma((features + 1) / 2) / math.gamma(features / 2)
        return 0.6 * math.sqrt(2) * ratio * special.hyp1f1(-0.5, features / 2, -(a**2) / 2)

    second = integrate.quad(lambda a: given(a) ** 2 * chi.pdf(a), 0, 12)[0]
    assert covariance == pytest.approx(second - mean**2)


@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_closed_form_is_the_alignment_of_a_linear_encoder_at_any_point(distance):
    generator = torch.Generator().manual_seed(3)
    rows = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q[:3]
    point = torch.tensor([1.0, -2.0, 0.5, 4.0, 0.0, 3.0], dtype=torch.float64)
    views = point + 0.3 * torch.randn(4000, 10, 6, generator=generator, dtype=torch.float64)
    found = align_features(views @ (2 * rows).T, distance)["align"]
    mean, _, _ = theory.pair_moments(0.3, 3, scale=2.0, distance=distance)
    assert found.mean().item() == pytest.approx(mean, abs=4 * found.std().item() / math.sqrt(4000))


def test_moments_scale_with_noise_and_vanish_without():
    assert theory.pair_moments(0.0, 4) == (0.0, 0.0, 0.0)
    assert theory.pair_moments(0.5, 1)[0] == pytest.approx(2 * 0.5 / math.sqrt(math.pi))  # E|N(0, 2 sigma^2)|
    assert theory.pair_moments(0.5, 4, 3.0)[0] == pytest.approx(3 * theory.pair_moments(0.5, 4)[0])
    assert theory.pair_moments(0.5, 4, distance="l1") == pytest.approx([4 * x for x in theory.pair_moments(0.5, 1)])


@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_measured_errors_follow_theory_for_every_number_of_views(distance):
    table = theory.convergence([2, 3, 5, 16], 4000, 0.3, 4, distance)
    measured = table.dropna(subset="rmse")
    assert (measured["rmse"] / measured["theory"]).tolist() == pytest.approx([1.0] * len(measured), rel=0.06)
    by = table.pivot(index="views", columns="pairs", values="theory")
    assert by.loc[2].nunique() == 1  # one pair is one pair
    assert (by.loc[3:, "independent"] < by.loc[3:, "all"]).all() and (by.loc[3:, "all"] < by.loc[3:, "disjoint"]).all()
    costs = table.set_index(["views", "pairs"]).loc[16]
    assert costs["forward"].to_dict() == {"all": 16, "disjoint": 16, "independent": 240}
    assert costs["distances"].to_dict() == {"all": 120, "disjoint": 8, "independent": 120}


@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_jackknife_intervals_cover_the_closed_form_as_often_as_they_say(distance):
    table = theory.coverage(1000, 20, 0.3, 3, 8, distance).set_index("quantity")
    assert list(table.index) == ["align_f", "align_g", "m"]
    assert table["coverage"].between(0.92, 0.98).all()
    assert (table["se_views"] / table["rmse"]).tolist() == pytest.approx([1.0] * 3, rel=0.1)
    # the same views in f and g: the errors cancel in part, so m is measured better than two separate alignments are
    assert table.loc["m", "rmse"] < 0.9 * math.hypot(table.loc["align_f", "rmse"], table.loc["align_g", "rmse"])


def test_view_overlap_is_the_common_area_of_two_normal_densities():
    a, b = stats.norm(0, 0.3), stats.norm(0.5, 0.3)
    area = integrate.quad(lambda x: min(a.pdf(x), b.pdf(x)), -3, 3.5, points=[0.25])[0]
    assert theory.view_overlap(0.5, 0.3) == pytest.approx(area, rel=1e-6)
    assert theory.view_overlap(np.array([0.0, -0.5, 99.0]), 0.3) == pytest.approx([1.0, area, 0.0], rel=1e-6)


# ---------------------------------------------------------------- encoders on a line
def test_loss_is_vicreg_of_lightly():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 40, 1, generator=generator)
    reference = lightly.loss.VICRegLoss(lambda_param=25.0, mu_param=25.0, nu_param=1.0)
    expected = torch.stack([reference(x, y) for x, y in zip(a * 0.3, b * 0.3, strict=True)])
    torch.testing.assert_close(theory.vicreg(a * 0.3, b * 0.3), expected)


def test_training_lowers_the_loss_and_does_not_collapse(encoders):
    assert (encoders.loss[-1] < 0.1 * encoders.loss[0]).all()
    own = theory._forward(encoders.weights, encoders.points.flatten(0, 1)[..., None])
    assert own.std(1).min() > 0.8


def test_f_and_g_train_on_equally_many_points_and_share_all_but_one(encoders):
    g, f = encoders.points[:, 0], encoders.points[:, 1:]
    assert (f[:, :, :-1] == g[:, None, :-1]).all()
    assert (f[:, :, -1] == torch.tensor([2.0, 0.0])).all()
    assert (g[:, -1, None] != g[:, :-1]).all() and g.abs().max() < 5
    table = theory.line_points(encoders)
    assert table["x"].tolist() == g.flatten().tolist()
    assert table.groupby("seed")["set"].value_counts().unstack().drop_duplicates().to_dict("records") == [
        {"shared": 32, "independent": 1}
    ]


def test_an_outlier_is_memorized_and_an_inlier_is_not(encoders):
    table = theory.line_scores(encoders, 20)
    own = table[table["trained"] == table["position"]].pivot(index="seed", columns="position", values="m")
    difference = own[0.0] - own[2.0]
    assert stats.ttest_1samp(difference, 0, alternative="greater").pvalue < 0.01
    assert own[2.0].abs().mean() < 0.1 * own[0.0].mean()


def test_f_equal_to_g_gives_exactly_zero_and_swapping_negates(encoders):
    def stacked(order):  # encoders of a seed are g, f of 2, f of 0
        index = torch.arange(18).view(6, 3)[:, order].flatten()
        weights = [w[index] for w in encoders.weights]
        points = encoders.points[:, order]
        return theory.LineEncoders(encoders.spec, encoders.positions, encoders.seeds, weights, points, encoders.loss)

    same = theory.line_scores(stacked([0, 0, 0]), 8)
    assert (same[["m", "m_rel", "se_views"]] == 0).all(axis=None) and (same["align_f"] > 0).all()
    there, back = theory.line_scores(stacked([0, 1, 1]), 8), theory.line_scores(stacked([1, 0, 0]), 8)
    assert (there["m"] == -back["m"]).all() and (there["m"] != 0).any()


def test_a_straight_line_has_the_closed_form_whatever_its_slope():
    weights = [
        torch.tensor([[[1.0, -1.0]]]),
        torch.zeros(1, 1, 2),
        torch.eye(2)[None],
        torch.zeros(1, 1, 2),
        torch.tensor([[[1.0], [-1.0]]]),
        torch.ones(1, 1, 1),
    ]
    slopes = (4.0, 1.0)  # of g, f
    stacked = [
        torch.cat([w * slope for slope in slopes]) if layer == 4 else w.repeat(2, 1, 1)
        for layer, w in enumerate(weights)
    ]
    points = torch.tensor([-3.0, 0.0, 3.0]).expand(1, 2, 3)  # standard deviation 3
    line = theory.LineEncoders(LineSpec(), (1.5,), (0,), stacked, points, torch.zeros(9, 1, 2))
    row = theory.line_scores(line, 800).iloc[0]
    moments = theory.pair_moments(0.25, 1, scale=1 / 3)
    assert row["align_f"] == pytest.approx(moments[0], abs=4 * theory.align_error(moments, 800))
    assert row["align_g"] == pytest.approx(row["align_f"], rel=1e-5)  # scale alone is no memorization
    assert row["m"] == pytest.approx(0, abs=1e-5)


def test_views_compared_by_hand_give_the_score(encoders):
    scores = theory.line_scores(encoders, 7).set_index(["seed", "trained", "position"])
    for seed, part in theory.line_views(encoders, 0.0, 7).groupby("seed"):
        by_hand = {name: spatial.distance.pdist(part[[name]]).mean() for name in ("f", "g")}
        assert scores.loc[(seed, 0.0, 0.0), "align_f"] == pytest.approx(by_hand["f"], rel=1e-5)
        assert scores.loc[(seed, 0.0, 0.0), "align_g"] == pytest.approx(by_hand["g"], rel=1e-5)


def test_the_inlier_shares_its_views_and_the_outlier_does_not(encoders):
    overlap = theory.line_scores(encoders, 2).groupby("position")["overlap"].agg(["min", "max"])
    assert overlap.loc[2.0, "min"] > 0.7 and overlap.loc[0.0, "max"] < 0.2


def test_curves_rise(encoders):
    table = theory.line_curves(encoders, -2.0, 2.0, 5)
    assert len(table) == 6 * 3 * 5 and set(table["encoder"]) == {"f", "g"}
    assert table.loc[table["encoder"] == "g", "trained"].isna().all()
    ends = table.pivot_table(index=["seed", "encoder", "trained"], columns="x", values="value", dropna=False)
    ends = ends.dropna()
    assert len(ends) == 6 * 3
    assert (ends[2.0] > ends[-2.0]).all()


def test_a_training_is_a_function_of_its_seed_and_position_alone():
    alone = theory.line_scores(theory.train_line(SMALL, [0.0], [4]), 6)
    again = theory.line_scores(theory.train_line(SMALL, [0.0], [4]), 6)
    company = theory.line_scores(theory.train_line(SMALL, [2.0, 0.0], [1, 4]), 6)
    assert alone.equals(again)
    row = company[(company["seed"] == 4) & (company["trained"] == 0.0) & (company["position"] == 0.0)]
    assert row["m"].item() == pytest.approx(alone["m"].item(), abs=1e-3)
    other = company[(company["seed"] == 1) & (company["trained"] == 0.0) & (company["position"] == 0.0)]
    assert abs(other["m"].item() - alone["m"].item()) > 1e-2


def test_errors_say_what_is_wrong(encoders):
    with pytest.raises(SpecError, match="different and not empty"):
        theory.train_line(SMALL, [1.0, 1.0], [0])
    with pytest.raises(SpecError, match="distance must be l2 or l1"):
        theory.line_scores(encoders, 5, "cosine")
    with pytest.raises(SpecError, match="at least 2"):
        theory.line_scores(encoders, 1)
    with pytest.raises(SpecError, match="noise"):
        LineSpec(noise=0.0)
    with pytest.raises(SpecError, match="features at least 1"):
        theory.pair_moments(0.1, 0)
    with pytest.raises(SpecError, match="pairs must be"):
        theory.align_error((1.0, 1.0, 1.0), 4, "some")
    for simulate in (theory.coverage, theory.convergence):
        with pytest.raises(SpecError, match="repeats"):
            simulate(repeats=1, noise=0.1, **CASE[simulate.__name__])
    with pytest.raises(TrainingError, match="not finite"):
        theory.train_line(SMALL.but(lr=1e30, steps=20), [0.0], [0])
