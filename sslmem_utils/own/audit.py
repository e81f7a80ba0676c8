"""What a table of scores is used for: a membership test from one encoder's alignments, and a list for removal."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..errors import DataError, SpecError
from ..specs import SETS
from ..stats import finite, require

LEVELS = (0.01, 0.05, 0.10)


def audit(
    table: pd.DataFrame, column: str = "align_f", levels: Sequence[float] = LEVELS
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Was an image in the training set? A conformal p-value each, from alignment alone (Vovk et al. 2005; split form).

    p = (1 + externals with alignment <= align(x)) / (1 + externals): small where x is aligned better than nearly every
    image that the encoder never saw. Under exchangeability of the externals with the images that are no members (the
    same source, preprocessing and selection), P(p <= a) <= a for such an image. Externals are judged against the
    others, leaving themselves out. Returns the table with `p`, and one row a set and level: `flagged` of `n` with
    p <= level, `rate` and its 95 % Clopper-Pearson interval `low, high`. For external and independent images the rate
    is the false positive rate; that of the externals follows from their ranks and ties, the independents' tests the
    exchangeability. DataError without at least two externals.
    """
    from scipy.stats import binomtest

    require(table, ["set", column])
    align, outside = table[column].to_numpy(float), (table["set"] == "external").to_numpy()
    known = np.sort(align[outside])
    if len(known) < 2 or not np.isfinite(align).all():
        raise DataError(
            f"an audit needs finite {column} and at least 2 images of the set external, found {len(known)}; list "
            "images that were certainly not trained on."
        )
    below = np.searchsorted(known, align, side="right")
    judged = table.assign(p=np.where(outside, below / len(known), (1 + below) / (1 + len(known))))
    rows = []
    parts = dict(list(judged.groupby("set")))
    for name, part in ((name, parts[name]) for name in SETS if name in parts):
        for level in levels:
            flagged = int((part["p"] <= level).sum())
            low, high = binomtest(flagged, len(part)).proportion_ci(method="exact")
            row = {"set": name, "level": level, "n": len(part), "flagged": flagged, "rate": flagged / len(part)}
            rows.append({**row, "low": float(low), "high": float(high)})
    return judged, pd.DataFrame(rows)


def removal(
    table: pd.DataFrame, top: str | int, column: str = "m_rel", of: str | None = None, per_class: bool = False
) -> pd.DataFrame:
    """The highest scores, to be removed before training again: index, label, score, rank (1 is the highest).

    `top` is a number of images or a share such as "5%"; `of` takes the images of one set only; `per_class` the share or
    number of each class, which keeps classes balanced and needs labels. Equal scores keep their order.
    """
    require(table, ["index", "label", column, *([] if of is None else ["set"])])
    some = table if of is None else table[table["set"] == of]
    if some.empty:
        raise DataError(f"no image is in the set {of!r}, found {', '.join(sorted(set(table['set'])))}; choose one.")
    finite(some[column], column)
    if some["index"].duplicated().any():
        raise DataError("a list needs one score an image, found several of some; average or select seeds first.")
    if per_class and not (pd.to_numeric(some["label"], errors="coerce") >= 0).all():
        raise DataError("a list per class needs labels, found images without one; label them or leave classes aside.")
    order = some.sort_values(column, ascending=False, kind="stable")
    groups = [part for _, part in order.groupby("label")] if per_class else [order]
    chosen = pd.concat([part.head(_count(top, len(part))) for part in groups])
    chosen = chosen.sort_values(column, ascending=False, kind="stable")
    return pd.DataFrame(
        {
            "index": chosen["index"].to_numpy(),
            "label": chosen["label"].to_numpy(),
            "score": chosen[column].to_numpy(float),
            "rank": np.arange(1, len(chosen) + 1),
        }
    )


def _count(top: str | int, n: int) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", str(top).strip())
    number = float(match[1]) if match else 0.0
    share = bool(match and match[2])
    wanted = round(number / 100 * n) if share else number
    if not match or number != wanted and not share or not 1 <= wanted <= n:
        raise SpecError(
            f"top must be a share such as 5% or a number of images, with between 1 and {n} images in it, found {top!r}."
        )
    return int(wanted)
