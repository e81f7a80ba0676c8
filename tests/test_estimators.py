"""Estimators of memorization: exact on small matrices, unbiased, with errors that cover what they say."""

import numpy as np
import pytest

from sslmem_utils import scoring
from sslmem_utils.errors import SpecError

#                    C    I    S    E    E
PAIR = np.array([[1.0, 4.0, 2.0, 3.0, 5.0], [3.0, 2.0, 2.0, 4.0, 6.0]])
SETS = np.array([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0]], dtype=bool)
NAN = np.nan


def thirds(t: int, n: int, outside: int, rng: np.random.Generator) -> np.ndarray:
    """A mask in which every image but the last `outside` is in a random half of the encoders."""
    member = rng.permuted(np.arange(t)[:, None].repeat(n, axis=1) % 2 == 0, axis=0)
    member[:, n - outside :] = False
    return member


def test_pair_and_mirrored_by_hand() -> None:
    found = scoring.pair(PAIR, SETS)
    np.testing.assert_array_equal(found.score, [2, -2, 0, 1, 1])
    np.testing.assert_array_equal(scoring.mirrored(PAIR, SETS).score, [1, 3, NAN, NAN, NAN])
    assert np.isnan([found.se, found.z, found.freedom]).all()
    np.testing.assert_array_equal(found.n_in, [1, 1, 2, 0, 0])
    np.testing.assert_array_equal(found.n_out, [1, 1, 0, 2, 2])
    np.testing.assert_allclose(scoring.pair(PAIR, SETS, relative=True).score, [2 / 4, -2 / 6, 0, 1 / 7, 1 / 11])


def test_replicated_by_hand() -> None:
    a = np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 4.0], [9.0, 4.0]])
    member = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], dtype=bool)
    found = scoring.replicated(a, member)
    np.testing.assert_array_equal(found.score, [7 - 2, 4 - 2])
    np.testing.assert_allclose(found.se, [np.sqrt(2 / 2 + 8 / 2), 0])  # variances 2 and 8 of two encoders each
    np.testing.assert_allclose(found.z, [5 / np.sqrt((2 * 2 + 2 * 8) / 2), NAN])
    np.testing.assert_allclose(found.freedom[0], 25 / (1 + 16))  # Welch
    relative = scoring.replicated(a, member, relative=True)
    np.testing.assert_allclose(relative.score, [5 / 9, 2 / 6])
    slope_out, slope_in = 2 * 2 / 81, 2 * 7 / 81
    np.testing.assert_allclose(relative.se[0], np.sqrt(slope_out**2 * 4 + slope_in**2 * 1))


def test_mirrored_replicas_turn_the_independents() -> None:
    a = np.concatenate([PAIR[[0, 0]] + [[0.5], [-0.5]], PAIR[[1, 1]] + [[0.25], [-0.25]]])
    found = scoring.mirrored(a, SETS[[0, 0, 1, 1]])
    np.testing.assert_allclose(found.score, [1, 3, NAN, NAN, NAN])
    np.testing.assert_allclose(found.se[:2], 0, atol=1e-12)  # offsets of whole encoders are no noise
    assert np.isnan(found.se[2:]).all()


def test_subsampled_by_hand() -> None:
    member = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0]], dtype=bool)
    plain = np.array([[1.0, 9, 2, 4], [4.0, 9, 2, 4], [2.0, 9, 2, 4], [6.0, 9, 2, 4]])
    found = scoring.subsampled(plain, member)
    np.testing.assert_allclose(found.score, [5 - 1.5, NAN, NAN, NAN])  # always in; never in
    np.testing.assert_allclose(found.se[0], np.sqrt(2 / 2 + 0.5 / 2))
    np.testing.assert_array_equal(found.n_out, [2, 0, 4, 4])
    np.testing.assert_allclose(scoring.subsampled(plain, member, relative=True).score[0], 3.5 / 6.5)
    moved = plain * [[2.0], [0.5], [1.0], [1.0]] + [[1.0], [2.0], [0.0], [5.0]]  # encoders of other size and offset
    ends = scoring.standardised(moved, member)[:, 2:]
    np.testing.assert_allclose(ends, np.broadcast_to(ends[0], ends.shape))
    unit = (ends[0, 1] - ends[0, 0]) / 2  # distances are in units of all encoders' mean spread on S_E
    np.testing.assert_allclose(scoring.subsampled(moved, member).score[0], 3.5 * unit)
    np.testing.assert_allclose(scoring.subsampled(plain, member, standardise=False).score[0], 3.5)


