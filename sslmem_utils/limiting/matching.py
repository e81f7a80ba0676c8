"""Arms compared with each other, and the geometry of representations; no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from .. import stats
from ..errors import DataError

NONE, EVERY, MOST, RANDOM = "none", "all points", "most memorized", "random"  # arms


def uniformity(z: Float[np.ndarray, "n d"]) -> float:
    """log of the mean of exp(-2 ||z_i - z_j||^2) over pairs of L2-normalised rows (arXiv 2005.10242, t = 2).

    0 when all are one point; the lower, the more evenly they fill the sphere.
    """
    from scipy.spatial.distance import pdist

    unit = z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    return float(np.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean()))


def rankme(z: Float[np.ndarray, "n d"]) -> float:
    """Effective rank of the representations: exp of the entropy of the singular values (arXiv 2210.02885).

    Between 1 and the smaller of n and d; every share of a singular value in their sum gets 1e-7 added, as there.
    """
    values = np.linalg.svd(np.asarray(z, dtype=np.float64), compute_uv=False)
    shares = values / max(values.sum(), 1e-300) + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def changes(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of `measure` as changes from the seed's "none"; every other arm starts with a row of limit 0.

    What seeds differ in before anything is limited is no longer in it. Raises DataError for a seed without "none".
    """
    keys = [name for name in ("dataset", "seed") if name in table]
    stats.require(table, [*keys, "arm", "limit", *columns])
    zero = table[table["arm"] == NONE].set_index(keys)[list(columns)]
    rest = table[table["arm"] != NONE]
    at = pd.MultiIndex.from_frame(rest[keys]) if len(keys) > 1 else pd.Index(rest[keys[0]])
    if not at.isin(zero.index).all():
        raise DataError(f"changes are from the arm {NONE!r}, found a seed without; measure it.")
    moved = rest.assign(**{name: rest[name].to_numpy() - zero.loc[at, name].to_numpy() for name in columns})
    start = moved.drop_duplicates([*keys, "arm"]).assign(limit=0.0, **dict.fromkeys(columns, 0.0))
    return pd.concat([start, moved])[[*keys, "arm", "limit", *columns]].reset_index(drop=True)


def matched(table: pd.DataFrame, value: str = "linear", at: str = "align_external") -> pd.DataFrame:
    """Random minus most memorized: what `value` is in the two arms where both have the same `at`.

    For every replication and every limit of "most memorized", `value` of "random" is read off the line through its own
    limits and "none", at the same `at`; beyond their ends the last piece of the line goes on. Columns: dataset (if
    given), seed, limit, at, most, random, difference. Raises DataError without both arms and "none".
    """
    stats.require(table, ["seed", "arm", "limit", value, at])
    keys, rows = [name for name in ("dataset", "seed") if name in table], []
    for key, part in table.groupby(keys, sort=False):
        line = part[part["arm"].isin([NONE, RANDOM])].sort_values(at)
        most = part[part["arm"] == MOST]
        if len(most) == 0 or line["arm"].nunique() < 2 or np.ptp(line[at]) == 0:
            raise DataError(
                f"matching needs the arms {NONE!r}, {MOST!r} and {RANDOM!r} with different {at}, found "
                f"{', '.join(part['arm'].unique())}; measure them all."
            )
        for one in most.to_dict("records"):
            there = _on_line(line[at].to_numpy(), line[value].to_numpy(), one[at])
            row = {"limit": one["limit"], "at": one[at], "most": one[value], "random": there}
            rows.append(dict(zip(keys, key, strict=True)) | row | {"difference": there - one[value]})
    return pd.DataFrame(rows)


def _on_line(x: Float[np.ndarray, " p"], y: Float[np.ndarray, " p"], at: float) -> float:
    """The polygon through (x, y), x rising, at one place; its first and last piece go on for ever."""
    keep = np.concatenate([[True], np.diff(x) > 0])
    x, y = x[keep], y[keep]
    piece = int(np.clip(np.searchsorted(x, at) - 1, 0, len(x) - 2))
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return float(y[piece] + slope * (at - x[piece]))
