"""Exercises of the pages from removal on: the right answer, what is given, and wrong answers by their hints."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sslmem_utils import removal, stats

RNG = np.random.default_rng(7)
NAMES = ("fashion_mnist", "cifar10")


def cells(*columns: str, arms: tuple[str, ...], seeds: int = 4, **fixed: object) -> pd.DataFrame:
    """A row for each dataset, seed and arm, with numbers in [0.6, 0.9] in these columns."""
    rows = [{"dataset": name, "seed": seed, "arm": arm} for name in NAMES for seed in range(seeds) for arm in arms]
    return pd.DataFrame(rows).assign(**{name: RNG.uniform(0.6, 0.9, len(rows)) for name in columns}, **fixed)


def half(values: pd.Series) -> float:
    found = stats.interval(values)
    return (found.high - found.low) / 2


def by_dataset(table: pd.DataFrame, measure: Callable[[pd.DataFrame], object]) -> pd.DataFrame | pd.Series:
    found = {name: measure(part) for name, part in table.groupby("dataset")}  # another order than the page's
    return pd.DataFrame(found).T if isinstance(next(iter(found.values())), dict) else pd.Series(found)


Case = tuple[object, dict[str, object], dict[str, object]]  # the right answer, what is given, hints of wrong answers


def of_removal() -> dict[str, Case]:
    primary = cells("linear", "knn", arms=("random", "top"), design="plain", fraction=0.4, retraining=0)
    effect = removal.effects(primary)

    def widths(part: pd.DataFrame) -> dict[str, float]:
        a, b = (100 * part.loc[part["arm"] == arm, "linear"].reset_index(drop=True) for arm in ("random", "top"))
        unpaired = 2.4469 * np.sqrt((a.var() + b.var()) / len(a))  # Student's quantile at 6 degrees of freedom
        return {"paired": half(a - b), "unpaired": unpaired}

    both = by_dataset(primary, widths)
    needed = removal.needed(effect, 0.5, ["dataset"]).set_index("dataset")
    rule = 8 * (needed["sd"] / 0.5) ** 2
    wrong = {"whole": 2 * both, "hundredth": both / 100, "paired is right": both.assign(unpaired=1.0)}
    wrong |= {
        "unpaired is right": both.assign(paired=1.0),
        "one number for each arm": both + 1,
        "2 rows": both.iloc[:1],
    }
    return {
        "10.1": ("stays", {}, {"the very scores": "rises", "one of": "grows"}),
        "10.2": (both, {"primary": primary}, wrong),
        "10.3": (needed["seeds"], {"effect": effect}, {"rule of thumb": rule, "half a point": needed["seeds"] * 4}),
    }


def of_tasks() -> dict[str, Case]:
    accuracy = cells("linear", arms=("none", "random", "top"), task="shapes", test=500)
    accuracy = pd.concat([accuracy, accuracy.assign(task="its own dataset")], ignore_index=True)
    floor = cells("linear", arms=("untrained", "pixels"), task="shapes")
    mean = pd.concat([accuracy, floor]).groupby(["dataset", "task", "arm"])["linear"].mean().unstack()
    mean = mean.xs("shapes", level="task", drop_level=False)
    worth = pd.DataFrame({"worth": mean["none"] - mean["untrained"], "price": mean["none"] - mean["random"]}) * 100
    p = accuracy[accuracy["arm"] == "random"].groupby(["dataset", "task"])["linear"].mean()
    error = pd.DataFrame({"error": 100 * np.sqrt(p * (1 - p) / 500), "images": p * (1 - p) / 0.0025**2})
    wrong = {"hundredth": worth / 100, "sign": -worth, "worth is right": worth.assign(price=1), "means": worth + 1}
    noise = {"asked for in points": error / 100, "error is right": error.assign(images=9), "share between": error * 2}
    walls = {"both are shares": (90, 45), "of all 100": (0.8, 0.45), "union": (0.9, 0.9), "2 numbers": 0.45}
    return {
        "11.1": (worth, {"accuracy": accuracy, "floor": floor}, wrong),
        "11.2": (error, {"accuracy": accuracy, "delta": 0.25}, noise),
        "11.3": ((0.9, 0.45), {}, walls),
    }


def of_limiting() -> dict[str, Case]:
    sign = pd.DataFrame({"angle": [0, 90, 180], "ours": [0, -0.5, -1], "theirs": [-0.5, 0.0, 0.5]})
    arms = cells("candidate", "linear", "align_external", arms=("none", "random", "most memorized", "all points"))

    def held(*columns: str) -> pd.Series:
        given = list(columns[1:])
        return by_dataset(arms, lambda part: stats.partial_correlation(part, columns[0], "linear", given).mean)

    right = held("candidate", "align_external")
    wrong = {"plain": held("candidate"), "holds memorization": held("align_external", "candidate"), "centre": right / 2}
    return {
        "12.1": ((180, 0), {"sign": sign}, {"small": (0, 180), "in degrees": (90, 0), "2 numbers": 180}),
        "12.2": (right, {"arms": arms}, wrong),
    }


def of_privacy() -> dict[str, Case]:
    private = pd.DataFrame({"epsilon": [1.0, 2.0, 8.0], "delta": 0.001}, index=["a", "b", "c"])
    first = 0.01 * np.exp(private["epsilon"]) + 0.001
    bound = np.minimum(first, 1 - np.exp(-private["epsilon"]) * (1 - 0.001 - 0.01))
    rates = (0.0048055, 0.0170158)  # of Beta(10, 991)
    delta = {"logarithm": (8, 0.05), "chance of one": (np.inf, 0.001), "mean number": (np.inf, 3)}
    bounds = {"above 1": 9 * first, "second is a little": first.clip(upper=1), "alpha": bound / 2}
    wrong = {"per cent": (0.48055, 1.70158), "comes first": rates[::-1], "at least 1": (0.01, 0.02)}
    return {
        "13.1": ((np.inf, 0.05), {"images": 50, "delta": 0.001}, delta),
        "13.2": (bound, {"private": private}, bounds),
        "13.3": (rates, {"external": 1000}, wrong),
    }


def of_dejavu() -> dict[str, Case]:
    quadrants = ["memorized"] * 12 + ["misrepresented"] * 3 + ["correlated"] * 5
    attacks = pd.DataFrame({"quadrant": quadrants, "dataset": "cifar10", "seed": 0, "replica": 1, "set": "candidate"})
    attacks = pd.concat([attacks, attacks.assign(set="external")])
    index = pd.MultiIndex.from_tuples([("cifar10", 0, 1)])
    one = pd.DataFrame({"memorized": 12, "misrepresented": 3, "p": 0.03515625}, index=index)
    counts = one.rename(columns={"memorized": "misrepresented", "misrepresented": "memorized"})
    tests = {"two-sided": one.assign(p=0.0176), "changed places": counts, "count images": one + 1}
    tests |= {"only candidates": one.assign(memorized=24, misrepresented=6)}
    tested = cells("dv", arms=("a", "b"), share=1.0).assign(low=lambda t: t["dv"] - 0.1, high=lambda t: t["dv"] + 0.2)
    tested = pd.concat([tested, tested.assign(share=0.2, dv=0.0)])
    whole = tested[tested["share"] == 1]
    over = by_dataset(whole, lambda part: {"images": 0.15, "splits": half(part.groupby("seed")["dv"].mean())})
    pairs = over.assign(splits=by_dataset(whole, lambda part: half(part["dv"])))
    wrong = {"whole widths": 2 * over, "average over them": pairs, "rows with share 1": over + 1}
    return {
        "14.1": (0, {}, {"difference": 0.5, "one number": "none"}),
        "14.2": (one, {"attacks": attacks}, tests),
        "14.3": (over, {"tested": tested}, wrong),
    }


def of_units() -> dict[str, Case]:
    def unitmem(x: np.ndarray, others: Callable = np.mean) -> np.ndarray:
        rest = others(np.sort(x, axis=0)[:-1], axis=0)
        return (x.max(0) - rest) / (x.max(0) + rest)

    def level(n: int) -> float:
        return float(unitmem(np.random.default_rng(5).exponential(size=(n, 3000))).mean())

    off = [0.5, 0.9, 0.1, 0.5, 0.6, 0.5]
    means = pd.DataFrame({"model": ["f"] * 3 + ["g"] * 3, "images": "both", "units": 100, "in_candidates": off})
    means = pd.concat([means, means.assign(images="candidate", in_candidates=1.0)], ignore_index=True)
    right = pd.Series({"g": 1 / 3, "f": 2 / 3})
    functions = {
        "all *other*": lambda x: (x.max(0) - x.mean(0)) / (x.max(0) + x.mean(0)),
        "median": lambda x: (x.max(0) - np.median(x, 0)) / (x.max(0) + np.median(x, 0)),
        "found the shape": lambda x: unitmem(x).mean(),
        "for one image only": lambda x: 1 - unitmem(x),
        "fails": lambda x: x["unit"],
        "function itself": unitmem(np.eye(3)),
    }
    ends = pd.Series({"f": 1 / 3, "g": 1 / 3})
    return {
        "15.1": (unitmem, {}, functions),
        "15.2": (level(100), {"images": 100}, {"ten times": level(1000), "draw images": 0.2}),
        "15.3": (right, {"means": means}, {"inside": 1 - right, "two ends": ends, "rows with": right / 2}),
    }


def of_labels() -> dict[str, Case]:
    images = pd.DataFrame({"supervised_n_out": [6, 6], "supervised_n_in": [14, 14]})
    bound = np.array([0.7627, 0.5962, 0.03450])
    agreement = cells("value", arms=("a a", "a b", "b b"), seeds=2, statistic="spearman")
    agreement[["a", "b"]] = agreement["arm"].str.split(" ", expand=True).to_numpy()
    wide = agreement.pivot(index=["dataset", "seed"], columns="arm", values="value")
    agreement = pd.concat([agreement, agreement.assign(statistic="kendall", value=0.1)])
    product = wide["a a"] * wide["b b"]
    wrong = {"as it is": wide["a b"], "root": wide["a b"] / product, "use Spearman": wide["a b"] * 2}
    wrong |= {"arithmetic": 2 * wide["a b"] / (wide["a a"] + wide["b b"])}
    return {
        "16.1": (7, {"images": images}, {"both ends": 6, "*with*": 15, "how many networks": 2}),
        "16.2": (bound, {"members": 20, "fraction": 0.7}, {"squared": bound**2, "smaller of": bound * 2}),
        "16.3": (wide["a b"] / product**0.5, {"agreement": agreement, "a": "a", "b": "b"}, wrong),
    }


def of_why() -> dict[str, Case]:
    alone = cells("knn", arms=("3", "5", "8")).rename(columns={"arm": "class"})

    def over(key: str) -> pd.Series:
        return by_dataset(alone, lambda part: half(part.groupby(key)["knn"].mean()))

    both = pd.DataFrame({"cells": by_dataset(alone, lambda part: half(part["knn"])), "classes": over("class")})
    wrong = {"whole widths": 2 * both, "seeds of a class": both.assign(classes=over("seed"))}
    wrong |= {"cells are right": both.assign(classes=1), "one number per": both + 1}
    return {
        "17.2": (both, {"alone": alone}, wrong),
        "17.3": (0.268, {}, {"first one": 3.732, "positive s": 0.5}),
    }


def of_choosing() -> dict[str, Case]:
    damaged = cells("caught", arms=("none", "top"), fraction=0.4, removed=40)
    damaged["removed"] = damaged["removed"].where(damaged["arm"] == "top", 0)
    caught = damaged[damaged["arm"] == "top"].groupby(["dataset", "arm", "fraction"])["caught"].mean()
    seeds = np.array([8.985, 2.484, 1.242, 0.468])
    wrong = {"known": 1.96 / np.sqrt([2, 3, 5, 20]), "either side": (4.465, 1.686, 0.953, 0.387), "degrees": 2 * seeds}
    words = {
        "without any g": ("above", "above"),
        "change g": ("at", "at"),
        "one of": ("up", "at"),
        "two words": "above",
    }
    return {
        "20.1": (("above", "at"), {}, words),
        "20.2": (
            caught * 10 / 40,
            {"damaged": damaged, "n": 100, "corrupted": 0.1},
            {"divide by": caught, "times the number": caught / 3},
        ),
        "20.3": (seeds, {}, wrong),
    }


CASES = of_removal() | of_tasks() | of_limiting() | of_privacy() | of_dejavu()
CASES |= of_units() | of_labels() | of_why() | of_choosing()
