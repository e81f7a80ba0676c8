"""Score tables: one row an image, with every form of the score and its errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ..errors import SpecError
from ..splits import Split
from .alignment import jackknife
from .estimators import mirrored, pair, ranged, relative_to_sum, replicated

COLUMNS = ["index", "label", "set", "align_f", "align_g", "m", "m_rel", "m_range", "se_views", "se_seeds", "z"]


def membership(split: Split, rows: np.ndarray) -> Bool[np.ndarray, "2 n"]:
    """Inclusion mask of f and g for `rows`: f saw shared and candidate, g shared and independent."""
    trained_on = split.rows("shared", "candidate"), split.rows("shared", "independent")
    return np.stack([np.isin(rows, members) for members in trained_on])


def score_table(f: pd.DataFrame, g: pd.DataFrame, split: Split, index: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Score every image of two alignment tables of the same images and views.

    index, labels: of the whole dataset, looked up by row. Columns as in COLUMNS plus `row`, `mirrored`, `half_0` and
    `half_1`: `m` raw (units of the distance); `m_rel` = (align_g - align_f) / (align_g + align_f), 0 where both are 0;
    `m_range`: m over its range in the scored set (the paper's normalisation, never for comparing encoders); `se_views`
    jackknife of m over the common views; `half_0`, `half_1`: m_rel from the even and from the odd views alone (NaN
    below four views), for reliability over views; `se_seeds` and `z` are empty with one pair: seed noise not measured.
    """
    return _table([f], [g], split, index, labels)


def replicated_table(
    fs: Sequence[pd.DataFrame], gs: Sequence[pd.DataFrame], split: Split, index: np.ndarray, labels: np.ndarray
) -> pd.DataFrame:
    """The same from R >= 2 encoders f and R encoders g of one split, which differ in their training seeds alone.

    `align_f` and `align_g` are means over the replicas, `se_seeds` is the standard error of m over them and `z` is
    m over the noise of one pair (`Estimate.z`).
    """
    if len(fs) != len(gs) or len(fs) < 2:
        raise SpecError(
            f"a replicated table needs R f's and R g's with R of at least 2, found {len(fs)} and {len(gs)}; "
            "train as many seeds of both."
        )
    return _table(fs, gs, split, index, labels)


def _table(
    fs: Sequence[pd.DataFrame], gs: Sequence[pd.DataFrame], split: Split, index: np.ndarray, labels: np.ndarray
) -> pd.DataFrame:
    first = fs[0]
    if any(not np.array_equal(first["row"], other["row"]) for other in (*fs, *gs)):
        raise SpecError("f and g must be aligned on the same images in the same order; align both on the same rows.")
    if any(list(first.columns) != list(other.columns) for other in (*fs, *gs)):
        raise SpecError("f and g must be aligned with equally many views; align both under the same setting.")
    rows = first["row"].to_numpy()
    a = np.stack([one["align"].to_numpy() for one in (*fs, *gs)])
    member = np.repeat(membership(split, rows), len(fs), axis=0)
    found = pair(a, member) if len(fs) == 1 else replicated(a, member)
    of_f, of_g = (_mean(tables, ["align", "half_0", "half_1"]) for tables in (fs, gs))
    without = [column for column in first.columns if column.startswith("without_")]
    names = split.names()
    table = pd.DataFrame(
        {
            "row": rows,
            "index": index[rows],
            "label": labels[rows],
            "set": [names.get(int(row), "") for row in rows],
            "align_f": of_f[:, 0],
            "align_g": of_g[:, 0],
            "m": found.score,
            "m_rel": relative_to_sum(of_g[:, 0], of_f[:, 0]),
            "m_range": ranged(found.score),
            "se_views": jackknife(_mean(gs, without) - _mean(fs, without)),
            "se_seeds": found.se,
            "z": found.z,
        }
    )
    table["mirrored"] = mirrored(a, member).score if (~member).all(0).any() else np.nan
    return table.assign(half_0=relative_to_sum(of_g[:, 1], of_f[:, 1]), half_1=relative_to_sum(of_g[:, 2], of_f[:, 2]))


def _mean(tables: Sequence[pd.DataFrame], columns: list[str]) -> np.ndarray:
    return sum(table[columns].to_numpy() for table in tables) / len(tables)
