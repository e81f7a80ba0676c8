"""Agreement between methods on what they memorize, beside chance and beside what their noise allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from .. import pairs, scoring, stats, training
from ..errors import DataError, SpecError
from ..specs import ScoreSpec, TrainSpec
from ..store import Store
from .experiments import setting

SUPERVISED = "supervised"
STATISTICS = ("spearman", "kendall", "overlap")
GROUPS = {"candidate": "trained on", "independent": "trained on", "external": "never seen"}


def scores_of(
    bases: Mapping[str, TrainSpec],
    seeds: Sequence[int],
    settings: Mapping[str, ScoreSpec],
    replicas: int = 2,
    store: Store | None = None,
) -> pd.DataFrame:
    """`pairs.scores` of several methods, stacked with a column `method`."""
    tables = [
        pairs.scores(base, seeds, [settings[name]], replicas=replicas, store=store).assign(method=name)
        for name, base in bases.items()
    ]
    return pd.concat(tables, ignore_index=True)


def agreement(
    bases: Mapping[str, TrainSpec],
    seeds: Sequence[int],
    *,
    replicas: int = 2,
    settings: Mapping[str, ScoreSpec] | None = None,
    values: Sequence[str] = ("m_rel",),
    top: float = 0.1,
    store: Store | None = None,
) -> pd.DataFrame:
    """How alike methods rank the images of each split, and each method with itself under other training seeds.

    `bases`: experiments on the same images by name; `settings` may replace how some are scored (`setting`). `values`
    are columns of score tables: align_f asks whether f alone gives the same answer. Columns as `agree`, and `alike` and
    `score` (which of the values).
    """
    if len({(base.dataset, base.split, base.plants) for base in bases.values()}) > 1:
        raise SpecError("methods are compared on the same images, found several datasets or splits; give all the same.")
    scored = {name: setting(base) for name, base in bases.items()} | dict(settings or {})
    whole = scores_of(bases, seeds, scored, replicas, store)
    found = pd.concat([agree(whole.assign(value=whole[value]), top).assign(score=value) for value in values])

    def alone(name: str) -> tuple[object, ...]:
        score, base = scored[name], bases[name]
        return training.resolved(base).encoder, score.but(view=score.view or base.view), base.view

    alike = {(a, b): alone(a) == alone(b) for a, b in combinations_with_replacement(bases, 2)}
    found["alike"] = [alike[pair] for pair in zip(found["a"], found["b"], strict=True)]
    return found.reset_index(drop=True)


def agree(scores: pd.DataFrame, top: float = 0.1) -> pd.DataFrame:
    """Agreement of every two methods, and of each with itself, in each split: the mean over pairs of replicas.

    `scores`: method, seed, replica, set, row, value; rows of one split are the same images. Two replicas are never the
    same one: encoders of one training seed share initialisation, data order and views across methods, which would count
    as agreement. Candidates and independents (whose sign is turned: there g is the encoder that memorizes) are ranked
    apart and averaged as `trained on`; external images are the control, `never seen`.

    Columns: seed, a, b, images (`trained on` or `never seen`), statistic (STATISTICS; overlap: share of the `top` that
    both have), value, chance (0, or the share that is common by chance), n (images ranked at a time).
    """
    if "replica" not in scores or scores["replica"].nunique() < 2:
        raise SpecError("a seed ceiling needs a second pair of encoders on each split, found one; set replicas to 2.")
    statistics: dict[str, Callable] = {
        "spearman": stats.spearman,
        "kendall": stats.kendall,
        "overlap": lambda a, b: stats.top_overlap(a, b, top).share,
    }
    names, rows = list(dict.fromkeys(scores["method"])), []
    for (seed, where), part in scores[scores["set"].isin(list(GROUPS))].groupby(["seed", "set"]):
        wide = part.pivot(index="row", columns=["method", "replica"], values="value")
        if wide.isna().any(axis=None):
            raise DataError(f"split {seed} must have a score of every image by every method; score the same images.")
        turned = -wide if where == "independent" else wide
        chance = {"overlap": max(1, round(top * len(wide))) / len(wide)}
        for a, b in combinations_with_replacement(names, 2):
            first, second = turned[a], turned[b]
            which = [(r, s) for r in first for s in second if (r < s if a == b else r != s)]
            for name, statistic in statistics.items():
                found = np.mean([statistic(first[r], second[s]) for r, s in which])
                row = {"seed": seed, "a": a, "b": b, "images": GROUPS[where], "statistic": name, "value": found}
                rows.append({**row, "chance": chance.get(name, 0.0), "n": len(wide)})
    keys = ["seed", "a", "b", "images", "statistic"]
    return pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)[["value", "chance", "n"]].mean()


def resemblance(bases: Mapping[str, TrainSpec], scores: pd.DataFrame) -> pd.DataFrame:
    """Spearman between the score of an image and its resemblance to what f alone rather than g alone was trained on.

    Resemblance: its pixel distance to the nearest other independent less that to the nearest other candidate, over
    their sum. f and g of a split differ in the images they see, so that an image like those of one side is aligned
    better by that side, seen or not. `scores`: method, seed, replica, set, row, m_rel. Columns: seed, method, images,
    rho.
    """
    rows = []
    for (method, seed), part in scores[scores["set"].isin(list(GROUPS))].groupby(["method", "seed"], sort=False):
        given = training.inputs(pairs.pair_specs(bases[method], int(seed))[0])
        for where, some in part.groupby("set"):
            wide = some.pivot(index="row", columns="replica", values="m_rel")
            near = {of: _nearest(given, wide.index.to_numpy(), of) for of in ("candidate", "independent")}
            alike = scoring.relative_to_sum(near["independent"], near["candidate"])
            rho = float(np.mean([stats.spearman(values, alike) for _, values in wide.items()]))
            rows.append({"seed": seed, "method": method, "images": GROUPS[where], "rho": rho})
    return pd.DataFrame(rows).groupby(["seed", "method", "images"], sort=False, as_index=False)["rho"].mean()


def _nearest(given: training.Inputs, rows: Int[np.ndarray, " n"], of: str) -> Float[np.ndarray, " n"]:
    """Pixel distance of images to the nearest other image of a set."""
    from sklearn.metrics import pairwise_distances

    members = getattr(given.split, of)
    flat = [given.images.rows(one).flatten(1).numpy().astype(np.float32) / 255 for one in (rows, members)]
    distances = pairwise_distances(*flat)
    distances[rows[:, None] == members] = np.inf
    return distances.min(axis=1).astype(np.float64)


def over_ceiling(found: pd.DataFrame) -> pd.DataFrame:
    """Agreement above chance over that of each method with itself: disattenuated, with one value a seed.

    ratio = (a with b) / sqrt((a with a) (b with b)), each less chance and averaged over the splits first; for rank
    correlations that is Spearman's correction for attenuation. A ratio of means has no value a split, so `ratio` holds
    the jackknife's pseudo-values, n T - (n - 1) T without the split: their mean and t interval are those of the ratio,
    the noise of the ceiling included. NaN where a method's agreement with itself is not above chance.

    `found`: `agree`'s table of one kind of images. Columns: seed, a, b, statistic, ratio (a with b only).
    """
    excess, rows = found.assign(excess=found["value"] - found["chance"]), []
    for name, part in excess.groupby("statistic", sort=False):
        wide = part.pivot(index="seed", columns=["a", "b"], values="excess")
        total, count = wide.sum(), len(wide)
        for a, b in [pair for pair in wide.columns if pair[0] != pair[1]]:

            def ratio(sums: pd.Series, a: str = a, b: str = b) -> float:
                return stats.disattenuated(sums[a, b], sums[a, a], sums[b, b])

            left_out = np.array([ratio(total - row) for _, row in wide.iterrows()]) if count > 1 else np.zeros(1)
            values = count * ratio(total) - (count - 1) * left_out
            values = values if np.isfinite(values).all() else np.full(count, math.nan)
            names = {"a": a, "b": b, "statistic": name}
            rows += [{"seed": seed, **names, "ratio": value} for seed, value in zip(wide.index, values, strict=True)]
    return pd.DataFrame(rows)


def contrast(table: pd.DataFrame, value: str, reference: str = SUPERVISED) -> pd.Series:
    """Agreement among the other methods less their agreement with `reference`, one number a seed.

    `table`: seed, a, b and `value`, of one statistic and kind of images. Both means are over pairs of the same methods.
    A method whose pairs have no value in some seed is left out; empty where fewer than two and the reference are left.
    SpecError where fewer are given.
    """
    table = table[table["a"] != table["b"]]
    names = list(dict.fromkeys([*table["a"], *table["b"]]))
    if reference not in names or len(names) < 3:
        raise SpecError(
            f"methods are set against {reference}, which needs it and two others, found {', '.join(names) or 'none'}; "
            "add methods."
        )
    lost = table[~np.isfinite(table[value])]
    while len(lost):  # the method that loses most pairs goes first
        worst = pd.concat([lost["a"], lost["b"]]).value_counts().idxmax()
        names.remove(worst)
        lost = lost[(lost["a"] != worst) & (lost["b"] != worst)]
    if reference not in names or len(names) < 3:
        return pd.Series(dtype=float)
    table = table[table["a"].isin(names) & table["b"].isin(names)]
    against = (table["a"] == reference) | (table["b"] == reference)
    return table[~against].groupby("seed")[value].mean() - table[against].groupby("seed")[value].mean()


def contrasts(found: pd.DataFrame) -> pd.DataFrame:
    """`contrast` with supervised training in every form: seed, statistic, methods, form, value.

    `found`: the table of `agreement`. methods: `all`, or `same encoder and views` as supervised training; form: `plain`
    or `over the ceiling`. Forms without a value are left out.
    """
    trained, rows = found[found["images"] == "trained on"], []
    fair = trained[trained["alike"] & ((trained["a"] == SUPERVISED) | (trained["b"] == SUPERVISED))]
    same = {*fair["a"], *fair["b"]}
    parts = {"same encoder and views": trained[trained["a"].isin(same) & trained["b"].isin(same)], "all": trained}
    for which, part in parts.items():
        for statistic, one in part.groupby("statistic", sort=False):
            forms = {"plain": contrast(one, "value"), "over the ceiling": contrast(over_ceiling(one), "ratio")}
            for form, values in forms.items():
                row = {"statistic": statistic, "methods": which, "form": form}
                rows += [{"seed": seed, **row, "value": value} for seed, value in values.items()]
    return pd.DataFrame(rows)
