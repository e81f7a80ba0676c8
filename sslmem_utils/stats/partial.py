"""Partial correlations over cells of an experiment, with intervals over its replications."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import DataError
from .checks import Floats, require
from .intervals import Interval, interval


def partial_correlation(
    table: pd.DataFrame, x: str, y: str, given: Sequence[str] = (), *, within: Sequence[str] = ("seed",)
) -> Interval:
    """Correlation of the columns x and y of the cells of an experiment, what `given` explains linearly taken out.

    Every column is first centred in each replication (groups of `within`), so that seeds or datasets that are better in
    all respects make no correlation, then divided by its spread there. `mean` is the estimate over all cells; the
    interval is that of a jackknife over replications of Fisher's z (t with n - 1 degrees of freedom), NaN below three
    replications. Raises DataError for fewer cells than columns leave free, or a column without any change.
    """
    columns = [x, y, *given]
    require(table, [*columns, *within])
    groups = table.groupby(list(within), sort=False).ngroup().to_numpy()
    values = table[columns].to_numpy(dtype=np.float64)
    count = len(np.unique(groups))
    if len(values) - count <= len(columns) or not np.isfinite(values).all():
        raise DataError(
            f"a partial correlation of {len(columns)} columns needs more than {len(columns) + count} finite cells of "
            f"{count} replications, found {len(values)}; add doses or take columns out."
        )
    found = _correlation(values, groups)
    if math.isnan(found):
        raise DataError(f"a partial correlation needs {x} and {y} to change within replications; add doses.")
    if count < 3:
        return Interval(count, found, math.nan, math.nan, math.nan)
    z, parts = _fisher(found), []
    for one in np.unique(groups):
        left = _correlation(values[groups != one], groups[groups != one])
        parts.append(count * z - (count - 1) * _fisher(left))
    around = interval(parts)
    return Interval(count, found, around.sd, math.tanh(around.low), math.tanh(around.high))


def _fisher(rho: float) -> float:
    return math.atanh(min(max(rho, -1 + 1e-9), 1 - 1e-9))


def _correlation(values: Floats, groups: np.ndarray) -> float:
    """Of the first two columns, both without what the others explain; NaN when one of them has no spread left."""
    frame = pd.DataFrame(values)
    centred = (frame - frame.groupby(groups).transform("mean")).to_numpy()
    spread = np.sqrt((centred**2).mean(0))
    if not (spread[:2] > 1e-12).all():
        return math.nan
    centred = centred / np.where(spread > 1e-12, spread, 1.0)
    both, rest = centred[:, :2], centred[:, 2:]
    left = both - rest @ np.linalg.lstsq(rest, both, rcond=None)[0] if rest.shape[1] else both
    size = np.sqrt((left**2).sum(0))
    return float(left[:, 0] @ left[:, 1] / (size[0] * size[1])) if (size > 1e-9).all() else math.nan
