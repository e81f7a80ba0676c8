"""Limiting alignment: the term and its sign, which images it is for, geometry, matching, partial correlations."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sslmem_utils import data, encoders, figures, limiting, methods, pairs, recipes, removal, stats, training
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.limiting import EVERY, MOST, NONE, RANDOM
from sslmem_utils.methods import Batch
from sslmem_utils.methods.limited_simclr import angles
from sslmem_utils.specs import EncoderSpec, MethodSpec, ScoreSpec, TrainSpec
from sslmem_utils.store import Store

SMALL = EncoderSpec(name="mlp", options={"width": 32, "depth": 2})


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")


def base(**changes: object) -> TrainSpec:
    return removal.base("digits", 40, 60, **{"encoder": SMALL, "epochs": 8, "batch": 20} | changes)


def method(limit: float, ids: str = "all", start: float = 0.0) -> methods.Method:
    torch.manual_seed(0)
    options = {"limit": limit, "ids": ids, "start": start}
    return methods.build(MethodSpec(name="limited_simclr", options=options), encoders.build(SMALL, (1, 8, 8)))


def batch(ids: torch.Tensor | None = None) -> Batch:
    views = torch.rand(6, 2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return Batch((views,), torch.zeros(6, dtype=torch.int64), None, ids)


# ---------------------------------------------------------------- the term
def test_angles_are_those_of_the_vectors() -> None:
    a = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 5.0], [0.0, -1.0], [math.cos(1.0), math.sin(1.0)]])
    torch.testing.assert_close(angles(a, b), torch.tensor([0.0, 0.5, 1.0, 1 / math.pi]))
    a, b = torch.randn(50, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64)
    torch.testing.assert_close(angles(a, b), torch.cosine_similarity(a, b).arccos() / math.pi)


def test_a_step_down_the_term_parts_the_views_and_one_down_the_released_term_joins_them() -> None:
    start = torch.tensor([[1.0, 0.2]], requires_grad=True)
    other = torch.tensor([[0.4, 1.0]])
    released = torch.cosine_similarity(start, other).arcsin().mean() / math.pi
    for term, parts in ((-angles(start, other).mean(), True), (-released, False)):
        (gradient,) = torch.autograd.grad(term, start)
        moved = angles((start - 0.01 * gradient).detach(), other)
        assert bool(moved > angles(start.detach(), other)) == parts
    equal = torch.ones(1, 4, requires_grad=True)
    angles(equal, torch.ones(1, 4)).sum().backward()
    assert equal.grad.isfinite().all()


def test_the_loss_is_that_of_the_equation() -> None:
    some, ids = {2, 5}, torch.tensor([2, 3, 4, 5, 6, 7])
    plain, every, few = method(0.0)(batch()), method(0.3)(batch()), method(0.3, "5 2 99")(batch(ids))
    one = method(0.3)
    apart = angles(*one.encoder(methods.stacked(batch().views[0])).chunk(2))
    torch.testing.assert_close(every, 0.7 * plain - 0.3 * apart.mean())
    marks = torch.tensor([float(int(i) in some) for i in ids])
    torch.testing.assert_close(few, 0.7 * plain - 0.3 * (marks * apart).mean())


def test_nothing_is_limited_before_the_start() -> None:
    one = method(0.3, start=0.5)
    plain = method(0.0)(batch()).item()
    assert one(batch()).item() == plain
    one.after_step(0.49)
    assert one(batch()).item() == plain
    one.after_step(0.5)
    assert one(batch()).item() < plain


def test_without_a_weight_it_is_simclr_to_the_last_bit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    f = pairs.pair_specs(base(epochs=3), 0)[0]
    plain, zero = (training.load(spec, store) for spec in (f, limiting.limited(f, 0.0)) if training.train(spec, store))
    for name, value in plain.encoder.state_dict().items():
        assert torch.equal(value, zero.encoder.state_dict()[name]), name


def test_batches_say_which_images_they_hold() -> None:
    f = training.resolved(base())
    given = training.inputs(f)
    source = training.Source.of(given.images, torch.from_numpy(given.rows))
    labels = dict(zip(given.images.ids.tolist(), given.images.labels.tolist(), strict=True))
    plan, seen = ((f.view, 2),), []
    for epoch, one in training.stream(f, source, 0, plan):
        assert [labels[i] for i in one.ids.tolist()] == one.labels.tolist()
        seen += one.ids.tolist() if epoch == 0 else []
    assert sorted(seen) == sorted(given.images.ids[given.rows].tolist())


def test_errors_of_the_method() -> None:
    f = pairs.pair_specs(base(), 0)[0]
    outside = int(training.split_of(f).external[0])
    for call, sentence in {
        lambda: training.resolved(limiting.limited(f, 1.5)): "limit of limited_simclr must lie between 0 and 1",
        lambda: training.resolved(limiting.limited(f, 0.5, start=-0.1)): "start of limited_simclr must lie",
        lambda: method(0.3, "3, 4"): "ids of limited_simclr must be 'all' or numbers",
        lambda: method(0.3, "3 4")(batch()): "found no ids",
        lambda: limiting.limited(f, 0.5, [outside]): f"the encoder trains on, found row {outside}",
        lambda: limiting.limited(f, 0.5, []): "found none",
        lambda: limiting.limited(f.but(method=MethodSpec(name="byol")), 0.5): "written for simclr, found byol",
        lambda: limiting.measure(base(), [], limiting.Plan([0.5], [0.5])): "at least one seed",
    }.items():
        with pytest.raises(SpecError, match=sentence) as caught:
            call()
        assert str(caught.value).count(". ") == 0


# ---------------------------------------------------------------- geometry
def test_uniformity_and_rankme_have_their_known_values() -> None:
    assert limiting.uniformity(np.ones((5, 3))) == pytest.approx(0)
    z = np.random.default_rng(0).normal(size=(40, 6))
    unit = torch.nn.functional.normalize(torch.from_numpy(z), dim=1)
    assert limiting.uniformity(z) == pytest.approx(float(torch.pdist(unit).square().mul(-2).exp().mean().log()))
    assert limiting.uniformity(7 * z) == pytest.approx(limiting.uniformity(z))
    assert limiting.rankme(np.eye(12, 5)) == pytest.approx(5, rel=1e-4)
    assert limiting.rankme(np.outer(np.arange(1.0, 9), np.ones(4))) == pytest.approx(1, abs=1e-4)
    assert limiting.rankme(z) < 6


# ---------------------------------------------------------------- arms
def test_arms_differ_in_what_they_limit_and_the_term_does_what_it_says(tmp_path: Path) -> None:
    store, plan = Store(tmp_path), limiting.Plan([0.9], [0.9], start=0.0, views=4, fit=80, test=80)
    rows = limiting.chosen(base(), 0, plan, store)
    half = set(training.split_of(pairs.pair_specs(base(), 0)[0]).candidate.tolist())
    assert {name: len(some) for name, some in rows.items()} == {MOST: 16, RANDOM: 16}
    assert set(rows[MOST].tolist()) | set(rows[RANDOM].tolist()) <= half
    found = limiting.arms(base(), 0, plan, rows)
    assert list(found) == [(NONE, 0.0), (EVERY, 0.9), (MOST, 0.9), (RANDOM, 0.9)]
    assert len({f.seed for f, _ in found.values()}) == len({g.seed for _, g in found.values()}) == 1
    scored = {spec.seed for spec in pairs.pair_specs(base(), 0)}
    assert not scored & {spec.seed for pair in found.values() for spec in pair}
    images = data.load(base().dataset)
    named = found[MOST, 0.9][0].method.options["ids"].split()
    assert sorted(map(int, named)) == sorted(images.ids[rows[MOST]].tolist())
    table = limiting.measure(base(), [0], plan, store).set_index("arm")
    aligned = table["align_candidate"]
    assert aligned[EVERY] > aligned[MOST] > aligned[NONE] and aligned[EVERY] > aligned[RANDOM] > aligned[NONE]
    assert table.loc[[MOST, RANDOM], "uniformity"].notna().all() and (table["rankme"] > 1).all()
    again = limiting.measure(base(), [0], plan, store).set_index("arm")
    pd.testing.assert_frame_equal(table, again)


def cells(effect: float) -> pd.DataFrame:
    """Accuracy falls with the external alignment loss, and by `effect` where the most memorized are limited."""
    rows = []
    for seed in range(3):
        for arm, limits in ((NONE, [0.0]), (EVERY, [0.5]), (MOST, [0.3, 0.5]), (RANDOM, [0.3, 0.5])):
            for limit in limits:
                at = 0.2 + 0.01 * seed + limit * (0.5 if arm == MOST else 0.4)
                linear = 0.9 - 0.3 * at + 0.02 * seed - (effect if arm == MOST else 0)
                rows.append({"dataset": "x", "seed": seed, "arm": arm, "limit": limit, "align_external": at} |
                            {"linear": linear})  # fmt: skip
    return pd.DataFrame(rows)


def test_matching_takes_out_what_alignment_does_and_leaves_the_rest() -> None:
    for effect in (0.0, 0.05):
        found = limiting.matched(cells(effect))
        assert len(found) == 6 and np.allclose(found["difference"], effect)
    raw = cells(0.0).pivot_table(index=["seed", "limit"], columns="arm", values="linear")
    assert (raw[RANDOM] - raw[MOST]).dropna().min() > 0.005, "without matching the confound looks like an effect"
    with pytest.raises(DataError, match="matching needs the arms 'none', 'most memorized' and 'random'"):
        limiting.matched(cells(0.0)[lambda table: table["arm"] != RANDOM])


def test_changes_start_at_no_limit() -> None:
    found = limiting.changes(cells(0.05), ["linear", "align_external"])
    assert (found.loc[found["limit"] == 0, ["linear", "align_external"]] == 0).all(axis=None)
    last = found[(found["arm"] == RANDOM) & (found["limit"] == 0.5)]
    assert np.allclose(last["align_external"], 0.2) and np.allclose(last["linear"], -0.06)
    assert set(found["arm"]) == {EVERY, MOST, RANDOM} and len(found) == 3 * (3 + 5)
    with pytest.raises(DataError, match="changes are from the arm 'none'"):
        limiting.changes(cells(0.0)[lambda table: table["arm"] != NONE], ["linear"])


def test_the_figure_says_what_it_shows() -> None:
    moved = limiting.changes(cells(0.05), ["linear", "align_external"])
    figure = figures.against(moved, "linear", {"align_external": "alignment", "linear": "accuracy"})
    assert "alignment random 0" in figures.alt(figure) and "3 seeds" in figures.alt(figure)
    assert len(figure.axes) == 2


# ---------------------------------------------------------------- partial correlations
def test_partial_correlation_is_that_of_the_inverse_covariance() -> None:
    values = np.random.default_rng(0).multivariate_normal([0, 0, 0], [[1, 0.5, 0.3], [0.5, 1, 0.6], [0.3, 0.6, 1]], 80)
    table = pd.DataFrame(values, columns=["x", "y", "z"]).assign(seed=0)
    inverse = np.linalg.inv(np.cov(values.T))
    expected = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert stats.partial_correlation(table, "x", "y", ["z"]).mean == pytest.approx(expected)
    assert stats.partial_correlation(table, "x", "y").mean == pytest.approx(np.corrcoef(values.T)[0, 1])


def test_a_confound_explains_a_correlation_and_seeds_do_not_make_one() -> None:
    rng, parts = np.random.default_rng(1), []
    for seed in range(30):
        z = rng.normal(size=12)
        x, y = (z + rng.normal(size=12) for _ in range(2))
        parts.append(pd.DataFrame({"seed": seed, "x": x + 10 * seed, "y": y + 10 * seed, "z": z}))
    table = pd.concat(parts)
    plain, held = (stats.partial_correlation(table, "x", "y", given) for given in ([], ["z"]))
    assert plain.low > 0.3 and plain.mean < 0.7 and held.low < 0 < held.high and held.n == 30
    assert stats.partial_correlation(table[table["seed"] < 2], "x", "y").low is not None
    assert math.isnan(stats.partial_correlation(table[table["seed"] < 2], "x", "y").low)


def test_errors_of_partial_correlations() -> None:
    table = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "x": range(6), "y": [1, 0, 1, 1, 0, 1], "flat": 1.0})
    with pytest.raises(DataError, match="needs more than 6 finite cells of 2 replications, found 6"):
        stats.partial_correlation(table.assign(z=0.0, w=1.0), "x", "y", ["z", "w"])
    with pytest.raises(DataError, match="needs x and flat to change within replications"):
        stats.partial_correlation(table, "x", "flat")
    assert recipes.representation(base()) == ScoreSpec().representation
