"""UnitMem and ClassMem: how much a unit prefers one image, or one class, to all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64, Shaped

from .. import pairs, stats, training
from ..errors import DataError, SpecError
from ..methods import Method
from ..specs import TrainSpec, digest, seed_of
from ..splits import Split, shuffle_keys
from ..store import Store
from ..versions import version_of
from .activity import VIEWS, activity, as_published, check_views
from .depth import layers as layers_of

KIND = "units"  # of artifacts
MOST = 1000  # images of a set
IMAGES = ("candidate", "external", "both", "classes")  # what the units of `of` are measured on


def unitmem(
    mu: Float64[np.ndarray, "n u"], rest: str = "mean"
) -> tuple[Float64[np.ndarray, " u"], Int64[np.ndarray, " u"]]:
    """UnitMem of u units from their mean activations for n images, and the position of each one's strongest image.

    (top - rest) / (top + rest) in [0, 1], where top is the largest activation and rest the `mean` of the others (arXiv
    2409.19069, Eqs. 6 to 8) or their `median` (the released code). Two cases that the formula leaves open:

    - A *negative* unit (some activation below 0) is shifted so that its least activation is 0, or the ratio would leave
      [0, 1]. All other units are taken as they are.
    - A *dead* unit, 0 for every image (after the shift: equal for every image), has NaN: 0 / 0. A unit that is equal
      and positive for all images is not dead and has 0.

    The first of several equally strong images is taken. DataError for fewer than two images.
    """
    if len(mu) < 2 or not np.isfinite(mu).all():
        raise DataError(f"UnitMem compares finite activations for 2 or more images, found {len(mu)} images; give more.")
    if rest not in ("mean", "median"):
        raise SpecError(f"rest must be 'mean' or 'median', found {rest!r}; choose one of them.")
    shifted = mu - np.minimum(mu.min(0), 0)
    at = shifted.argmax(0)
    top = shifted.max(0)
    others = shifted.copy()
    others[at, np.arange(mu.shape[1])] = np.nan
    other = np.nanmean(others, 0) if rest == "mean" else np.nanmedian(others, 0)
    total = top + other
    return np.divide(top - other, total, out=np.full_like(total, np.nan), where=total > 0), at


def dead(mu: Float64[np.ndarray, "n u"]) -> Bool[np.ndarray, " u"]:
    """Units whose UnitMem is not defined: 0 for every image, or negative and equal for every image."""
    return (mu.max(0) == mu.min(0)) & (mu.max(0) <= 0)


def classmem(
    mu: Float64[np.ndarray, "n u"], labels: Shaped[np.ndarray, " n"], rest: str = "mean"
) -> tuple[Float64[np.ndarray, " u"], Shaped[np.ndarray, " u"]]:
    """ClassMem (Eqs. 13 to 16): the ratio of `unitmem` with mean activations of classes in the place of images.

    Returns it with the label of each unit's strongest class. DataError for fewer than two classes.
    """
    names = np.unique(labels)
    found, at = unitmem(np.stack([mu[labels == name].mean(0) for name in names]), rest)
    return found, names[at]


def of(
    spec: TrainSpec,
    names: Sequence[str] = (),
    *,
    views: int = VIEWS,
    untrained: bool = False,
    store: Store | None = None,
) -> pd.DataFrame:
    """UnitMem of every unit of the layers of an encoder (`layers(spec, names)`), which is trained first if need be.

    One row a unit and one of IMAGES: candidates of its split, as many external images, both together, and classes
    (ClassMem, on the images that it trains on, without augmentation; left out where images have no labels). Columns:
    layer, unit, images, unitmem, unitmem_median, dead, negative, mean (activation), row, label and set of the strongest
    image (row -1 for classes). `untrained`: the encoder before its first step. The result is stored.
    """
    check_views(views)
    store, wanted = store or Store(), list(layers_of(spec, names)["layer"])
    encoder = training.key(spec, training.split_of(spec).fingerprint)
    name = digest(encoder, wanted, views, untrained, MOST, version_of("units", "views"))

    def write(folder: Path) -> None:
        given = training.inputs(spec)
        if not untrained:
            training.train(spec, store)
        torch.set_num_threads(spec.compute.threads)
        model = pairs.untrained(spec) if untrained else training.load(spec, store)
        _table(model, spec, given, wanted, views).to_parquet(folder / "units.parquet", index=False)

    meta = {"encoder": encoder, "layers": wanted, "views": views, "untrained": untrained}
    return pd.read_parquet(store.compute(KIND, name, write, meta) / "units.parquet")


def compared(split: Split) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Candidates and external images, equally many of both: all of the smaller set, but MOST at most, drawn at random.

    UnitMem depends on the number of images, so that only sets of one size can be compared. DataError below two.
    """
    count = min(len(split.candidate), len(split.external), MOST)
    if count < 2:
        raise DataError(
            f"UnitMem's control needs two external images and two candidates, found {len(split.external)} and "
            f"{len(split.candidate)}; raise `external` and `candidate`."
        )

    def some(rows: np.ndarray) -> np.ndarray:
        order = np.argsort(shuffle_keys(seed_of("unit control", split.fingerprint), rows), kind="stable")
        return np.sort(rows[order[:count]])

    return some(split.candidate), some(split.external)


