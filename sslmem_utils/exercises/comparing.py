"""Answers beside what they should be, by name where they have names: the order of rows and columns does not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .. import stats

Table = pd.DataFrame | pd.Series


def aligned(answer: object, wanted: Table) -> Table | str:
    """The answer in the order of `wanted`; or a hint, where its kind, its columns or its rows are others."""
    kind = "DataFrame" if isinstance(wanted, pd.DataFrame) else "Series"
    if not isinstance(answer, type(wanted)):
        return f"the answer should be a {kind}, found {type(answer).__name__}."
    if isinstance(wanted, pd.DataFrame):
        if missing := [name for name in wanted if name not in answer]:
            return f"the column {missing[0]!r} is missing."
        answer = answer[list(wanted)]
    if len(answer) != len(wanted) or not answer.index.is_unique or set(answer.index) != set(wanted.index):
        shown = ", ".join(map(str, wanted.index[:3]))
        return f"there should be {len(wanted)} rows, named {shown}{' and so on' if len(wanted) > 3 else ''}."
    try:
        return answer.reindex(wanted.index).astype(np.float64)
    except (TypeError, ValueError):
        return "the answer should hold numbers only."


def near(answer: object, wanted: object, relative: float = 0.005) -> bool:
    """Are all numbers within this share of the wanted ones? NaN agrees with NaN, infinity with infinity."""
    try:
        a, b = (np.asarray(one, dtype=np.float64) for one in (answer, wanted))
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=relative, atol=1e-9, equal_nan=True))


def numbers(answer: object, count: int) -> list[float] | str:
    """The answer as so many numbers; or a hint."""
    one = "one number" if count == 1 else f"{count} numbers in brackets"
    try:
        found = np.atleast_1d(np.asarray(answer, dtype=np.float64)).ravel().tolist()
    except (TypeError, ValueError):
        return f"the answer should be {one}."
    return found if len(found) == count else f"the answer should be {one}, found {len(found)}."


def word(answer: object, known: Sequence[str]) -> str | None:
    """A hint where the answer is none of the words that are asked for."""
    return None if answer in known else f"the answer should be one of {', '.join(map(repr, known))}."


def half_width(values: pd.Series) -> float:
    """Half the width of the 95 % interval of a mean, one value a replication."""
    found = stats.interval(values)
    return (found.high - found.low) / 2
