"""What test images lose, by how near the removed images were to them; no torch."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .. import stats


def by_gap(table: pd.DataFrame, parts: int = 10) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean loss in equal parts of the test images by gap, and one row a seed and arm that sums it up.

    `table` as made by `losses`, perhaps with a dataset. First: dataset (if given), arm, seed, part (percent of the test
    images with a smaller gap, at the part's middle), gap, loss (means). Second: dataset, arm, seed, rho (Spearman of
    gap and loss over the test images), near and far (mean loss where the most similar training image is gone, and
    where it is not; NaN where there is no such image), share (of images whose most similar one is gone).
    """
    stats.require(table, ["seed", "arm", "loss", "gap"])
    keys = [name for name in ("dataset", "arm", "seed") if name in table]
    rank = table.groupby(keys)["gap"].rank(method="first", pct=True)
    step = 100 / parts
    place = (np.ceil(rank * parts - 1e-9) - 0.5) * step
    curves = table.assign(part=place).groupby([*keys, "part"], sort=False)[["gap", "loss"]].mean().reset_index()
    rows = []
    for key, one in table.groupby(keys, sort=False):
        gone = one["gap"] > 0
        row = {"rho": stats.spearman(one["gap"], one["loss"]), "share": float(gone.mean())}
        row |= {"near": one.loc[gone, "loss"].mean(), "far": one.loc[~gone, "loss"].mean()}
        rows.append(dict(zip(keys, key, strict=True)) | row)
    return curves, pd.DataFrame(rows)


def contrast(table: pd.DataFrame, arm: str = "top", against: str = "random") -> pd.DataFrame:
    """What test images lose by one removal more than by another of equal size, against how much nearer it was to them.

    The rows of `losses`, with the arm "top - random", loss and gap as differences of the same test image's: what a
    smaller training set does to all images alike is not in them.
    """
    keys = [name for name in ("dataset", "seed", "image") if name in table]
    stats.require(table, [*keys, "arm", "loss", "gap"])
    one, other = (table[table["arm"] == name].set_index(keys)[["loss", "gap"]] for name in (arm, against))
    return (one - other).reset_index().assign(arm=f"{arm} - {against}")