def test_leave_one_out_by_hand() -> None:
    member = np.array([[1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0]] * 2, dtype=bool)  # the third is never left out
    first = [[1.0, 2, 3, 4], [4.0, 2.5, 3, 4], [2.0, 5, 3, 4]]
    second = [[2.0, 2, 3, 4], [3.0, 2, 3, 4], [2.0, 5, 3, 4]]
    found = scoring.leave_one_out(np.array(first + second), member, np.repeat([3, 8], 3))
    each = np.array([[4 - 1.5, 5 - 2.25], [3 - 2, 5 - 2]])
    np.testing.assert_allclose(found.score, [*each.mean(0), NAN, NAN])
    np.testing.assert_allclose(found.se[:2], each.std(0, ddof=1) / np.sqrt(2))
    np.testing.assert_array_equal(found.freedom[:2], [1, 1])
    one = scoring.leave_one_out(np.array(first), member[:3], np.zeros(3), relative=True)
    np.testing.assert_allclose(one.score[:2], [2.5 / 5.5, 2.75 / 7.25])
    assert np.isnan(one.se).all()


def test_the_noise_floor_pairs_encoders_of_the_same_images() -> None:
    a = np.arange(10.0).reshape(5, 2) ** 2
    member = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]], dtype=bool)
    found = scoring.noise_floor(a, member)  # one pair of g's, one of f's; the third f has no partner
    assert sorted(map(tuple, found)) == sorted([tuple(a[2] - a[0]), tuple(a[3] - a[1])])
    assert np.abs(scoring.noise_floor(a, member, relative=True)).max() <= 1
    with pytest.raises(SpecError, match="two encoders trained on the same images, found none"):
        scoring.noise_floor(PAIR, SETS)


def test_m_range_and_the_relative_form_at_their_edges() -> None:
    np.testing.assert_allclose(scoring.ranged(np.array([-1.0, NAN, 3.0])), [-0.25, NAN, 0.75])
    np.testing.assert_array_equal(scoring.ranged(np.array([2.0, 2.0, NAN])), [0, 0, NAN])
    assert np.isnan(scoring.ranged(np.array([NAN, NAN]))).all()
    found = scoring.relative_to_sum(np.array([0.0, 1, NAN]), np.array([0.0, 0, 1]))
    np.testing.assert_array_equal(found, [0, 1, NAN])


# ---------------------------------------------------------------- simulations: every column is one repeat
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("seeds", [3, 5, 20])
def test_intervals_of_replicated_scores_cover_the_truth(seeds: int, relative: bool) -> None:
    rng, n = np.random.default_rng(seeds), 1000
    f, g = 1 + 0.1 * rng.normal(size=(seeds, n)), 1.2 + 0.12 * rng.normal(size=(seeds, n))
    member = np.repeat([[True], [False]], seeds, axis=0).repeat(n, axis=1)
    low, high = scoring.replicated(np.concatenate([f, g]), member, relative=relative).interval()
    truth = 0.2 / 2.2 if relative else 0.2
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.92 <= covered <= 0.98, covered


def test_what_the_neighbours_explain_is_taken_out_of_subsampled_scores() -> None:
    rng, t, n = np.random.default_rng(5), 40, 60
    member = np.concatenate([thirds(t, n, 0, rng), np.zeros((t, 20), dtype=bool)], axis=1)
    nearness = rng.random((n + 20, n + 20)) ** 8
    weight = np.where(np.eye(n + 20, dtype=bool) | ~member.any(0), 0, nearness)
    truth, base = rng.normal(1, 0.2, n + 20), rng.normal(5, 1, n + 20)
    a = base + truth * ~member - 6 * (member @ weight.T) / weight.sum(1) + rng.normal(0, 0.2, member.shape)
    inside = member.any(0)
    plain, less = (scoring.subsampled(a, member, standardise=False, nearness=one) for one in (None, nearness))
    errors = [(found.score - truth)[inside] for found in (plain, less)]
    assert abs(errors[1].mean()) < 0.03 and errors[1].std() < 0.4 * errors[0].std()
    assert np.median(less.se[inside]) < 0.5 * np.median(plain.se[inside])
    np.testing.assert_allclose(  # nothing is near anything: nothing is taken out
        scoring.subsampled(a, member, nearness=np.zeros_like(nearness)).score, scoring.subsampled(a, member).score
    )
    with pytest.raises(SpecError, match="for 80 images, found shape"):
        scoring.subsampled(a, member, nearness=nearness[:3])


