"""Pruning by UnitMem: what an encoder is still good for without the units that memorize most, least, or at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from .. import probes, training
from ..encoders import Encoder
from ..errors import SpecError
from ..specs import TrainSpec, digest, seed_of
from ..store import Store
from ..versions import version_of
from .activity import VIEWS
from .depth import check
from .depth import layers as layers_of
from .selectivity import of

KIND = "prunings"
ARMS = ("most", "least", "random")  # units of highest or lowest UnitMem, or any
DRAWS = 2  # random choices, averaged
SCOPES = ("layer", "total")  # a share of every layer, or of all units together


@contextmanager
def silenced(encoder: Encoder, units: Mapping[str, Int64[np.ndarray, " _"]]) -> Iterator[None]:
    """The encoder with whole units switched off: their output is 0 at every position, token and view.

    `units`: numbers of units by layer. Weights are not touched, and all is as before afterwards. SpecError with the
    nearest names for a layer that does not exist.
    """
    check(encoder, list(units))
    known = encoder.modules_by_name()

    def hook(numbers: np.ndarray):
        off = torch.from_numpy(np.asarray(numbers, dtype=np.int64))

        def zeroed(_module: object, _inputs: object, out: Tensor) -> Tensor:
            size = out.shape[1 if out.dim() == 4 else -1]
            if len(off) and int(off.max()) >= size:
                raise SpecError(f"units are numbered from 0 to {size - 1} here, found {int(off.max())}; lower it.")
            keep = torch.ones(size, dtype=out.dtype, device=out.device)
            keep[off.to(out.device)] = 0
            return out * (keep[:, None, None] if out.dim() == 4 else keep)

        return zeroed

    hooks = [known[name].register_forward_hook(hook(numbers)) for name, numbers in units.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def chosen(
    table: pd.DataFrame, arm: str, share: float, scope: str = "layer", seed: int = 0
) -> dict[str, Int64[np.ndarray, " _"]]:
    """Numbers of the units to prune by layer: a share of each layer, or (`total`) of all layers together.

    `table`: rows of `of`; UnitMem on the candidates ranks them. Dead units are left in: pruning them changes nothing.
    """
    _allowed(arm, share, scope)
    alive = table[(table["images"] == "candidate") & ~table["dead"]].reset_index(drop=True)
    rng = np.random.default_rng(seed_of("prune", seed))
    rank = {"most": -alive["unitmem"], "least": alive["unitmem"], "random": pd.Series(rng.random(len(alive)))}[arm]
    groups = [part.index for _, part in alive.groupby("layer", sort=False)] if scope == "layer" else [alive.index]
    taken = [rank[group].sort_values(kind="stable").index[: round(share * len(group))] for group in groups]
    some = alive.loc[np.concatenate(taken)]
    return {layer: np.sort(part["unit"].to_numpy()) for layer, part in some.groupby("layer", sort=False)}


def _allowed(arm: str, share: float, scope: str) -> None:
    if arm not in ARMS or scope not in SCOPES or not 0 < share < 1:
        raise SpecError(
            f"pruning takes an arm of {', '.join(ARMS)}, a share between 0 and 1 and the scope layer or total, found "
            f"{arm!r}, {share!r} and {scope!r}; correct one."
        )


def pruned(
    spec: TrainSpec,
    names: Sequence[str] = (),
    *,
    shares: Sequence[float] = (0.1, 0.2),
    scopes: Sequence[str] = ("layer",),
    fit: int = probes.FIT,
    test: int = probes.TEST,
    views: int = VIEWS,
    store: Store | None = None,
) -> pd.DataFrame:
    """Accuracy of an encoder whose units of most, least or random UnitMem are switched off (paper: Table 6).

    One row an arm (`none` first), share and scope: knn, linear (probes fitted anew, as `probes.of`), units (switched
    off), activation: the share of all units' mean activation, in absolute value, that they carried. Random rows are
    means over DRAWS choices, which depend on the spec alone. `names`: layers (default: the chain `blocks`). Trains what
    is missing; the result is stored.
    """
    for share, scope in product(shares, scopes):  # said before anything is trained
        _allowed(ARMS[0], share, scope)
    store = store or Store()
    order = layers_of(spec, names)
    wanted = list(order.loc[order["chain"] != "parts", "layer"])
    encoder = training.key(spec, training.split_of(spec).fingerprint)
    settings = [list(shares), list(scopes), fit, test, views, DRAWS]
    name = digest(encoder, wanted, *settings, version_of("units", "views", "probes"))

    def write(folder: Path) -> None:
        images, table = probes.sample(spec, fit, test), of(spec, wanted, views=views, store=store)
        model = training.load(spec, store)
        rows = [{"arm": "none", "share": 0.0, "scope": "", **_probe(model, images, table, {})}]
        for scope, share, arm in product(scopes, shares, ARMS):
            draws = range(DRAWS if arm == "random" else 1)
            found = [chosen(table, arm, share, scope, seed_of(encoder, draw)) for draw in draws]
            each = pd.DataFrame([_probe(model, images, table, one) for one in found]).mean()
            rows.append({"arm": arm, "share": share, "scope": scope, **each})
        pd.DataFrame(rows).to_parquet(folder / "pruned.parquet", index=False)

    meta = {"encoder": encoder, "layers": wanted, "settings": settings}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / "pruned.parquet")


def _probe(model: torch.nn.Module, images: probes.Sample, table: pd.DataFrame, units: dict) -> dict[str, float]:
    part = table[table["images"] == "candidate"]
    off = np.zeros(len(part), dtype=bool)
    for layer, numbers in units.items():
        off |= ((part["layer"] == layer) & part["unit"].isin(numbers)).to_numpy()
    carried = part["mean"].abs()
    with silenced(model.encoder, units):
        found = probes.measure(model, images).iloc[0]
    accuracy = {what: float(found[what]) for what in ("knn", "linear")}
    return {**accuracy, "units": float(off.sum()), "activation": float(carried[off].sum() / carried.sum())}
