"""Exercises of the pages on the instrument: the right answer, what is given, and wrong answers by their hints."""

from itertools import combinations

import numpy as np
import pandas as pd
from answers_experiments import Case

from sslmem_utils import stats

RNG = np.random.default_rng(11)
NAMES = ("fashion_mnist", "cifar10")
METHODS = ("simclr", "byol", "supervised")
OWN, FIXED = "scored with the policy trained with", "scored with the recipe's policy"


def of_methods() -> dict[str, Case]:
    rows = [(name, seed, cell) for name in NAMES for seed in range(4) for cell in METHODS]
    cells = pd.DataFrame(rows, columns=["dataset", "seed", "cell"])
    cells["frac95"] = cells["cell"].map({"simclr": 0.5, "byol": 0.3, "supervised": 0.1}) + RNG.normal(
        0, 0.08, len(cells)
    )
    p = {}
    for name, part in cells.groupby("dataset"):
        of = {method: one["frac95"].to_numpy() for method, one in part.groupby("cell")}
        p |= {(name, a, b): stats.paired_test(of[a], of[b]).p for a, b in combinations(METHODS, 2)}
    p = pd.Series(p)
    order = np.sort(p)
    steps = np.maximum.accumulate(order * np.arange(len(p), 0, -1)).clip(max=1)
    right = pd.DataFrame({"p": p, "holm": p.map(dict(zip(order, steps, strict=True)))})
    each = p.groupby(level=0).transform(stats.holm)
    wrong = {"Bonferroni": right.assign(holm=(6 * p).clip(upper=1)), "paired t test": right.assign(p=p / 2)}
    wrong |= {
        "all data sets together": right.assign(holm=each),
        "p is right": right.assign(holm=p),
        "6 rows": right[1:],
    }
    one = {"none": 0.95**20, "expected number": 1.0, "keeps quiet": 0.5, "one number": "many"}
    return {"06.1": (1 - 0.95**20, {"comparisons": 20}, one), "06.2": (right, {"cells": cells}, wrong)}


def of_consistency() -> dict[str, Case]:
    every = [(a, b) for i, a in enumerate(METHODS) for b in METHODS[i:]]
    rows = [
        (name, seed, *pair, s) for name in NAMES for seed in range(3) for pair in every for s in ("overlap", "spearman")
    ]
    kept = pd.DataFrame(rows, columns=["dataset", "seed", "a", "b", "statistic"])
    kept["chance"] = np.where(kept["statistic"] == "overlap", 0.1, 0.0)
    kept["value"] = kept["chance"] + RNG.uniform(0.2, 0.6, len(kept))
    silent = (kept["dataset"] == "cifar10") & (kept["a"] == "byol") & (kept["b"] == "byol")
    kept.loc[silent, "value"] = kept["chance"] - 0.05  # a method that does not agree with itself
    wide = kept.pivot_table("value", ["statistic", "dataset"], ["a", "b"])  # means over seeds

    def pairs(statistic: str, measure) -> dict[tuple[str, str, str], object]:
        means = wide.loc[statistic].T.to_dict()
        return {(n, a, b): measure(r[a, b], r[a, a], r[b, b]) for n, r in means.items() for a, b in every if a != b}

    over = pairs("overlap", lambda r, one, other: {"excess": r - 0.1, "ceiling": min(one, other) - 0.1})
    high = pairs("overlap", lambda r, one, other: max(one, other) - 0.1)
    over, high = pd.DataFrame(over).T, pd.Series(high)
    wrong = {"*above chance*": over + 0.1, "lower one": over.assign(ceiling=high), "a is b": over.assign(ceiling=1)}
    wrong |= {"value less chance": over * 2, "'ceiling' is missing": over[["excess"]]}

    def corrected(below) -> pd.Series:
        return pd.Series(pairs("spearman", lambda r, x, y: r / below(x, y) if min(x, y) > 0 else np.nan))

    plain = pd.Series(pairs("spearman", lambda r, *_: r))
    right = corrected(lambda x, y: (x * y) ** 0.5)
    noise = {
        "as it is": plain,
        "*root*": corrected(lambda x, y: x * y),
        "geometric": corrected(lambda x, y: (x + y) / 2),
    }
    chance = {"size of one top": 100, "as a share": 0.2, "one image": 0.04, "second one": 50, "one number": (20, 20)}
    return {
        "07.1": (20, {}, chance),
        "07.2": (over, {"kept": kept}, wrong),
        "07.3": (right, {"kept": kept}, noise | {"comes first": right * 2}),
    }


