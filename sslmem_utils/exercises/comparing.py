"""Answers beside what they should be, by name where they have names: the order of rows and columns does not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .. import stats

Table = pd.DataFrame | pd.Series


class Hint(Exception):
    """Says in one sentence what is not right with an answer."""


def aligned(answer: object, wanted: Table) -> Table:
    """The answer in the order of `wanted`; Hint where its kind, its columns or its rows are others."""
    kind = "DataFrame" if isinstance(wanted, pd.DataFrame) else "Series"
    if not isinstance(answer, type(wanted)):
        raise Hint(f"the answer should be a {kind}, found {type(answer).__name__}.")
    if isinstance(wanted, pd.DataFrame):
        if missing := [name for name in wanted if name not in answer]:
            raise Hint(f"the column {missing[0]!r} is missing.")
        answer = answer[list(wanted)]
    if len(answer) != len(wanted) or not answer.index.is_unique or set(answer.index) != set(wanted.index):
        shown = ", ".join(map(str, wanted.index[:3]))
        raise Hint(f"there should be {len(wanted)} rows, named {shown}{' and so on' if len(wanted) > 3 else ''}.")
    try:
        return answer.reindex(wanted.index).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise Hint("the answer should hold numbers only.") from error


def near(answer: object, wanted: object, relative: float = 0.005) -> bool:
    """Are all numbers within this share of the wanted ones? NaN agrees with NaN, infinity with infinity."""
    try:
        a, b = (np.asarray(one, dtype=np.float64) for one in (answer, wanted))
    except (TypeError, ValueError):
        return False
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=relative, atol=1e-9, equal_nan=True))


def numbers(answer: object, count: int) -> list[float]:
    """The answer as so many numbers; Hint where it is something else."""
    one = "one number" if count == 1 else f"{count} numbers in brackets"
    try:
        found = np.atleast_1d(np.asarray(answer, dtype=np.float64)).ravel().tolist()
    except (TypeError, ValueError) as error:
        raise Hint(f"the answer should be {one}.") from error
    if len(found) != count:
        raise Hint(f"the answer should be {one}, found {len(found)}.")
    return found


def one_of(answer: object, words: Sequence[str]) -> None:
    """Hint where the answer is none of the words that are asked for."""
    if answer not in words:
        raise Hint(f"the answer should be one of {', '.join(map(repr, words))}.")


def half_width(values: pd.Series) -> float:
    """Half the width of the 95 % interval of a mean, one value a replication."""
    found = stats.interval(values)
    return (found.high - found.low) / 2
