"""LayerMem: the score at every layer of an encoder, and how it changes with depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .. import comparison, data, encoders, pairs, stats
from ..encoders import LAYER, Encoder
from ..errors import SpecError
from ..specs import EncoderSpec, ScoreSpec, TrainSpec
from ..store import Store
from .activity import evaluating

PARTS = {"attn": "attention", "mlp": "MLP"}  # of a transformer block, in the order in which an image passes them


def encoder_of(text: str) -> EncoderSpec:
    """An encoder in words: its name, then options with their values, such as `mlp depth 6`; SpecError otherwise."""
    name, *rest = text.split() or [""]
    if len(rest) % 2:
        raise SpecError(f"an encoder is written as its name, options and values, mlp depth 6 say, found {text!r}.")
    options = dict(zip(rest[::2], (int(value) if value.isdecimal() else value for value in rest[1::2]), strict=True))
    found = EncoderSpec(name=name, options=options)
    encoders.options(found)  # names and types are checked now
    return found


def layers(spec: TrainSpec, names: Sequence[str] = ()) -> pd.DataFrame:
    """The layers of the encoder of a spec, in order of depth; nothing is trained.

    Columns: layer (its name), chain, number (from 1 in its chain), depth (in [0, 1] from the first to the last of its
    chain). Chain `blocks`: what `Encoder.layers` lists, residual additions included. Chain `parts`, of transformers
    only: the outputs of attention and of the MLP of every block, before they are added. `names` picks some of them, or
    other modules (chain `chosen`). SpecError with the nearest names for a layer that does not exist.
    """
    model = encoders.build(spec.encoder.but(weights=None), data.load(spec.dataset).shape)
    blocks = model.layers()
    known = model.modules_by_name()
    parts = [f"{block}.{part}" for block in blocks for part in PARTS if f"{block}.{part}" in known]
    chains = {"chosen": list(names)} if names else {"blocks": blocks, **({"parts": parts} if parts else {})}
    check(model, [name for chain in chains.values() for name in chain])
    rows = [
        {"layer": name, "chain": chain, "number": at + 1, "depth": at / max(1, len(found) - 1)}
        for chain, found in chains.items()
        for at, name in enumerate(found)
    ]
    return pd.DataFrame(rows)


def check(encoder: Encoder, names: Sequence[str]) -> None:
    """SpecError with the nearest names for a layer that does not exist or gives no vector an image."""
    device = next(encoder.parameters()).device
    with evaluating(encoder), torch.no_grad():
        encoder.activations(torch.zeros(1, *encoder.shape, device=device), names)


def chain_of(layer: str) -> str:
    """What a layer is of a block: `attention`, `MLP` or, for everything else, `block`."""
    return PARTS.get(layer.rpartition(".")[2], "block")


def scores(
    base: TrainSpec,
    seeds: Sequence[int],
    names: Sequence[str] = (),
    *,
    score: ScoreSpec | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """Score tables of the pairs of every seed at every layer, stacked; trains what is missing.

    One row an image, layer and seed: the columns of `pairs.scores` with `layer` in the place of `representation`.
    `score` says how they are aligned (default: `comparison.setting(base)`), at the layers of `layers(base, names)`.
    """
    wanted = layers(base, names)["layer"]
    score = score or comparison.setting(base)
    settings = [score.but(representation=LAYER + name) for name in wanted]
    table = pairs.scores(base, seeds, settings, store=store).rename(columns={"representation": "layer"})
    return table.assign(layer=table["layer"].str.removeprefix(LAYER))


def layermem(table: pd.DataFrame, order: pd.DataFrame) -> pd.DataFrame:
    """LayerMem of every layer and seed from the tables of `scores`; `order` is what `layers` returned.

    Columns: seed, those of `order`, raw: mean m_rel of the candidates (the paper's LayerMem), layermem: the same less
    the mean of the external images, delta: layermem less that of the layer before in its chain (NaN for the first),
    delta_raw likewise, auc (candidates against external), shared and independent (centred means).
    """
    found = stats.summary(table.rename(columns={"layer": "representation"})).rename(
        columns={"representation": "layer", "candidate": "layermem", "auc_external": "auc"}
    )
    raw = table[table["set"] == "candidate"].groupby(["seed", "layer"])["m_rel"].mean().rename("raw").reset_index()
    found = found[["seed", "layer", "layermem", "auc", "shared", "independent"]].merge(raw, on=["seed", "layer"])
    found = order.merge(found, on="layer").sort_values(["seed", "chain", "number"], ignore_index=True)
    before = found.groupby(["seed", "chain"], sort=False)
    return found.assign(delta=before["layermem"].diff(), delta_raw=before["raw"].diff())


def slopes(found: pd.DataFrame, chain: str = "blocks", value: str = "layermem") -> pd.DataFrame:
    """The slope of LayerMem in depth of every seed: the rise from the first layer to the last along a fitted line.

    Columns: seed, slope, last_less_first, layers. NaN for a chain of one layer.
    """
    rows = []
    for seed, part in found[found["chain"] == chain].groupby("seed"):
        x, y = part["depth"].to_numpy(float), part[value].to_numpy(float)
        slope = float(np.polyfit(x, y, 1)[0]) if len(part) > 1 else np.nan
        rows.append({"seed": seed, "slope": slope, "last_less_first": y[-1] - y[0], "layers": len(part)})
    return pd.DataFrame(rows)


def mlp_less_attention(found: pd.DataFrame, value: str = "layermem") -> pd.DataFrame:
    """How much more the MLPs of a transformer memorize than its attention: the mean over blocks, one row a seed.

    Columns: seed, attention, mlp, difference (MLP less attention). Empty for encoders without attention.
    """
    part = found[found["chain"] == "parts"]
    part = part.assign(kind=part["layer"].map(chain_of).str.lower())
    means = part.groupby(["seed", "kind"])[value].mean().unstack().reindex(columns=["attention", "mlp"])
    return means.assign(difference=means["mlp"] - means["attention"]).rename_axis(columns=None).reset_index()
