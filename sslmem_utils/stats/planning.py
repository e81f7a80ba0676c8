"""From a pilot run: how many views, seeds or encoders a wanted reliability takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..errors import DataError, SpecError
from .checks import Number, require
from .components import Components, design, solve
from .intervals import Interval
from .sets import replications

COMMON = 30  # measurements of the same image by two seeds below which noise cannot be told from signal


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pilot of some pairs (f, g) says about other numbers of pairs and views; reliabilities are Spearman's."""

    components: Components  # of normal scores, of one pair with half of the views (all of them if halves are missing)
    draws: tuple[Components, ...]  # the same from resampled replications and images; empty below three seeds
    pairs: int  # pairs of encoders in the pilot, each with its own seed
    images: int  # images measured by two of them or more
    views: int  # K of the pilot
    share: float  # of the pairs that measure an image: those whose split makes it a candidate or an independent

    def _ratio(self, views: Number | None) -> float:
        if views is None or views == self.views:
            return 1.0 if math.isnan(self.components.views) else 2.0
        return views / (self.views / 2)

    def shares(self) -> dict[str, float]:
        """Shares of the variance of one pair's scores with K views: images (signal), pairs, views and the rest."""
        found, ratio = self.components, self._ratio(None)
        shares = replace(found, views=found.views / ratio, rest=found.rest / ratio).shares()
        return {"images": shares["image"], "pairs": shares["split"], "views": shares["views"], "rest": shares["rest"]}

    def reliability(self, pairs: Number = 1, views: Number | None = None) -> Interval:
        """Reliability (Spearman) of the mean over so many pairs with K = `views`, with its bootstrap interval."""
        ratio = self._ratio(views)
        times = _measurements(pairs, self.share)
        pearson = [one.reliability(splits=times, views=ratio) for one in (self.components, *self.draws)]
        return self._interval([6 / math.pi * math.asin(r / 2) for r in pearson])

    def pairs_for(self, target: Number, views: Number | None = None) -> Interval:
        """The fewest pairs whose mean reaches `target` (infinite: no number does with these views), with interval."""
        if not 0 < target < 1:
            raise SpecError(f"the reliability to reach must lie between 0 and 1, found {target}; use 0.9.")
        ratio, pearson = self._ratio(views), 2 * math.sin(math.pi / 6 * target)
        return self._interval([_fewest(one, pearson, ratio, self.share) for one in (self.components, *self.draws)])

    def table(self, target: Number) -> pd.DataFrame:
        """One row for K/2, K, 2K and 4K views: reliability of one pair, pairs for `target` (low, high), encoders."""
        known = not math.isnan(self.components.views)
        rows = []
        for views in [self.views // 2, self.views, 2 * self.views, 4 * self.views] if known else [self.views]:
            one, needed = self.reliability(1, views), self.pairs_for(target, views)
            row = {"views": views, "one_pair": one.mean, "pilot": self.reliability(self.pairs, views).mean}
            rows.append({**row, "pairs": needed.mean, "low": needed.low, "high": needed.high})
        return pd.DataFrame(rows).assign(encoders=lambda table: 2 * table["pairs"])

    def _interval(self, values: list[float]) -> Interval:
        draws = np.asarray(values[1:])
        draws = np.sort(draws[~np.isnan(draws)])
        if not draws.size:
            return Interval(self.pairs, values[0], math.nan, math.nan, math.nan)
        low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")  # no mean of a number and infinity
        sd = float(draws.std(ddof=1)) if draws.size > 1 and np.isfinite(draws).all() else math.nan
        return Interval(self.pairs, values[0], sd, float(low), float(high))


def _fewest(found: Components, target: Number, views: Number, share: float) -> float:
    image, split, seed, of_views, rest = found.known().values()
    room = image * (1 - target) / target - of_views / views  # what is left for the noise that pairs average out
    if room <= 0:
        return math.inf
    times = (split + seed + rest / views) / room  # measurements of an image
    pairs = max(1, math.floor(times / share) - 2)
    while _measurements(pairs, share) < times - 1e-9:
        pairs += 1
    return float(pairs)


def _measurements(pairs: Number, share: float) -> float:
    """Harmonic mean of how often an image is measured by so many pairs, of those measured at all (binomial)."""
    if pairs > 500:
        return pairs * share - (1 - share)  # the same to a thousandth
    from scipy.stats import binom

    times = np.arange(1, int(pairs) + 1)
    chance = binom.pmf(times, int(pairs), share)
    return float(chance.sum() / (chance / times).sum())


def planner(
    table: pd.DataFrame, *, views: int = 20, value: str = "m_rel", resamples: int = 1000, seed: int = 0
) -> Plan:
    """Plan from a pilot's score table of several seeds (one representation, K = `views`).

    Every measurement counts: candidates and, with the sign turned, independents (`replications`). Scores become normal
    scores of their ranks within the seed, whose correlations turn into Spearman's by 6 / pi asin(r / 2). With the
    columns `half_0` and `half_1` the noise of the views is told from that of the seeds; without, only seeds can be
    planned. Intervals resample seeds, then images, and leave out a seed's agreement with itself; they are rather wide
    than narrow. `subsampled` needs about as many encoders as there are in the pairs, when every image is in half of
    them, and scores all images. Raises DataError when seeds are fewer than two or share too few images.
    """
    require(table, ["seed", "index", "set", value])
    for name in ("representation", "dataset"):
        if name in table and table[name].nunique() > 1:
            found = ", ".join(map(str, table[name].unique()))
            raise DataError(f"a plan is made for one {name}, found {found}; select one of them.")
    count = table["seed"].nunique()
    if count < 2:
        raise DataError("a plan needs scores of at least 2 seeds, found 1; train the pilot again with --seeds 3.")
    bad = int((~np.isfinite(table[value])).sum())
    if bad or (table.groupby("seed")[value].nunique() < 2).any():
        what = f"{bad} of {len(table):,} that are not finite" if bad else "a seed whose scores are all equal"
        raise DataError(f"a plan needs scores {value} that tell images apart, found {what}; score the pilot again.")
    halves = {"half_0", "half_1"} <= set(table) and bool(table[["half_0", "half_1"]].notna().all(axis=None))
    columns = ["half_0", "half_1"] if halves else [value]
    ranked = [_normal_scores(table, column) for column in columns]
    measured = ranked[0].notna().sum(axis=0)
    common = int((measured * (measured - 1) // 2).sum())
    if common < COMMON:
        raise DataError(
            f"the splits of the {count} seeds measure the same image {common} times, too few to tell noise from signal "
            f"(at least {COMMON}); train the pilot with --shared 0 and a third of all images as --candidates."
        )
    values = np.concatenate([one.to_numpy() for one in ranked])
    labels = np.tile(np.arange(count), len(ranked))
    plan = design(labels, np.zeros(len(values), dtype=int), np.repeat(np.arange(len(ranked)), count))
    ones = np.ones(values.shape[1])
    components = solve(values, plan, ones, np.ones(count))
    rng, draws = np.random.default_rng(seed), []
    for _ in range(resamples if count > 2 else 0):
        units = rng.multinomial(count, np.full(count, 1 / count)).astype(float)
        images = np.bincount(rng.integers(0, len(ones), len(ones)), minlength=len(ones)).astype(float)
        found = solve(values, plan, images, units)
        draws += [] if found is None else [found]
    return Plan(components, tuple(draws), count, int((measured > 1).sum()), views, float(measured.mean() / count))


def _normal_scores(table: pd.DataFrame, column: str) -> pd.DataFrame:
    from scipy.special import ndtri

    measured = replications(table, column)
    if measured.duplicated(["seed", "index"]).any():
        raise DataError("a plan needs one score an image and seed, found several; give replicas seeds of their own.")
    matrix = measured.pivot(index="seed", columns="index", values="score")
    count = matrix.notna().sum(axis=1)
    return ndtri(matrix.rank(axis=1).sub(0.5).div(count, axis=0))