def _table(model: Method, spec: TrainSpec, given: training.Inputs, wanted: Sequence[str], views: int) -> pd.DataFrame:
    images, labels, rows = given.images, given.images.labels.numpy(), np.concatenate(compared(given.split))
    count = len(rows) // 2
    found = activity(model, images, rows, wanted, spec.view, views=views)
    parts = []
    for layer, mu in found.items():
        for what, these in zip(IMAGES[:3], (slice(count), slice(count, None), slice(None)), strict=True):
            part = _row_a_unit(mu[these]).assign(layer=layer, images=what)
            at = rows[these][part.pop("at").to_numpy()]
            sets = np.where(np.isin(at, given.split.candidate), "candidate", "external")
            parts.append(part.assign(row=at, label=labels[at], set=sets))
    if len(np.unique(labels[given.rows])) > 1 and labels[given.rows].min() >= 0:
        clean, names = activity(model, images, given.rows, wanted, spec.view, views=0), labels[given.rows]
        for layer, mu in clean.items():
            classes = np.unique(names)
            part = _row_a_unit(np.stack([mu[names == one].mean(0) for one in classes]))
            best = classes[part.pop("at").to_numpy()]
            parts.append(part.assign(layer=layer, images="classes", row=-1, label=best, set=""))
    columns = ["layer", "unit", "images", "unitmem", "unitmem_median", "dead", "negative", "mean", "row", "label"]
    return pd.concat(parts, ignore_index=True)[[*columns, "set"]]


def _row_a_unit(mu: np.ndarray) -> pd.DataFrame:
    by_mean, at = unitmem(mu)
    by_median = unitmem(mu, "median")[0]
    columns = {"unitmem": by_mean, "unitmem_median": by_median, "dead": dead(mu), "negative": mu.min(0) < 0}
    return pd.DataFrame({"unit": np.arange(mu.shape[1]), **columns, "mean": mu.mean(0), "at": at})


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """The units of `of` by layer and images: means over units that are not dead.

    Columns: layer, images, units, unitmem, unitmem_median, dead and negative (shares of all units), in_candidates: the
    share of units whose strongest image is a candidate, 0.5 by chance for `both`, whose halves are equally large.
    """
    rows = []
    for (layer, images), part in table.groupby(["layer", "images"], sort=False):
        alive = part[~part["dead"]]
        row = {"layer": layer, "images": images, "units": len(part)}
        row |= {name: float(alive[name].mean()) for name in ("unitmem", "unitmem_median")}
        row |= {name: float(part[name].mean()) for name in ("dead", "negative")}
        rows.append({**row, "in_candidates": float((alive["set"] == "candidate").mean())})
    return pd.DataFrame(rows)


def extremes(table: pd.DataFrame, count: int = 8) -> pd.DataFrame:
    """The `count` units of highest and of lowest UnitMem of each layer, with the candidate that each fires for most.

    `table`: rows of `of`. Only one unit an image and layer, the one of highest UnitMem, so that pictures differ.
    """
    part = table[(table["images"] == "candidate") & ~table["dead"]]
    part = part.sort_values(["unitmem", "unit"], ascending=[False, True], kind="stable")
    by = part.drop_duplicates(["layer", "row"]).groupby("layer", sort=False)
    both = pd.concat([by.head(count), by.tail(count)])
    both = both[~both.index.duplicated()]
    order = {layer: at for at, layer in enumerate(dict.fromkeys(table["layer"]))}
    both = both.assign(at=both["layer"].map(order)).sort_values(["at", "unitmem"], ascending=[True, False])
    return both.drop(columns="at").reset_index(drop=True)


def warning(
    spec: TrainSpec, names: Sequence[str] = (), *, count: int = 50, views: int = VIEWS, store: Store | None = None
) -> pd.DataFrame:
    """UnitMem of an encoder beside what the released code would say of it (`as_published`), one row a layer.

    Columns: layer, right and as_published (mean UnitMem over units that are not dead), rho (Spearman between the two
    over units), drift (`as_published`). On the first `count` candidates.
    """
    wanted, store = list(layers_of(spec, names)["layer"]), store or Store()
    training.train(spec, store)
    torch.set_num_threads(spec.compute.threads)
    model, given = training.load(spec, store), training.inputs(spec)
    some = given.split.candidate[:count]
    right = activity(model, given.images, some, wanted, spec.view, views=views)
    wrong, drift = as_published(model, given.images, some, wanted, spec.view, views=views)
    rows = []
    for layer in wanted:
        both = np.stack([unitmem(found[layer], "median")[0] for found in (right, wrong)])
        alive = both[:, np.isfinite(both).all(0)]
        means = dict(zip(("right", "as_published"), np.nanmean(both, 1), strict=True))
        rows.append({"layer": layer, **means, "rho": stats.spearman(*alive), "drift": drift})
    return pd.DataFrame(rows)
