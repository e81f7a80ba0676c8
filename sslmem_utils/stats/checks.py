"""What the statistics accept: finite numbers, equal lengths, tables with the columns they need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError

Floats = NDArray[np.float64]
Number = float | int


def finite(values: ArrayLike, name: str) -> Floats:
    """The values as a flat float64 array; raises DataError when there are none or one is not finite."""
    try:
        array = np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise DataError(f"{name} must be numbers, found text or other values; write the table anew.") from None
    if array.size == 0:
        raise DataError(f"{name} need at least one number, found none; check the sets and seeds of the table.")
    if bad := int((~np.isfinite(array)).sum()):
        raise DataError(f"{name} must be finite, found {bad} of {array.size} that are not; recompute these rows.")
    return array


def matched(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Two such arrays of equal length."""
    first, second = finite(a, "a"), finite(b, "b")
    if first.size != second.size:
        raise DataError(f"both sides must hold the same rows, found {first.size} and {second.size}; match them first.")
    return first, second


def require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise DataError unless the table has rows and these columns."""
    if missing := [name for name in columns if name not in table]:
        found = ", ".join(map(str, table.columns))
        raise DataError(f"the table needs the columns {', '.join(missing)}, found {found}; pass another table.")
    if table.empty:
        raise DataError("the table needs at least one row, found none; check the filter before it.")


def keyed(table: pd.DataFrame, value: str) -> tuple[pd.DataFrame, list[str]]:
    """The table with a seed column, and the columns that name one replication."""
    require(table, ["set", value])
    finite(table[value], value)
    table = table if "seed" in table else table.assign(seed=0)
    return table, [name for name in ("representation", "seed") if name in table]
