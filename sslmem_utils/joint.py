"""One table of every measure of the same images: who is memorized by what, and where the measures part ways.

    table = joint.joint({"label_memorization": some, "sslmem": others, "dejavu": more})
    joint.correlations(table)                                        # rank correlations over seeds
    joint.disagreements(table, "label_memorization", "sslmem_simclr", 8)  # the images of largest disagreement

A measure is a table with one row an image: `dataset`, `seed` (of the split), `row`, perhaps `label` and `set`, and
columns of its own. Another measure is one more entry. Needs no torch, so that a page made from stored tables has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import pandas as pd

from . import stats
from .errors import DataError, SpecError

KEYS = ["dataset", "seed", "row"]
FACTS = ["label", "set"]  # of the image, the same whatever measures it
SIGN = {"candidate": 1.0, "independent": -1.0}  # f alone was trained on candidates, g alone on independents
LEAST = 3  # images that two measures must share for a rank correlation


def joint(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """All measures of all images, one row an image of a split; an image that a measure lacks is NaN (None) there.

    `tables` are named: a column called like its table keeps that name, others become NAME_COLUMN; truth values become
    0 and 1. DataError for a table without keys or columns, with an image twice, or whose label or set of an image
    contradicts another table's.
    """
    whole: pd.DataFrame | None = None
    for name, table in tables.items():
        stats.require(table, KEYS)
        own = [column for column in table if column not in (*KEYS, *FACTS)]
        if not own:
            raise DataError(f"measure {name!r} needs a column of its own, found {', '.join(table)}; add its values.")
        if twice := int(table.duplicated(KEYS).sum()):
            raise DataError(f"measure {name!r} must name an image of a split once, found {twice} again; average them.")
        names = {column: column if column == name else f"{name}_{column}" for column in own}
        facts = [column for column in FACTS if column in table]
        numbers = {column: float for column in own if table[column].dtype == bool}  # gaps would make objects of them
        part = table[[*KEYS, *facts, *own]].astype(numbers).rename(columns=names)
        whole = part if whole is None else _merged(whole, part, name)
    if whole is None:
        raise DataError("a joint table needs a measure, found none; give at least one.")
    if "label" in whole and whole["label"].notna().all():
        whole["label"] = whole["label"].astype(int)  # a number until then, for the gaps
    facts = [column for column in FACTS if column in whole]
    values = [column for column in whole if column not in (*KEYS, *facts)]
    return whole[[*KEYS, *facts, *values]].sort_values(KEYS, ignore_index=True)


def _merged(whole: pd.DataFrame, part: pd.DataFrame, name: str) -> pd.DataFrame:
    both = [column for column in part if column in whole and column not in KEYS]
    if again := [column for column in both if column not in FACTS]:
        raise DataError(f"measure {name!r} gives a second column {again[0]!r}; name the measures apart.")
    found = whole.merge(part, on=KEYS, how="outer", suffixes=("", "_new"))
    for column in both:
        old, new = found[column], found.pop(f"{column}_new")
        if wrong := int((old.notna() & new.notna() & (old != new)).sum()):
            raise DataError(
                f"measure {name!r} has another {column} for {wrong} images than the measures before it; measure the "
                "same splits."
            )
        found[column] = old.where(old.notna(), new)
    return found


def sslmem(scores: pd.DataFrame, value: str = "m_rel") -> pd.DataFrame:
    """SSLMem of pairs by method, the mean over replicas, as a measure: one column a method.

    `scores`: stacked score tables with dataset, method, seed, row, label, set. Candidates have the score, independents
    its negative, since g is the encoder that memorizes them; shared and external images are left out.
    """
    stats.require(scores, [*KEYS, *FACTS, "method", value])
    return _by_method(scores, scores[value] * scores["set"].map(SIGN))


def membership(scores: pd.DataFrame) -> pd.DataFrame:
    """How well the encoder that was trained on an image aligns its views, with no reference: one column a method.

    Minus align_f of candidates and minus align_g of independents: what EncoderMI (arXiv 2108.11023) infers membership
    from. `scores` and the images as for `sslmem`.
    """
    stats.require(scores, [*KEYS, *FACTS, "method", "align_f", "align_g"])
    return _by_method(scores, -scores["align_f"].where(scores["set"] == "candidate", scores["align_g"]))


def _by_method(scores: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    part = scores.assign(value=values)[scores["set"].isin(list(SIGN))]
    wide = part.pivot_table(index=[*KEYS, *FACTS], columns="method", values="value", aggfunc="mean", sort=False)
    return wide.rename_axis(columns=None).reset_index()


def measures(table: pd.DataFrame) -> list[str]:
    """Columns of a joint table that can be ranked: numbers, not text such as a quadrant's name."""
    values = table.drop(columns=[name for name in (*KEYS, *FACTS) if name in table])
    return list(values.select_dtypes("number").columns)


