"""What a change of view policy does to memorization: doses, single augmentations, masks, and policies to score with.

    design = policies.doses(base, [0.8, 0.08], [0.0, 0.8])
    table = policies.measure(base, design, range(5), {"recipe's": base.view, "own": None})
    policies.slopes(table[table["scored"] == "recipe's"], {"crop": -1, "jitter": 1}, "m_rel")

A design is a list of cells: what a cell is called (columns of the table) and the policy its encoders are trained with.
Everything else, the number of steps among it, is that of `base`. m_rel depends on the views it is measured with, so
that doses are compared under ONE scoring policy; the own policy of each cell, the papers' way, stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from . import comparison, data, encoders, pairs, training, views
from .errors import DataError, SpecError
from .specs import TrainSpec, ViewSpec
from .store import Store

Design = Sequence[tuple[Mapping[str, object], ViewSpec]]
COLOUR = ("saturation", "hue", "grayscale")  # what grey images do not have
PAPER = ("weak", "normal", "strong")  # Wang et al. 2024 (arXiv 2409.19069), appendix B
ADDED = {"flip": {"flip": 0.5}, "vertical flip": {"vertical_flip": 0.5}, "blur": {"blur": 0.5}}
ADDED |= {"grayscale": {"grayscale": 0.2}}
REMOVED = {
    "crop": {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)},
    "flip": {"flip": 0.0},
    "jitter": {"jitter": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "grayscale": {"grayscale": 0.0},
}


# ---------------------------------------------------------------- designs
def dosed(base: TrainSpec, crop: float, jitter: float) -> ViewSpec:
    """The policy of `base` with another smallest crop (share of the area) and another strength of the colour jitter.

    The strength is that of brightness and contrast, on colour images of saturation too and four times that of hue, as
    in SimCLR (arXiv 2002.05709); 0 switches the jitter off. All else stays.
    """
    policy = base.view.but(crop_scale=(crop, 1.0), **REMOVED["jitter"])
    if not jitter:
        return policy
    colour = {"saturation": jitter, "hue": jitter / 4} if _colour(base) else {}
    return policy.but(jitter=base.view.jitter or 0.8, brightness=jitter, contrast=jitter, **colour)


def doses(base: TrainSpec, crops: Sequence[float], jitters: Sequence[float]) -> Design:
    """Every crop with every jitter, each from the weakest to the strongest; columns crop and jitter."""
    return [({"crop": crop, "jitter": jitter}, dosed(base, crop, jitter)) for crop in crops for jitter in jitters]


def corners(design: Design) -> dict[str, ViewSpec]:
    """The policies of a design of doses whose columns all are extreme, by name."""
    extreme = {name: {end([dose[name] for dose, _ in design]) for end in (min, max)} for name in design[0][0]}
    return {
        ", ".join(f"{name} {value:g}" for name, value in dose.items()): view
        for dose, view in design
        if all(value in extreme[name] for name, value in dose.items())
    }


def singles(base: TrainSpec, names: Sequence[str] = ()) -> Design:
    """The policy of `base`, and that policy less or plus one augmentation each; column policy.

    `names` picks some of them, "without crop" and "with blur" say; default: all that suit the images. SpecError for a
    name that is not among these.
    """
    policy, found = base.view, {}
    has = {"crop": policy.crop_scale[0] < 1, "flip": policy.flip, "jitter": policy.jitter}
    has |= {"grayscale": policy.grayscale, "blur": policy.blur, "vertical flip": policy.vertical_flip}
    for name, changes in REMOVED.items():
        if has[name]:
            found[f"without {name}"] = policy.but(**changes)
    for name, changes in ADDED.items():
        if not has[name] and (name != "grayscale" or _colour(base)):
            found[f"with {name}"] = policy.but(**changes)
    if unknown := [name for name in names if name not in found]:
        raise SpecError(
            f"a single augmentation of {base.dataset.name}'s policy is one of {', '.join(found)}, found "
            f"{unknown[0]!r}; use one of these."
        )
    kept = {name: view for name, view in found.items() if name in names or not names}
    return [({"policy": name}, view) for name, view in {"as it is": policy, **kept}.items()]


def named(names: Sequence[str] = PAPER) -> Design:
    """Policies by name, the papers' weak, normal and strong ones by default; column policy."""
    return [({"policy": name}, views.named(name)) for name in names]


def masks(base: TrainSpec, ratios: Sequence[float], kinds: Sequence[str]) -> Design:
    """MAE's masks: each ratio of the kind of `base`, each further kind at its ratio; columns mask and kind."""
    view = base.view
    cells = [(ratio, view.mask_kind) for ratio in ratios]
    cells += [(view.mask, kind) for kind in kinds if kind != view.mask_kind]
    return [({"mask": ratio, "kind": kind}, view.but(mask=ratio, mask_kind=kind)) for ratio, kind in cells]


