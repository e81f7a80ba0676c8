"""Layers and units: hand-computed UnitMem and ClassMem, hooks that change nothing, pruning, tuning, LayerMem."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sslmem_utils import comparison, data, pairs, probes, training, units
from sslmem_utils.errors import DataError, SpecError
from sslmem_utils.specs import EncoderSpec, TrainSpec
from sslmem_utils.store import Store

SIZES = {"shared": 30, "candidate": 30, "external": 40, "batch": 30, "epochs": 2}


def base(method: str = "simclr", encoder: str = "mlp", **options: object) -> TrainSpec:
    return comparison.experiment("digits", method, EncoderSpec(name=encoder, options=options), **SIZES)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_JOBS", "1")


def model_of(spec: TrainSpec) -> training.Training:
    """An untrained encoder whose running statistics are those of some real images."""
    model = pairs.untrained(spec)
    model.train()
    with torch.no_grad():
        model.encoder(data.load(spec.dataset).images[:200].float() / 255)
    return model.eval()


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---------------------------------------------------------------- the formulas
def test_a_unit_that_fires_for_one_image_only_has_unitmem_1() -> None:
    mu = np.zeros((7, 3))
    mu[4, 0], mu[2, 1], mu[:, 2] = 0.3, 1e-9, 5.0
    for rest in ("mean", "median"):
        found, at = units.unitmem(mu, rest)
        assert found.tolist() == [1.0, 1.0, 0.0] and at.tolist()[:2] == [4, 2], "equal for all is 0, not dead"


def test_unitmem_worked_out_by_hand() -> None:
    mu = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 1.0], [9.0, 4.0]])
    by_mean, at = units.unitmem(mu)
    assert at.tolist() == [3, 3]
    assert by_mean == pytest.approx([(9 - 2) / (9 + 2), (4 - 2 / 3) / (4 + 2 / 3)])
    by_median, _ = units.unitmem(mu, "median")
    assert by_median == pytest.approx([(9 - 2) / (9 + 2), (4 - 1) / (4 + 1)])
    mostly_silent = np.array([[0.0], [0.0], [0.0], [3.0], [3.0]])
    assert units.unitmem(mostly_silent, "median")[0] == [1.0] and units.unitmem(mostly_silent)[0] < 0.7
    assert units.unitmem(10 * mu)[0] == pytest.approx(by_mean), "the scale does not matter"


def test_dead_and_negative_units() -> None:
    mu = np.array([[0.0, -2.0, -3.0, -2.0, 4.0], [0.0, -2.0, -1.0, 6.0, 4.0], [0.0, -2.0, -3.0, -2.0, 0.0]])
    found, at = units.unitmem(mu)
    assert np.isnan(found[:2]).all(), "0 for all, or negative and equal for all: dead"
    assert found[2:4].tolist() == [1.0, 1.0] and at[2:4].tolist() == [1, 1], "shifted to a least activation of 0"
    assert found[4] == pytest.approx((4 - 2) / (4 + 2)) and at[4] == 0, "not shifted, and the first of equals"
    rng = np.random.default_rng(0)
    some = units.unitmem(rng.normal(size=(50, 200)))[0]
    assert (some >= 0).all() and (some <= 1).all()


def test_classmem_is_unitmem_of_class_means() -> None:
    mu = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [0.0, 1.0], [4.0, 0.0]])
    found, label = units.classmem(mu, np.array([7, 7, 2, 2, 5]))
    assert label.tolist() == [5, 2]
    assert found == pytest.approx([(4 - 1) / (4 + 1), 1.0]), "class means 2, 0, 4 and 0, 3, 0"


@pytest.mark.parametrize("mu", [np.ones((1, 3)), np.full((4, 2), np.nan)])
def test_too_little_to_compare_is_an_error(mu: np.ndarray) -> None:
    with pytest.raises(DataError, match="2 or more images"):
        units.unitmem(mu)
    with pytest.raises(SpecError, match="'mean' or 'median', found 'mode'"):
        units.unitmem(np.ones((3, 3)), "mode")


# ---------------------------------------------------------------- activations through hooks
def test_activity_is_the_mean_over_views_and_positions() -> None:
    spec = base(encoder="cnn", width=4)
    model, images = model_of(spec), data.load(spec.dataset)
    rows = np.array([5, 900, 17])
    clean = units.activity(model, images, rows, ["stages.1"], spec.view, views=0)["stages.1"]
    maps = model.encoder.stages[:2](model.encoder.normalised(images.rows(rows).float() / 255))
    assert clean == pytest.approx(maps.mean((2, 3)).detach().double().numpy(), abs=1e-6)
    many = units.activity(model, images, rows, ["stages.1"], spec.view, views=60)["stages.1"]
    few = units.activity(model, images, rows, ["stages.1"], spec.view, views=7)["stages.1"]
    assert not np.allclose(many, clean, atol=1e-4) and np.abs(many - few).max() < np.abs(many).max()
    again = units.activity(model, images, rows[::-1].copy(), ["stages.1"], spec.view, views=7)["stages.1"][::-1]
    assert again == pytest.approx(few, abs=1e-6), "views belong to images, not to their order"


def test_residual_additions_are_part_of_a_block() -> None:
    vit, shape = base("mae", "vit", patch=2, width=16, depth=2, heads=2), (1, 8, 8)
    model, images = pairs.untrained(vit), data.load(vit.dataset)
    names = ["body.blocks.0", "body.blocks.1", "body.blocks.1.attn", "body.blocks.1.mlp"]
    rows = np.arange(4)
    found = units.activity(model, images, rows, names, vit.view, views=3)
    assert images.shape == shape
    total = found["body.blocks.0"] + found["body.blocks.1.attn"] + found["body.blocks.1.mlp"]
    assert found["body.blocks.1"] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("training_mode", [True, False])
def test_measuring_leaves_the_model_as_it_was(training_mode: bool) -> None:
    spec = base(encoder="cnn", width=4)
    model, images = model_of(spec), data.load(spec.dataset)
    model.train(training_mode)
    model.encoder.stages[0].eval()
    before, modes = state_of(model), [module.training for module in model.modules()]
    names = model.encoder.layers()
    first = units.activity(model, images, np.arange(20), names, spec.view)
    with units.silenced(model.encoder, {names[0]: np.array([1])}):
        units.activity(model, images, np.arange(20), names, spec.view)
    units.as_published(model, images, np.arange(5), names, spec.view, views=2)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    for name, mu in units.activity(model, images, np.arange(20), names, spec.view).items():
        assert np.array_equal(mu, first[name])


def test_batch_norm_in_training_mode_measures_something_else() -> None:
    spec = base(encoder="cnn", width=8)
    model, images, rows = model_of(spec), data.load(spec.dataset), np.arange(40)
    right = units.activity(model, images, rows, ["stages.1"], spec.view)["stages.1"]
    wrong, drift = units.as_published(model, images, rows, ["stages.1"], spec.view)
    assert drift > 0.1 and not np.allclose(right, wrong["stages.1"], rtol=0.05)
    ratio = units.unitmem(right, "median")[0], units.unitmem(wrong["stages.1"], "median")[0]
    assert np.abs(ratio[0] - ratio[1]).max() > 0.05
    group = base(encoder="cnn", width=8, norm="group")
    with pytest.raises(SpecError, match="CNN has no batch norm on maps"):
        units.as_published(pairs.untrained(group), images, rows, ["stages.1"], spec.view)


# ---------------------------------------------------------------- layers
def test_layers_in_order_and_attention_apart() -> None:
    deep = units.layers(base(depth=5))
    assert list(deep["layer"]) == [f"blocks.{number}" for number in range(5)]
    assert list(deep["depth"]) == [0, 0.25, 0.5, 0.75, 1] and set(deep["chain"]) == {"blocks"}
    vit = units.layers(base("mae", "vit", patch=2, width=16, depth=2, heads=2))
    parts = vit[vit["chain"] == "parts"]
    assert list(parts["layer"]) == [f"body.blocks.{b}.{part}" for b in range(2) for part in ("attn", "mlp")]
    assert [units.chain_of(name) for name in parts["layer"]] == ["attention", "MLP"] * 2
    assert len(vit[vit["chain"] == "blocks"]) == 2
    with pytest.raises(SpecError, match=r"no layer 'block.1' to score; choose another one: blocks.\d") as found:
        units.layers(base(), ["block.1"])
    assert str(found.value).count(".") == str(found.value).count("blocks.") + 2, "one sentence"


def test_layermem_is_centred_and_delta_is_the_step(tmp_path: Path) -> None:
    spec, store = base(depth=3), Store(tmp_path)
    order, table = units.layers(spec), units.scores(spec, [0, 1], store=store)
    assert {"row", "label", "set", "seed", "layer", "m_rel"} <= set(table.columns)
    assert len(table) == 2 * 3 * 130
    found = units.layermem(table, order)
    assert list(found["layer"]) == ["blocks.0", "blocks.1", "blocks.2"] * 2
    part = table[(table["seed"] == 1) & (table["layer"] == "blocks.1")].groupby("set")["m_rel"].mean()
    row = found[(found["seed"] == 1) & (found["layer"] == "blocks.1")].iloc[0]
    assert row["layermem"] == pytest.approx(part["candidate"] - part["external"])
    assert row["raw"] == pytest.approx(part["candidate"])
    first = found[found["seed"] == 1]["layermem"].to_numpy()
    assert found[found["seed"] == 1]["delta"].tolist()[1:] == pytest.approx(np.diff(first).tolist())
    assert np.isnan(found["delta"][0])
    pooled = pairs.scores(spec, [0], [comparison.setting(spec)], store=store)
    last = table[(table["seed"] == 0) & (table["layer"] == "blocks.2")]
    same = pytest.approx(pooled["m_rel"].to_numpy(), abs=1e-6)  # differences of float32 alignments, batch norms folded
    assert last["m_rel"].to_numpy() == same, "the last layer is the representation"
    line = found.assign(layermem=0.1 + 0.3 * found["depth"] * (found["seed"] + 1))
    assert units.slopes(line)["slope"].tolist() == pytest.approx([0.3, 0.6])
    assert units.slopes(line)["last_less_first"].tolist() == pytest.approx([0.3, 0.6])


def test_encoders_written_as_text() -> None:
    assert units.encoder_of("mlp depth 6 norm layer") == EncoderSpec(name="mlp", options={"depth": 6, "norm": "layer"})
    assert units.encoder_of("resnet9") == EncoderSpec(name="resnet9")
    for text, words in (
        ("mlp 6", "mlp depth 6 say"),
        ("mlp deep 6", "no option 'deep'"),
        ("mpl", "did you mean 'mlp'"),
    ):
        with pytest.raises(SpecError, match=words):
            units.encoder_of(text)


def test_attention_beside_mlp() -> None:
    names = [f"body.blocks.{b}.{part}" for b in range(2) for part in ("attn", "mlp")]
    rows = [
        {"seed": seed, "chain": "parts", "layer": name, "layermem": 0.1 * at + seed}
        for seed in range(2)
        for at, name in enumerate(names)
    ]
    found = units.mlp_less_attention(pd.DataFrame(rows))
    assert found["difference"].tolist() == pytest.approx([0.1, 0.1]) and found["mlp"].tolist() == pytest.approx(
        [0.2, 1.2]
    )
    assert units.mlp_less_attention(pd.DataFrame(rows).assign(chain="blocks")).empty


def test_their_numbers_stand_beside_ours() -> None:
    table = units.theirs()
    resnet = table[table["encoder"].str.startswith("ResNet-9")]
    assert resnet["layermem"].iloc[[0, -1]].tolist() == [0.091, 0.308] and len(resnet) == 8
    attention = table[table["part"] == "attention"]
    assert len(attention) == 12 and attention["layermem"].iloc[-1] == 0.280
    ours = pd.DataFrame({"encoder": "mlp", "part": "blocks", "number": [1, 2, 1, 2], "raw": [0.1, 0.3, 0.2, 0.4]})
    found = units.beside(ours.assign(layermem=[0.0, 0.2, 0.0, 0.4]))
    assert found["whose"].tolist() == ["theirs"] * 5 + ["ours"]
    assert found.iloc[-1][["layers", "first", "last", "step", "centred"]].tolist() == pytest.approx(
        [2, 0.15, 0.35, 0.2, 0.3]
    )


# ---------------------------------------------------------------- tables of units
def test_units_of_an_encoder(tmp_path: Path) -> None:
    f, _ = pairs.pair_specs(base(width=32, depth=2), 0)
    store, split = Store(tmp_path), training.split_of(f)
    table = units.of(f, store=store)
    assert len(table) == 2 * 32 * 4 and set(table["images"]) == set(units.IMAGES)
    by = dict(list(table.groupby("images")))
    assert set(by["candidate"]["row"]) <= set(split.candidate) and set(by["candidate"]["set"]) == {"candidate"}
    assert set(by["external"]["row"]) <= set(split.external) and set(by["classes"]["row"]) == {-1}
    assert set(by["both"]["set"]) == {"candidate", "external"}
    assert table.loc[~table["dead"], ["unitmem", "unitmem_median"]].stack().between(0, 1).all()
    assert table.loc[table["dead"], "unitmem"].isna().all() and not table["negative"].any(), "behind a ReLU"
    model, given = training.load(f, store), training.inputs(f)
    mu = units.activity(model, given.images, split.candidate, ["blocks.1"], f.view)["blocks.1"]
    part = by["candidate"][by["candidate"]["layer"] == "blocks.1"]
    assert part["unitmem"].to_numpy() == pytest.approx(units.unitmem(mu)[0], nan_ok=True)
    found = units.by_layer(table).set_index(["layer", "images"])
    assert found.loc[("blocks.1", "candidate"), "in_candidates"] == 1
    assert found.loc[("blocks.1", "both"), "unitmem"] == pytest.approx(
        by["both"].loc[(by["both"]["layer"] == "blocks.1") & ~by["both"]["dead"], "unitmem"].mean()
    )
    ends = units.extremes(table, 3)
    assert not ends.duplicated(["layer", "row"]).any() and list(dict.fromkeys(ends["layer"])) == [
        "blocks.0",
        "blocks.1",
    ]
    assert ends.groupby("layer").size().tolist() == [6, 6]
    assert ends["unitmem"][0] == by["candidate"].loc[by["candidate"]["layer"] == "blocks.0", "unitmem"].max()
    before = units.of(f, untrained=True, store=store)
    assert not before["unitmem"].equals(table["unitmem"])
    fewer = units.of(f.but(split=f.split.but(external=20)), untrained=True, store=store)
    both = fewer[fewer["images"] == "both"].groupby("set")["row"].nunique()
    assert both["candidate"] <= 20 and both["external"] <= 20, "sets of one size"
    with pytest.raises(DataError, match="two external images and two candidates, found 1 and 30"):
        units.of(f.but(split=f.split.but(external=1)), untrained=True, store=store)


# ---------------------------------------------------------------- pruning
def test_the_units_to_prune() -> None:
    table = pd.DataFrame(
        {
            "layer": ["a"] * 4 + ["b"] * 4 + ["a"],
            "unit": [0, 1, 2, 3, 0, 1, 2, 3, 4],
            "images": "candidate",
            "unitmem": [0.1, 0.9, 0.5, 0.3, 0.2, 0.8, 0.95, 0.99, np.nan],
            "dead": [False] * 8 + [True],
        }
    )

    def text(*arguments: object) -> dict[str, list[int]]:
        return {layer: found.tolist() for layer, found in units.chosen(table, *arguments).items()}

    assert text("most", 0.25) == {"a": [1], "b": [3]} and text("least", 0.5) == {"a": [0, 3], "b": [0, 1]}
    assert text("most", 0.25, "total") == {"b": [2, 3]}
    assert text("random", 0.5, "total", 3) == text("random", 0.5, "total", 3)
    draws = [text("random", 0.5, "layer", seed) for seed in range(20)]
    assert {len(one["a"]) for one in draws} == {2} and len({str(one) for one in draws}) > 5
    with pytest.raises(SpecError, match="an arm of most, least, random, a share between 0 and 1"):
        units.chosen(table, "most", 1.0)


def test_what_cannot_be_measured_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", None)
    with pytest.raises(SpecError, match="found 'most', 1.5 and 'layer'"):
        units.pruned(base(width=16), shares=[1.5])
    with pytest.raises(SpecError, match="found 'most', 0.1 and 'block'"):
        units.pruned(base(width=16), scopes=["block"])
    with pytest.raises(SpecError, match="views must be 0 .* found -1"):
        units.of(base(width=16), views=-1)


def test_whole_units_are_switched_off() -> None:
    images = data.load(base().dataset).images[:6].float() / 255
    for spec, layer in ((base(encoder="cnn", width=4), "stages.1"), (base(width=16), "blocks.1"),
                        (base("mae", "vit", patch=2, width=16, depth=2, heads=2), "body.blocks.1")):  # fmt: skip
        encoder = pairs.untrained(spec).encoder
        plain = encoder.activations(images, [layer])[layer]
        maps = []
        with units.silenced(encoder, {layer: np.array([0, 3])}):
            hook = encoder.modules_by_name()[layer].register_forward_hook(lambda *given, to=maps: to.append(given[2]))
            encoder(images)
            hook.remove()
        units_last = maps[0].movedim(1, -1) if maps[0].dim() == 4 else maps[0]
        assert not units_last[..., [0, 3]].any(), "at every position, in every token"
        assert units_last[..., [1, 2]].any()
        assert torch.equal(encoder.activations(images, [layer])[layer], plain)
    with (
        pytest.raises(SpecError, match="ViT has no layer 'blocks.9' to score; .* body.blocks"),
        units.silenced(encoder, {"blocks.9": np.array([0])}),
    ):
        pass


def test_pruning_and_tuning_tables(tmp_path: Path) -> None:
    f, _ = pairs.pair_specs(base(width=32, depth=2), 0)
    store = Store(tmp_path)
    found = units.pruned(f, shares=[0.25], scopes=["layer"], fit=100, test=100, store=store)
    assert list(found["arm"]) == ["none", *units.ARMS]
    probed = probes.of(f, store, fit=100, test=100).iloc[0]
    assert found["linear"][0] == pytest.approx(probed["linear"]), "nothing is pruned there"
    assert found["units"].tolist()[0] == 0 and found["activation"].between(0, 1).all()
    alive = ~units.of(f, store=store).query("images == 'candidate'")["dead"]
    assert found["units"].tolist()[1:] == pytest.approx([0.25 * alive.sum()] * 3, abs=2)
    tuned = units.each("tuned", [f], fit=100, test=100, store=store)[0]
    assert list(tuned["tuned"]) == ["head", "blocks.0", "blocks.1", "all layers"]
    assert tuned["parameters"].tolist() == [0, 64 * 32 + 64, 32 * 32 + 64, 64 * 32 + 32 * 32 + 128]
    assert tuned["accuracy"].between(0.15, 1).all()


def test_measures_are_named() -> None:
    with pytest.raises(SpecError, match="one of of, pruned, tuned, found 'swapped'"):
        units.each("swapped", [])


def test_tuning_one_layer_changes_no_other(tmp_path: Path) -> None:
    f, _ = pairs.pair_specs(base(width=16, depth=3), 0)
    training.train(f, Store(tmp_path))
    model, images = training.load(f, Store(tmp_path)), probes.sample(f, 80, 80)
    before = state_of(model)
    tuned, head = units.tuned_model(model, ["blocks.1"], images)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "a copy is tuned"
    moved = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"encoder.blocks.1.{name}" for name in ("0.weight", "1.weight", "1.bias")}
    assert head.weight.shape == (10, 16)
    with pytest.raises(SpecError, match="MLP has no layer 'blocks.7' to score; .* blocks"):
        units.tuned_model(model, ["blocks.7"], images)
