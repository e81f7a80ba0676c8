"""Doses of augmentation: what a design changes and leaves alone, which policies are refused, how a fall is read off."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sslmem_utils import comparison, data, figures, pairs, policies, scoring, stats, training, views
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.specs import EncoderSpec, TrainSpec
from sslmem_utils.store import Store

SIZES = {"candidate": 24, "shared": 12, "external": 30, "epochs": 2, "batch": 16}
MLP = EncoderSpec(name="mlp", options={"width": 16, "depth": 1})
VIT = EncoderSpec(name="vit", options={"patch": 2, "width": 16, "depth": 1, "heads": 2})


def simclr() -> TrainSpec:
    return comparison.experiment("digits", "simclr", MLP, **SIZES)


def mae() -> TrainSpec:
    return comparison.experiment("digits", "mae", VIT, **SIZES)


# ---------------------------------------------------------------- designs
def test_the_grid_of_doses_holds_the_recipe_and_changes_crop_and_jitter_alone() -> None:
    base = simclr()
    design = policies.doses(base, [0.8, 0.08], [0.0, 0.1])
    assert [tuple(dose.values()) for dose, _ in design] == [(0.8, 0.0), (0.8, 0.1), (0.08, 0.0), (0.08, 0.1)]
    found = {tuple(dose.values()): view for dose, view in design}
    assert found[0.8, 0.1] == base.view, "its encoders are those of the recipe"
    assert found[0.08, 0.1] == base.view.but(crop_scale=(0.08, 1.0))
    still = found[0.8, 0.0]
    assert (still.jitter, still.brightness, still.contrast) == (0, 0, 0) and still.crop_ratio == base.view.crop_ratio
    assert not (still.saturation or still.hue)


def test_jitter_on_colour_images_follows_simclr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_colour", lambda base: True)
    base = simclr().but(view=views.named("simclr"))
    assert policies.dosed(base, 0.08, 0.4) == base.view
    strong = policies.dosed(base, 0.08, 0.8)
    assert (strong.brightness, strong.saturation, strong.hue, strong.grayscale) == (0.8, 0.8, 0.2, 0.2)


def test_corners_are_the_extreme_doses() -> None:
    design = policies.doses(simclr(), [0.8, 0.5, 0.08], [0.1, 0.4, 0.8])
    assert list(policies.corners(design)) == [f"crop {a}, jitter {b}" for a in (0.8, 0.08) for b in (0.1, 0.8)]
    assert policies.corners(design)["crop 0.08, jitter 0.8"] == design[-1][1]


def test_single_augmentations_differ_from_the_policy_in_one() -> None:
    base = simclr()
    found = {dose["policy"]: view for dose, view in policies.singles(base)}
    assert list(found) == [
        "as it is", "without crop", "without jitter", "with flip", "with vertical flip", "with blur",
    ]  # fmt: skip
    assert found["as it is"] == base.view
    assert found["without crop"].crop_scale == (1.0, 1.0) and found["without crop"].jitter == base.view.jitter
    assert found["with flip"] == base.view.but(flip=0.5)
    assert len({view.key() for view in found.values()}) == len(found)
    assert [dose["policy"] for dose, _ in policies.singles(base, ["with blur"])] == ["as it is", "with blur"]
    with pytest.raises(SpecError, match="one of without crop, .* found 'without hue'; use one of these"):
        policies.singles(base, ["without hue"])


def test_masks_vary_ratio_and_kind_one_at_a_time() -> None:
    design = policies.masks(mae(), [0.5, 0.75], ["block", "random", "grid"])
    kinds = [("random", 0.5), ("random", 0.75), ("block", 0.75), ("grid", 0.75)]
    assert [(dose["kind"], dose["mask"]) for dose, _ in design] == kinds
    assert [(view.mask_kind, view.mask) for _, view in design] == kinds
    assert {view.mask_patch for _, view in design} == {2}
    for _, view in design:  # 8 x 8 pixels are 4 x 4 patches of 2
        policies.check(mae(), view)


# ---------------------------------------------------------------- policies that do not fit
def test_a_policy_that_does_not_fit_is_one_sentence_with_the_remedy() -> None:
    base, masked = simclr(), mae()
    cases = [
        (base, views.named("weak"), "digits has grey images, .*saturation and hue and grayscale .* choose a dataset"),
        (base, base.view.but(grayscale=0.2), "grayscale would do nothing; set it to 0"),
        (base, base.view.but(mask=0.5, mask_patch=2), "mlp has none to hide; score a ViT with it, or set mask to 0"),
        (masked, masked.view.but(mask_patch=4), "must be the patch of the ViT, 2 pixels, found 4; change one"),
        (masked, masked.view.but(mask=0.01), "hides none of the 16 patches of digits; raise it"),
        (masked, masked.view.but(mask=0.99), "must leave a visible patch"),
        (base, base.view.but(blur=0.5, blur_kernel=21), "blur_kernel must be below 16 .* lower it"),
    ]
    for spec, view, message in cases:
        with pytest.raises(SpecError, match=message) as caught:
            policies.check(spec, view)
        assert str(caught.value).rstrip(".").count(". ") == 0
    odd = comparison.experiment("digits", "mae", VIT.but(options={**VIT.options, "patch": 3}), **SIZES)
    with pytest.raises(SpecError, match="must divide the view's sides 8 and 8, found 3; use a divisor"):
        policies.check(odd, odd.view)


def test_nothing_is_trained_when_one_policy_does_not_fit(tmp_path: Path) -> None:
    base, store = simclr(), Store(tmp_path)
    with pytest.raises(SpecError, match="grey"):
        policies.measure(base, policies.named(), [0], {"own": None}, store=store)
    with pytest.raises(SpecError, match="grey"):
        policies.measure(base, policies.singles(base), [0], {"strong": views.named("strong")}, store=store)
    assert not list(tmp_path.rglob("weights.safetensors"))


# ---------------------------------------------------------------- measurements
def test_each_cell_is_scored_under_each_policy(tmp_path: Path) -> None:
    base, store = simclr(), Store(tmp_path)
    design = policies.doses(base, [0.8, 0.08], [0.1])
    table = policies.measure(base, design, [0, 3], {"fixed": base.view, "own": None}, views=4, store=store)
    assert len(table) == 8 and table.groupby(["crop", "scored"])["seed"].apply(set).map({0, 3}.__eq__).all()
    wide = table.drop(columns="jitter").set_index(["crop", "scored", "seed"]).sort_index()
    assert wide.loc[(0.8, "fixed")].equals(wide.loc[(0.8, "own")]), "the recipe's own policy is the fixed one"
    assert not np.allclose(wide.loc[(0.08, "fixed"), "m_rel"], wide.loc[(0.08, "own"), "m_rel"])
    assert (wide.loc[(0.08, "fixed"), "loss"] == wide.loc[(0.08, "own"), "loss"]).all()
    assert (wide.loc[(0.08, "own"), "align"] > wide.loc[(0.08, "fixed"), "align"]).all(), "small crops differ more"

    strong = base.but(view=design[1][1])
    f, g = pairs.pair_specs(strong, 3)
    score = comparison.setting(strong, 4, base.view)
    of, images = [pairs.alignment(spec, score, store) for spec in (f, g)], data.load(base.dataset)
    one = scoring.score_table(*of, training.split_of(f), images.index, images.labels.numpy())
    row, sets = wide.loc[(0.08, "fixed", 3)], stats.scores_by_set(one)
    assert row["m_rel"] == pytest.approx(sets["candidate"].mean() - sets["external"].mean())
    assert row["auc"] == stats.auc(sets["candidate"], sets["external"])
    metrics = pd.read_parquet(training.train(f, store) / "metrics.parquet")
    assert row["loss"] == metrics["loss"].iloc[-1] and len(metrics) == SIZES["epochs"]


def test_cells_of_several_designs_share_their_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, store = simclr(), Store(tmp_path)
    how = {"seeds": [0], "scoring": {"fixed": base.view}, "views": 4, "store": store}
    first = policies.measure(base, policies.doses(base, [0.8], [0.1]), **how)
    monkeypatch.setattr(training, "train_all", lambda *_, **__: pytest.fail("trained again"))
    again = policies.measure(base, policies.singles(base, ["without crop"])[:1], **how)
    assert again["m_rel"].tolist() == first["m_rel"].tolist()


def test_masked_encoders_are_scored_at_the_patches_that_they_see(tmp_path: Path) -> None:
    base = mae()
    design = policies.masks(base, [0.5, 0.75], ["block"])
    table = policies.measure(base, design, [0], {"fixed": base.view, "own": None}, views=4, store=Store(tmp_path))
    assert len(table) == 6 and np.isfinite(table[["m_rel", "auc", "loss"]]).all().all()


# ---------------------------------------------------------------- what decides
def grid(of) -> pd.DataFrame:
    rows = [
        {"crop": crop, "jitter": jitter, "seed": seed, "m_rel": of(i, j, seed)}
        for i, crop in enumerate((0.8, 0.5, 0.08))
        for j, jitter in enumerate((0.0, 0.4))
        for seed in (0, 5)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


def test_slopes_are_the_change_from_the_weakest_to_the_strongest_dose() -> None:
    signs = {"crop": -1, "jitter": 1}
    found = policies.slopes(grid(lambda i, j, seed: seed - 0.2 * i / 2 - 0.2 * j), signs).set_index("seed")
    assert found.index.tolist() == [0, 5]
    np.testing.assert_allclose(found[["dose", "crop", "jitter"]], [[-0.4, -0.2, -0.2]] * 2, atol=1e-12)
    alone = policies.slopes(grid(lambda i, j, seed: -0.1 * i / 2), signs).iloc[0]
    assert alone["crop"] == pytest.approx(-0.1) and alone["jitter"] == pytest.approx(0, abs=1e-12)
    assert -0.1 < alone["dose"] < 0


def test_slopes_need_a_whole_grid_of_two_doses_or_more() -> None:
    whole = grid(lambda i, j, seed: i + j)
    with pytest.raises(DataError, match="two doses of jitter or more"):
        policies.slopes(whole[whole["jitter"] == 0], {"crop": -1, "jitter": 1})
    with pytest.raises(DataError, match="every seed needs every dose once"):
        policies.slopes(whole.iloc[1:], {"crop": -1, "jitter": 1})
    with pytest.raises(DataError, match="keep one scoring policy"):
        policies.slopes(pd.concat([whole, whole]), {"crop": -1, "jitter": 1})


def test_changes_are_paired_by_seed() -> None:
    table = pd.DataFrame(
        {"policy": ["b", "as it is", "a"] * 2, "seed": [1] * 3 + [0] * 3, "m_rel": [3.0, 1.0, 2.0, 30.0, 10.0, 20.0]}
    )
    found = policies.contrast(table, "policy", "as it is")
    assert found.set_index(["policy", "seed"])["change"].to_dict() == {
        ("b", 0): 20.0, ("b", 1): 2.0, ("a", 0): 10.0, ("a", 1): 1.0,
    }  # fmt: skip


def test_the_advantage_of_the_own_policy_is_that_of_the_diagonal() -> None:
    rows = [("x", "x", 0.8), ("x", "y", 0.6), ("y", "x", 0.5), ("y", "y", 0.6)]
    table = pd.DataFrame(rows, columns=["policy", "scored", "auc"])
    found = policies.own_advantage(pd.concat([table.assign(seed=0), table.assign(seed=1, auc=0.5)]))
    np.testing.assert_allclose(found["advantage"], [0.7 - 0.55, 0.0], atol=1e-12)


# ---------------------------------------------------------------- the figure
def test_dose_response_shows_every_dose_with_its_interval() -> None:
    rows = [
        {"dose": dose, "seed": seed, "m_rel": i + seed / 10, "series": name, "panel": panel}
        for i, dose in enumerate(("weak", "very strong"))
        for seed in range(3)
        for name in ("f", "g")
        for panel in ("one", "two")
    ]
    figure = figures.dose_response(pd.DataFrame(rows), "dose", reference=("chance", 0.5))
    text = figures.alt(figure)
    assert "one f 0.10 [-0.15, 0.35] at weak and 1.10 [0.85, 1.35] at very strong" in text and "chance 0.5" in text
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["weak", "very\nstrong"]
    low, high = figure.axes[0].get_ylim()
    assert low < -0.15 and high > 1.35, "intervals are inside the axes"
    svg = figures.to_svg(figure)
    assert "chance" in svg and svg == figures.to_svg(figure)


def test_dose_response_of_one_seed_is_hollow_and_numbers_stand_in_their_places() -> None:
    table = pd.DataFrame({"mask": [0.9, 0.25, 0.5], "seed": 0, "m_rel": [1.0, 2.0, 3.0]})
    figure = figures.dose_response(table, "mask")
    means = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert means[0].get_xdata().tolist() == [0.25, 0.5, 0.9] and means[0].get_markerfacecolor() == "none"
    assert "2 at 0.25 and 1 at 0.9" in figures.alt(figure)
