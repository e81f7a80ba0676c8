"""Score tables by set: means, separation and symmetry of each replication, and the images' mean scores over them."""

from __future__ import annotations

import math

import pandas as pd

from ..errors import DataError
from ..specs import SETS
from .checks import Floats, keyed, require
from .effects import auc, cohens_d

ASYMMETRY_LIMIT = 0.25  # share of mean(S_C) - mean(S_E) that |C + I - 2E| may reach (notebook 03, primary endpoint)


def scores_by_set(table: pd.DataFrame, value: str = "m_rel") -> dict[str, Floats]:
    """The scores of each set in the canonical order; several seeds are pooled, so for description only."""
    require(table, ["set", value])
    groups = dict(list(table.groupby("set", observed=True)[value]))
    return {name: groups[name].to_numpy(float) for name in SETS if name in groups}


def set_means(table: pd.DataFrame, value: str = "m_rel") -> pd.DataFrame:
    """Mean of each set per replication, raw and centred: `centred` = mean(S) - mean(S_E), 0 for external.

    Columns: representation (if given), seed, set, n, mean, centred. A global offset between f and g shows on S_E and is
    removed by centring. Raises DataError when a replication has no external images.
    """
    table, keys = keyed(table, value)
    means = table.groupby([*keys, "set"], observed=True, sort=False)[value].agg(n="size", mean="mean").reset_index()
    zero = means["mean"].where(means["set"] == "external").groupby([means[name] for name in keys]).transform("first")
    if zero.isna().any():
        raise DataError("set means are centred on the external set, found a replication without it; score S_E as well.")
    means["centred"] = means["mean"] - zero
    means["set"] = pd.Categorical(means["set"], SETS)  # sorts in the canonical order
    return means.sort_values([*keys, "set"], ignore_index=True).astype({"set": str})


def summary(table: pd.DataFrame, value: str = "m_rel") -> pd.DataFrame:
    """One row per replication (and representation): centred set means, AUC, Cohen's d and the mirror symmetry.

    `candidate`, `independent`, `shared`: centred means. `auc_x`, `d_x`: candidates against set x. `asymmetry` is
    |C + I - 2E|, `asymmetry_limit` .25 (C - E); `symmetry` = limit - asymmetry is positive when the mirror holds.
    A set that the table lacks gives NaN.
    """
    table, keys = keyed(table, value)
    means = set_means(table, value).pivot(index=keys, columns="set", values="centred").reindex(columns=list(SETS))
    rows = []
    for key, part in table.groupby(keys, observed=True):
        scores, centred = scores_by_set(part, value), means.loc[key if len(keys) > 1 else key[0]]
        row = dict(zip(keys, key, strict=True)) | {name: float(centred[name]) for name in SETS if name != "external"}
        for name in ("external", "shared", "independent"):
            both = (scores["candidate"], scores[name]) if {"candidate", name} <= set(scores) else None
            row[f"auc_{name}"] = auc(*both) if both else math.nan
            row[f"d_{name}"] = cohens_d(*both) if both else math.nan
        row["asymmetry"] = abs(row["candidate"] + row["independent"])
        row["asymmetry_limit"] = ASYMMETRY_LIMIT * row["candidate"]
        rows.append({**row, "symmetry": row["asymmetry_limit"] - row["asymmetry"]})
    return pd.DataFrame(rows)


def replications(table: pd.DataFrame, column: str = "m_rel") -> pd.DataFrame:
    """Every score that counts as one measurement of an image's memorization, one row a seed and image.

    Candidates as they are and independents with the sign turned (there the roles of f and g are swapped), both centred
    on the external images of their seed, so that a global offset between f and g does not tell the halves apart.
    Columns: those of `table` plus `score`, and `top`: is it in the top decile of its seed?
    """
    keys = [name for name in ("dataset", "representation", "seed") if name in table]
    zero = table[column].where(table["set"] == "external").groupby([table[name] for name in keys]).transform("mean")
    sign = table["set"].map({"candidate": 1.0, "independent": -1.0})
    measured = table.assign(score=(table[column] - zero) * sign).dropna(subset="score")
    share = measured.groupby(keys)["score"].rank(pct=True)
    return measured.assign(top=share > 0.9).reset_index(drop=True)


def ranking(table: pd.DataFrame, column: str = "m_rel") -> pd.DataFrame:
    """Mean score of every image over the seeds that measured it (`replications`), the highest first.

    Columns: row, index, label, n (measurements), score, se (over seeds; NaN when n = 1), p_top: the share of its
    measurements in which it was in the top decile.
    """
    grouped = replications(table, column).groupby(["row", "index", "label"])
    out = grouped.agg(n=("score", "size"), score=("score", "mean"), se=("score", "sem"), p_top=("top", "mean"))
    return out.reset_index().sort_values("score", ascending=False, ignore_index=True)