def of_augmentations() -> dict[str, Case]:
    policies = ("weak", "middle", "strong")
    rows = [(a, b, seed) for a in policies for b in policies for seed in range(3)]
    cross = pd.DataFrame(rows, columns=["policy", "scored", "seed"]).assign(auc=RNG.uniform(0.5, 0.9, len(rows)))
    mean = cross.pivot_table("auc", "policy", "scored")
    fall = mean.loc["weak"] - mean.loc["strong"]
    across = mean["weak"] - mean["strong"]
    slope = pd.DataFrame([(seed, way) for seed in range(4) for way in (OWN, FIXED)], columns=["seed", "scored"])
    slope = slope.assign(dose=-RNG.uniform(0.01, 0.1, len(slope)), value="m_rel")
    slope = pd.concat([slope, slope.assign(value="auc", dose=-0.5)])
    first, second = (
        slope[(slope["value"] == "m_rel") & (slope["scored"] == way)]["dose"].to_numpy() for way in (OWN, FIXED)
    )
    more = stats.paired_test(second, first)
    right = (more.mean, more.low, more.high)
    words = {"two words": "column", "along a row": ("row", "diagonal"), "one of": ("left", "right")}
    words |= {"one policy": ("diagonal", "column"), "first word is right": ("column", "row")}
    wrong = {"sign": (-right[0], -right[2], -right[1]), "mean is right": (right[0], 0, 1), "column dose": (1, 0, 2)}
    return {
        "08.1": (("column", "diagonal"), {}, words),
        "08.2": (fall, {"cross": cross}, {"other sign": -fall, "*trained with*": across, "in `scored`": fall / 2}),
        "08.3": (right, {"slope": slope}, wrong | {"3 numbers": right[0]}),
    }


def of_length() -> dict[str, Case]:
    epochs = np.array([10, 20, 40, 60, 100, 160])
    rows = [(name, seed, epoch) for name in NAMES for seed in range(3) for epoch in epochs]
    curves = pd.DataFrame(rows, columns=["dataset", "seed", "epoch"])
    curves["candidate"] = np.log2(curves["epoch"]) ** 1.5 / 50 + RNG.normal(0, 0.005, len(curves))
    plateaus = pd.DataFrame({"dataset": NAMES, "plateau": [20.0, 35.0]})

    def slopes(scale, start: dict[str, float]) -> pd.Series:
        found = {}
        for name in NAMES[::-1]:
            wide = curves[curves["dataset"] == name].pivot(index="epoch", columns="seed", values="candidate")
            wide = wide[wide.index >= start[name]]
            found[name] = wide.apply(
                lambda one: np.cov(scale(one.index), one)[0, 1] / np.var(scale(one.index), ddof=1)
            ).mean()
        return pd.Series(found)

    past, every = dict(zip(NAMES, (20, 40), strict=True)), dict.fromkeys(NAMES, 0)
    right = slopes(np.log2, past)
    wrong = {
        "factor e": slopes(np.log, past),
        "factor ten": slopes(np.log10, past),
        "per epoch": slopes(np.array, past),
    }
    wrong |= {"all checkpoints": slopes(np.log2, every), "one fit": right * 3}
    rise = {"straight line": 0.28, "eight doublings": 0.32, "how often": 0.2}
    return {
        "09.1": (0.12, {"slope": 0.04}, rise),
        "09.2": (right, {"curves": curves, "plateaus": plateaus}, wrong),
    }