def check(base: TrainSpec, policy: ViewSpec) -> None:
    """Raise SpecError for a policy that the images or the encoder of `base` cannot take, before anything is trained.

    Colour operations on grey images, masks for an encoder without patches, patches that do not divide the image, masks
    that hide no patch or all of them, and a blur larger than the image.
    """
    shape = data.load(base.dataset).shape
    asked = [name for name in COLOUR if getattr(policy, name)]
    if shape[0] == 1 and asked:
        raise SpecError(
            f"{base.dataset.name} has grey images, on which {' and '.join(asked)} would do nothing; set "
            f"{'it' if len(asked) == 1 else 'them'} to 0 or choose a dataset with colours."
        )
    comparison.setting(base, view=policy)
    ids, number = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    views.draw(policy, ids, number, 0, shape)
    if policy.mask:
        patch = encoders.options(base.encoder)["patch"]
        if patch != policy.mask_patch:
            raise SpecError(
                f"mask_patch must be the patch of the ViT, {patch} pixels, found {policy.mask_patch}; change one."
            )
        if not views.mask(policy, ids, number, 0, shape).any():
            raise SpecError(
                f"a mask of {policy.mask:g} hides none of the {(shape[1] // patch) * (shape[2] // patch)} patches of "
                f"{base.dataset.name}; raise it or take a smaller patch."
            )


def _colour(base: TrainSpec) -> bool:
    return data.load(base.dataset).shape[0] == 3


# ---------------------------------------------------------------- measurements
def measure(
    base: TrainSpec,
    design: Design,
    seeds: Sequence[int],
    scoring: Mapping[str, ViewSpec | None],
    *,
    views: int = 20,
    store: Store | None = None,
) -> pd.DataFrame:
    """Train the pairs of every cell of a design and score them under every scoring policy; one row each and seed.

    `scoring`: policies by name, None for the one that the encoders were trained with. Columns: those of the design,
    scored (the policy's name), seed, m_rel (mean of S_C less that of S_E), auc (S_C against S_E), d (Cohen's d),
    frac95 (share of S_C above the 95th percentile of S_E), align (mean alignment loss of g on S_E: how far the scoring
    policy moves images that it never saw), loss (f's training loss in its last epoch; comparable within a policy only).
    """
    store = store or Store()
    policies = [view for view in scoring.values() if view is not None]
    for view in (*(view for _, view in design), *policies):
        check(base, view)
    settings = {name: comparison.setting(base, views, view) for name, view in scoring.items()}
    bases = [base.but(view=view) for _, view in design]
    specs = [spec for one in bases for seed in seeds for spec in pairs.pair_specs(one, seed)]
    pairs.align_all(list(dict.fromkeys(specs)), list(settings.values()), store)
    rows = []
    for (dose, _), one in zip(design, bases, strict=True):
        losses = {seed: _last_loss(pairs.pair_specs(one, seed)[0], store) for seed in seeds}
        for name, setting in settings.items():
            for seed, table in pairs.scores(one, seeds, [setting], store=store).groupby("seed"):
                found = comparison.levels(table)
                align = float(table.loc[table["set"] == "external", "align_g"].mean())
                row = {**dose, "scored": name, "seed": seed, "m_rel": found["avg"], "align": align}
                rows.append({**row, **{key: found[key] for key in ("auc", "d", "frac95")}, "loss": losses[seed]})
    return pd.DataFrame(rows)


def _last_loss(spec: TrainSpec, store: Store) -> float:
    """Training loss of the last epoch of an encoder, which is trained when its weights were removed."""
    return float(pd.read_parquet(training.train(spec, store) / "metrics.parquet")["loss"].iloc[-1])


# ---------------------------------------------------------------- what decides
def slopes(table: pd.DataFrame, columns: Mapping[str, int], value: str = "m_rel") -> pd.DataFrame:
    """Change of a value from the weakest to the strongest dose in each seed, by least squares.

    `columns` are those of the doses, 1 where a larger number is stronger and -1 where a smaller one is. Each counts in
    equal steps from 0 to 1, the dose is their mean. Columns: seed, dose, and the slope in each of `columns` alone.
    DataError where a column has one dose only or a seed lacks some of them.
    """
    steps = {}
    for name, sign in columns.items():
        ranks = (sign * table[name]).rank(method="dense") - 1
        if not ranks.max() > 0:
            raise DataError(f"a slope needs two doses of {name} or more, found one; add another to the design.")
        steps[name] = ranks / ranks.max()
    table = table.assign(**steps, dose=sum(steps.values()) / len(steps))
    rows = []
    for seed, part in table.groupby("seed"):
        if len(part) * table["seed"].nunique() != len(table) or part.duplicated(list(columns)).any():
            raise DataError(
                f"every seed needs every dose once, found {len(part)} rows of seed {seed}; keep one scoring policy."
            )
        found = {name: float(np.polyfit(part[name], part[value], 1)[0]) for name in ("dose", *columns)}
        rows.append({"seed": seed, **found})
    return pd.DataFrame(rows)


def contrast(table: pd.DataFrame, column: str, reference: str, value: str = "m_rel") -> pd.DataFrame:
    """A value of each policy less that of the reference policy with the same seed; columns of keys, seed, change."""
    wide = table.pivot(index="seed", columns=column, values=value)
    order = [name for name in dict.fromkeys(table[column]) if name != reference]
    long = wide[order].sub(wide[reference], axis=0).rename_axis(columns=column)
    return long.melt(ignore_index=False, value_name="change").reset_index()


def own_advantage(table: pd.DataFrame, column: str = "policy", value: str = "auc") -> pd.DataFrame:
    """A value under the policy trained with less its mean under the others, averaged over policies; a row a seed.

    `table`: `measure` of named policies scored under the same names.
    """
    rows = []
    for seed, part in table.groupby("seed"):
        own = part[column] == part["scored"]
        rows.append({"seed": seed, "advantage": float(part.loc[own, value].mean() - part.loc[~own, value].mean())})
    return pd.DataFrame(rows)
