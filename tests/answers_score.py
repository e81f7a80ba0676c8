"""Exercises of the pages on the score: the right answer, what is given, and wrong answers by their hints."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd
from answers_experiments import NAMES, Case, by_dataset, half

RNG = np.random.default_rng(3)


def of_definition() -> dict[str, Case]:
    def mean_over(z: np.ndarray, measure: Callable = np.linalg.norm) -> float:
        return float(np.mean([measure(a - b) for a, b in combinations(z, 2)]))

    functions = {
        "to itself": lambda z: np.linalg.norm(z[:, None] - z, axis=2).mean(),
        "squared": lambda z: mean_over(z, lambda one: (one**2).sum()),
        "sum over": lambda z: mean_over(z) * 21,
        "l1 distance": lambda z: mean_over(z, lambda one: np.abs(one).sum()),
        "mean of the views": lambda z: np.linalg.norm(z - z.mean(0), axis=1).mean(),
        "three views on a line": lambda z: 1.0,
        "fails on": lambda z: z["f"],
        "the function itself": 2.0,
    }
    factors = {"of m comes first": (1, 3), "m is right": (3, 3), "three times as far": (1, 1), "2 numbers": 3}
    return {"01.1": ((3, 1), {}, factors), "01.2": (mean_over, {}, functions)}


def of_digits() -> dict[str, Case]:
    kinds = ("candidate", "independent", "external", "external")
    rows = [(name, seed, row) for name in ("mnist", "digits") for seed in range(6) for row in range(40)]
    scores = pd.DataFrame(rows, columns=["dataset", "seed", "row"]).assign(index=0, label=0)
    scores["set"] = RNG.choice(kinds, len(scores))
    scores[["m_rel", "knn_distance", "centroid_distance"]] = RNG.normal(size=(len(scores), 3))
    scores["m_rel"] += scores["seed"]
    both = scores[scores["set"].isin(["candidate", "external"])]

    def rho(part: pd.DataFrame, measure: str) -> float:
        return part["m_rel"].rank().corr(part[measure].rank())

    def endpoint(part: pd.DataFrame, signs: tuple[int, int] = (1, -1)) -> dict[str, float]:
        weights = dict(zip(("candidate", "external"), signs, strict=True))
        cells = {key: one for key, one in part.groupby(["seed", "set"])}
        count = part["seed"].nunique()
        return {
            measure: sum(weights[kind] * rho(one, measure) for (_, kind), one in cells.items()) / count
            for measure in ("knn_distance", "centroid_distance")
        }

    right = by_dataset(both, endpoint)
    wrong = {"control is missing": by_dataset(both, lambda part: endpoint(part, (1, 0))), "turned": -right}
    wrong |= {"all seeds at once": by_dataset(both.assign(seed=0), endpoint), "means over seeds": right + 1}
    wrong |= {"knn_distance is right": right.assign(centroid_distance=0.0)}

    def curse(part: pd.DataFrame, everywhere: bool = False) -> dict[str, float]:
        even, odd, every = {}, {}, {}
        for seed, one in part.groupby("seed"):
            zero = one.loc[one["set"] == "external", "m_rel"].mean()
            for row, kind, value in one[["row", "set", "m_rel"]].itertuples(index=False):
                if kind != "external":
                    score = (value - zero) * (1 if kind == "candidate" else -1)
                    (odd if seed % 2 else even).setdefault(row, []).append(score)
                    every.setdefault(row, []).append(score)
        known = [row for row in even if row in odd]
        order = sorted(known, key=lambda row: -np.mean((every if everywhere else even)[row]))
        top = order[: max(1, round(len(known) / 10))]
        return {
            "chosen": np.mean([np.mean(even[row]) for row in top]),
            "again": np.mean([np.mean(odd[row]) for row in top]),
        }

    found = by_dataset(scores, curse)
    unlucky = {"changed places": found.rename(columns={"chosen": "again", "again": "chosen"})}
    unlucky |= {"the even ones chose": found.assign(again=found["chosen"]), "drop images": found + 1}
    unlucky |= {"took part": by_dataset(scores, lambda part: curse(part, everywhere=True))}
    unlucky |= {"chosen is right": found.assign(again=0.0)}
    return {
        "02.1": (12, {}, {"in proportion": 3.2, "Spearman and Brown": 48, "one number": "many"}),
        "02.2": (right, {"both": both}, wrong),
        "02.3": (found, {"scores": scores}, unlucky),
    }


def of_sets() -> dict[str, Case]:
    rows = [
        (name, seed, kind, where)
        for name in NAMES
        for seed in range(4)
        for kind in ("candidate", "external", "shared") * 3
        for where in ("pooled", "projector")
    ]
    scores = pd.DataFrame(rows, columns=["dataset", "seed", "set", "representation"])
    scores["m_rel"] = RNG.normal(scores["seed"] * 0.1, 0.05)

    def widths(representation: str, constant: bool = False) -> pd.DataFrame:
        some = scores[scores["representation"] == representation]
        inside, outside = some[some["set"] == "candidate"], some[some["set"] == "external"]

        def both(part: pd.DataFrame) -> dict[str, float]:
            raw = part.groupby("seed")["m_rel"].mean()
            control = outside[outside["dataset"] == part["dataset"].iloc[0]].groupby("seed")["m_rel"].mean()
            return {"raw": half(raw), "centred": half(raw - (control.mean() if constant else control))}

        return by_dataset(inside, both)

    right = widths("pooled")
    wrong = {"whole": 2 * right, "projector": widths("projector"), "one constant": widths("pooled", constant=True)}
    wrong |= {"raw is right": right.assign(centred=1.0), "one number a seed": right + 1, "is missing": right[["raw"]]}
    factors = {"comes first": (1, 2), "d is right": (4, 1), "spread of single": (2, 2), "2 numbers": 2}
    return {
        "03.1": ("contradicted", {}, {"keep their names": "supported", "as narrow": "inconclusive", "one of": "no"}),
        "03.2": (right, {"scores": scores}, wrong),
        "03.3": ((2, 1), {}, factors),
    }


def of_scoring() -> dict[str, Case]:
    rows = [
        (name, method, seed, kind)
        for name in NAMES
        for method in ("simclr", "mae")
        for seed in range(3)
        for kind in ("candidate", "external") * 20
    ]
    scores = pd.DataFrame(rows, columns=["dataset", "method", "seed", "set"])
    scores["label"] = RNG.integers(4, size=len(scores)) ** 2
    scores["m_rel"] = RNG.normal(scores["label"] / 20 + scores["seed"], 1)

    def shares(table: pd.DataFrame) -> pd.DataFrame:
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for (name, method, _), part in table.groupby(["dataset", "method", "seed"]):
            dummies = pd.get_dummies(part["label"]).to_numpy(float)  # R squared of a regression on the classes
            m = part["m_rel"].to_numpy()
            left = m - dummies @ np.linalg.lstsq(dummies, m, rcond=None)[0]
            cell = 1 - left.var() / m.var(), (dummies.shape[1] - 1) / (len(m) - 1)
            found.setdefault((name, method), []).append(cell)
        return pd.DataFrame({key: np.mean(cells, axis=0) for key, cells in found.items()}, index=["share", "chance"]).T

    inside = scores[scores["set"] == "candidate"]
    right = shares(inside)
    wrong = {"keep the candidates": shares(scores), "all seeds at once": shares(inside.assign(seed=0))}
    wrong |= {"*within*": right.assign(share=1 - right["share"]), "share is right": right.assign(chance=0.0)}
    wrong |= {"two sums": right + 1, "is missing": right[["share"]]}
    chance = {"one image": 0.028, "every pair": 0.125, "of one pair": 12.5, "binomial": 7.0, "one number": "few"}
    return {
        "04.1": (3.5, {"candidate": 125, "replicas": 3}, chance),  # 3 * 0.01 * 0.9 + 0.001 of 125
        "04.2": (right, {"scores": scores}, wrong),
    }


def of_imagenet() -> dict[str, Case]:
    streamed = pd.DataFrame({"step": ["read", "score", "train, simclr"], "images/s": [900.0, 90.0, 8.0]})
    hours = 60_000_000 / 8 / 3600
    times = {"a pair has two": hours / 2, "both their views": 2 * hours, "seconds": hours * 3600, "the row": 3.0}
    alone = pd.DataFrame({"set": ["candidate", "external"] * 4 + ["shared", "external"] * 6, "given": "f alone"})
    alone["align_f"] = np.arange(20.0)
    alone.loc[1, "set"], alone.loc[18, "set"] = "candidate", "external"
    by_file = pd.concat([alone.assign(given="f and g", align_f=-1.0), alone])
    right = pd.Series({"all": 0.5, "accused": 1.0})  # worked out by hand
    wrong = {"not the only": right.replace(0.5, 0.25), "aligns worst": right.replace(1.0, 0.0)}
    wrong |= {"of the rows with": right.replace(0.5, 0.6), "keep the first tenth": right.replace(1.0, 0.7)}
    others = {"every image": "a", "two methods": "c", "nothing else": "d", "one of": "e"}
    return {
        "05.1": (hours, {"streamed": streamed}, times),
        "05.2": (right, {"by_file": by_file}, wrong),
        "05.3": ("b", {}, others),
    }


CASES = of_definition() | of_digits() | of_sets() | of_scoring() | of_imagenet()