def of_reliability() -> dict[str, Case]:
    rows = []
    for name in ("pooled", "projector"):
        for split in range(2):
            easy, own = RNG.normal(size=(2, 30))
            for replica in range(3):
                here = {
                    "representation": name,
                    "split": split,
                    "replica": replica,
                    "set": "candidate",
                    "row": range(30),
                }
                m, align = own + RNG.normal(size=30), easy + 0.5 * RNG.normal(size=30) - 0.3 * own
                rows.append(pd.DataFrame(here | {"m_rel": m, "align_f": align}))
    scores = pd.concat(rows, ignore_index=True)
    scores = pd.concat([scores, scores.assign(set="shared", row=scores["row"] + 30, m_rel=0.0)], ignore_index=True)

    def mean(name: str, x: str, sign: int, y: str) -> float:
        found = []
        part = scores[(scores["representation"] == name) & (scores["set"] == "candidate")]
        for _, one in part.groupby("split"):
            of = {r: table for r, table in one.groupby("replica")}
            found += [stats.spearman(sign * of[i][x], of[j][y]) for i in of for j in of if i != j]
        return float(np.mean(found))

    r = pd.Series({name: mean(name, "m_rel", 1, "m_rel") for name in ("projector", "pooled")})
    needed = pd.DataFrame({"single": r, "pairs": 9 * (1 - r) / r})
    wrong = {"single is the mean": needed + 1, "these are encoders": needed.assign(pairs=2 * needed["pairs"])}
    wrong |= {"in proportion": needed.assign(pairs=0.9 / r), "single is right": needed.assign(pairs=3)}
    m, align = r["pooled"], mean("pooled", "align_f", 1, "align_f")
    both = pd.DataFrame({"reliability": {"m_rel": m, "align_f": align}})
    right = both.assign(validity={"m_rel": m, "align_f": mean("pooled", "align_f", -1, "m_rel")}.values())
    turned = right.assign(validity=right["validity"] * [1, -1])
    valid = {"turn the sign": turned, "in both rows": right.assign(validity=0.5), "between two replicas": right / 2}
    return {
        "18.1": (0.7, {"reliability": 0.49}, {"two noisy": 0.49, "takes away less": 0.2401, "without noise": 1}),
        "18.2": (needed, {"scores": scores}, wrong),
        "18.3": (right, {"scores": scores}, valid),
    }


def of_canaries() -> dict[str, Case]:
    kinds = [""] * 20 + ["noise"] * 4 + ["rotated"] * 4
    rows = [
        (seed, of, kind)
        for seed in range(2)
        for of in ("candidate", "external")
        for kind in (kinds if of[0] == "c" else [""] * 20)
    ]
    scores = pd.DataFrame(rows, columns=["seed", "set", "kind"])
    shift = scores["kind"].map({"": 0.0, "noise": 1.0, "rotated": 0.5}) - (scores["set"] == "external")
    scores["m_rel"] = shift + RNG.normal(size=len(scores)).round(1)  # with ties
    scores["align_f"] = -shift + RNG.normal(size=len(scores)).round(1)

    def aucs(others: pd.DataFrame) -> pd.DataFrame:
        found = {}
        for kind in ("rotated", "noise"):
            for name in ("m_rel", "align_f"):
                each = []
                for seed in range(2):
                    a = scores[(scores["seed"] == seed) & (scores["kind"] == kind)][name].to_numpy()
                    b = others[(others["seed"] == seed) & (others["kind"] != kind)][name].to_numpy()
                    each.append((np.sign(a[:, None] - b[None]) / 2 + 0.5).mean())
                found[name, kind] = np.mean(each)
        return pd.Series(found).unstack(0)

    inside = scores["set"] == "candidate"
    right = aucs(scores[inside & (scores["kind"] == "")])
    wrong = {"ordinary image": 1 - right, "from one half": right - 0.5, "other kinds": aucs(scores[inside])}
    wrong |= {"ordinary *candidates*": aucs(scores[scores["kind"] == ""]), "share of pairs": right / 3}
    most = {
        "changed places": (0.1, 0.5),
        "first is right": (0.5, 0.2),
        "second is right": (1, 0.1),
        "*planted*": (0.2, 0.2),
    }
    return {
        "19.1": ((0.5, 0.1), {"images": 200, "planted": 40}, most | {"2 numbers": 0.5}),
        "19.2": (right, {"scores": scores}, wrong),
    }


CASES = of_methods() | of_consistency() | of_augmentations() | of_length() | of_reliability() | of_canaries()