@pytest.mark.parametrize("t", [8, 40])
def test_intervals_of_subsampled_scores_cover_the_truth_despite_offsets_of_the_encoders(t: int) -> None:
    rng, n, outside = np.random.default_rng(t), 2000, 1000
    member = thirds(t, n, outside, rng)
    hardness = rng.gamma(4, 0.25, n)
    clean = hardness + 0.1 * rng.normal(size=(t, n)) - 0.3 * member
    scale = rng.uniform(0.8, 1.2, (t, 1))
    a = scale * clean + rng.normal(size=(t, 1))
    found = scoring.subsampled(a, member)
    truth = 0.3 * scale.mean()  # in units of the mean encoder
    low, high = found.interval()
    covered = ((low <= truth) & (truth <= high))[: n - outside].mean()
    assert 0.92 <= covered <= 0.98, covered
    assert found.score[: n - outside].mean() == pytest.approx(truth, abs=0.01)
    raw = scoring.subsampled(a, member, standardise=False)
    assert np.nanmean(raw.se) > 3 * np.nanmean(found.se)
    assert np.isnan(found.score[n - outside :]).all()


def test_scores_do_not_depend_on_membership_that_means_nothing() -> None:
    """Which encoders an image is in, drawn anew many times for the same alignments: the mean score is 0."""
    rng, t, repeats = np.random.default_rng(0), 10, 20_000
    column = rng.gamma(2, 1, t)
    member = thirds(t, repeats, 0, rng)
    found = scoring.subsampled(np.repeat(column[:, None], repeats, axis=1), member, standardise=False).score
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(repeats)
    assert found.std() > 0.1


def test_z_and_the_noise_floor_speak_of_the_same_noise() -> None:
    rng, n, seeds = np.random.default_rng(1), 4000, 8
    a = 1 + 0.1 * rng.normal(size=(2 * seeds, n))
    member = np.repeat([[True], [False]], seeds, axis=0).repeat(n, axis=1)
    floor = scoring.noise_floor(a, member)
    assert floor.shape == (seeds, n)
    noise = scoring.replicated(a, member).noise
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(floor.std(), rel=0.02)


# ---------------------------------------------------------------- wrong inputs
def test_wrong_shapes_and_missing_rows_are_one_sentence_errors() -> None:
    every = np.ones((4, 5), dtype=bool)
    with pytest.raises(SpecError, match="one f and one g, found 4 rows"):
        scoring.pair(np.ones((4, 5)), every)
    with pytest.raises(SpecError, match="found 2 rows; use pair for one"):
        scoring.replicated(PAIR, SETS)
    with pytest.raises(SpecError, match="found 3 rows"):
        scoring.mirrored(PAIR[[0, 0, 1]], SETS[[0, 0, 1]])
    with pytest.raises(SpecError, match="first half of the rows must be f's"):
        scoring.replicated(PAIR[[0, 1, 0, 1]], SETS[[0, 1, 0, 1]])
    for estimator in (scoring.replicated, scoring.mirrored, scoring.subsampled, scoring.noise_floor):
        with pytest.raises(SpecError, match=r"found shapes \(4, 5\) and \(4, 4\)"):
            estimator(np.ones((4, 5)), every[:, :4])
        with pytest.raises(SpecError, match="int64"):
            estimator(np.ones((4, 5)), every.astype(np.int64))
    with pytest.raises(SpecError, match="one seed for each of the 4 encoders"):
        scoring.leave_one_out(np.ones((4, 5)), every, np.zeros(3))


def test_without_images_that_no_encoder_has_seen_nothing_is_standardised() -> None:
    seen = np.array([[1, 0], [0, 1]], dtype=bool)
    for estimator in (scoring.subsampled, scoring.mirrored):
        with pytest.raises(SpecError, match="none of them has seen, found 0; keep an external set"):
            estimator(np.ones((2, 2)), seen)
    flat = PAIR.copy()
    flat[1, 3:] = 4
    with pytest.raises(SpecError, match="encoder 1 gives all external images the same alignment"):
        scoring.subsampled(flat, SETS)
