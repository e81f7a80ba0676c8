"""Paired differences between arms, and what differences so many seeds can find; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from .. import stats
from ..errors import DataError, SpecError
from ..stats import Number
from .designs import NOTHING

KEYS = ("dataset", "design", "fraction", "epochs", "seed", "retraining")  # what two encoders must share to be paired
POINTS = 100.0  # percentage points of accuracy


def effects(table: pd.DataFrame, probe: str = "linear", against: str = "random") -> pd.DataFrame:
    """Every arm minus the arm `against`, paired by seed and retraining, then averaged over the retrainings.

    `table` as made by `measure`; `against` may be "none", where nothing was removed, whatever the fraction of the
    others. Columns: those of KEYS that it has but retraining, arm, effect (points of accuracy; negative where the arm
    is worse). DataError where an arm has no partner, or two.
    """
    keys = [name for name in KEYS if name in table]
    stats.require(table, [*keys, "arm", probe])
    on = [name for name in keys if against != NOTHING or name != "fraction"]
    other = table.loc[table["arm"] == against, [*on, probe]].rename(columns={probe: "other"})
    if other.empty:
        raise DataError(
            f"effects are against the arm {against!r}, found {', '.join(table['arm'].unique())}; measure it as well."
        )
    if other.duplicated(on).any():
        raise DataError(f"two encoders of the arm {against!r} share {', '.join(on)}; name what tells them apart.")
    both = table[~table["arm"].isin([against, NOTHING])].merge(other, on=on, how="left")
    if both["other"].isna().any():
        lost = both[both["other"].isna()].iloc[0]
        raise DataError(
            f"the arm {lost['arm']!r} of {', '.join(f'{name} {lost[name]}' for name in on)} has no partner in the arm "
            f"{against!r}; measure both on the same seeds."
        )
    both["effect"] = POINTS * (both[probe] - both["other"])
    by = [name for name in keys if name not in ("seed", "retraining")] + ["arm", "seed"]
    return both.groupby(by, sort=False, as_index=False)["effect"].mean()


def needed(
    found: pd.DataFrame, delta: Number, by: Sequence[str], value: str = "effect", wanted: Number = 0.8
) -> pd.DataFrame:
    """What so many seeds can find, and how many it would take, for every group of `by`.

    One row a group: n, mean, low, high (95 % interval over seeds), sd (between seeds), detectable (the smallest true
    difference that the paired t-test finds with probability `wanted`), power (to find a difference of `delta`), seeds
    (for a difference of `delta`), seeds_for_mean (for one as large as found; NaN above 10,000). NaN for one
    seed and without spread.
    """
    table = stats.over_seeds(found, value, by)

    def seeds(difference: Number, sd: float) -> float:
        try:
            return float(stats.seeds_needed(difference, sd, wanted))
        except SpecError:
            return math.nan

    rows = []
    for row in table.to_dict("records"):
        known = row["n"] > 1 and row["sd"] > 0
        row["detectable"] = stats.detectable(row["sd"], row["n"], wanted) if known else math.nan
        row["power"] = stats.power(delta, row["sd"], row["n"]) if known else math.nan
        row["seeds"] = seeds(delta, row["sd"]) if known else math.nan
        row["seeds_for_mean"] = seeds(row["mean"], row["sd"]) if known else math.nan
        rows.append(row)
    columns = ["n", "mean", "low", "high", "sd", "detectable", "power", "seeds", "seeds_for_mean"]
    return pd.DataFrame(rows)[[*by, *columns]]


def in_words(table: pd.DataFrame, delta: Number, name: str = "dataset") -> str:
    """What a table of `needed` says of the seeds at hand and of a difference of `delta` points, one sentence a row."""
    said = []
    for row in table.to_dict("records"):
        if math.isnan(row["detectable"]):
            said.append(f"{row[name]}: {row['n']} seeds are too few to say what they could find.")
            continue
        seeds = f"{row['seeds']:.0f} seeds" if row["seeds"] == row["seeds"] else "more than 10,000 seeds"
        verdict = "can" if row["detectable"] <= delta else "cannot"
        said.append(
            f"{row[name]}: {row['n']} seeds find a difference of {row['detectable']:.2f} points with a probability of "
            f"0.8, so that they {verdict} be relied on for one of {delta:g}, which takes {seeds}."
        )
    return " ".join(said)