def each_seed(
    table: pd.DataFrame, of: Sequence[str] | None = None, sets: Sequence[str] = ("candidate",)
) -> pd.DataFrame:
    """Spearman's correlation of every two measures in every split: dataset, seed, a, b, rho, n (images with both).

    On the images of `sets`; `of` chooses measures and their order. Where a measure is constant there is no row.
    """
    names = _known(table, measures(table) if of is None else of)
    part, rows = table[table["set"].isin(sets)] if "set" in table else table, []
    for (dataset, seed), some in part.groupby(["dataset", "seed"], sort=False):
        for a, b in combinations(names, 2):
            both = some[[a, b]].dropna().astype(float)
            if len(both) >= LEAST and (both.nunique() > 1).all():
                rho = stats.spearman(both[a], both[b])
                rows.append({"dataset": dataset, "seed": seed, "a": a, "b": b, "rho": rho, "n": len(both)})
    if not rows:
        raise DataError(f"no two of {', '.join(names)} are known of the same images; join measures of the same splits.")
    return pd.DataFrame(rows)


def correlations(
    table: pd.DataFrame, of: Sequence[str] | None = None, sets: Sequence[str] = ("candidate",)
) -> pd.DataFrame:
    """`each_seed` over the seeds: dataset, a, b, n (seeds), mean, sd, low, high (95 % interval; NaN with one seed)."""
    return stats.over_seeds(each_seed(table, of, sets), "rho", ["dataset", "a", "b"]).drop(columns="level")


def disagreements(table: pd.DataFrame, a: str, b: str, show: int, sets: Sequence[str] = ("candidate",)) -> pd.DataFrame:
    """The images whose ranks under two measures lie farthest apart, `show` of each direction in every dataset.

    Ranks are the share of the images of the split's `sets` with both measures that rank below, from 0 to 1, ties
    averaged. An image of several splits counts once, where it lies farthest apart. Columns: dataset, seed, row, label,
    set, rank_a, rank_b, more (`a` or `b`: the measure that ranks it higher).
    """
    _known(table, [a, b])
    part = table[table["set"].isin(sets)] if "set" in table else table
    part = part.dropna(subset=[a, b])
    if part.empty:
        raise DataError(f"{a} and {b} are known of no common image; join measures of the same splits.")
    split, ranks = ["dataset", "seed"], {}
    for side, name in (("rank_a", a), ("rank_b", b)):
        groups = part.groupby(split)[name]
        ranks[side] = (groups.rank() - 1) / (groups.transform("size") - 1).clip(lower=1)
    part = part.assign(**ranks)
    part["gap"] = part["rank_a"] - part["rank_b"]
    part = part.sort_values("gap", key=lambda gap: -gap.abs(), kind="stable").drop_duplicates(["dataset", "row"])
    kept = [
        half.assign(more=more).head(show)
        for _, one in part.groupby("dataset", sort=False)
        for more, half in (("a", one[one["gap"] > 0]), ("b", one[one["gap"] < 0]))
    ]
    columns = [*KEYS, *(name for name in FACTS if name in part), "rank_a", "rank_b", "more"]
    return pd.concat(kept, ignore_index=True)[columns]


def _known(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    known = measures(table)
    if wrong := [name for name in names if name not in known]:
        raise SpecError(f"the joint table has no measure {wrong[0]!r}; it has {', '.join(known)}.")
    return list(names)
