"""What the explorer shows: scores of the first split of committed experiments, and other measures of its images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ... import batch, paths, runs
from ...errors import DataError
from ...runs import tables
from ...specs import SETS

EACH = 1000  # images of one set, at most; of a larger set evenly spread ones
SPLIT = 0  # the seed of the split that is shown
FOUR_SETS, SCORING, JOINT = "03_four_sets", "04_cifar_scoring", "16_supervised_memorization"
FACTS = ["row", "label", "set"]
VALUES = ["m_rel", "m", "align_f", "align_g"]
NAMES = {"simclr": "SimCLR", "mae": "MAE", "vicreg": "VICReg", "byol": "BYOL", "dino": "DINO", "simsiam": "SimSiam"}
NAMES |= {"barlow_twins": "Barlow Twins", "supervised": "supervised"}
ENCODERS = {"mlp": "MLP", "cnn": "CNN", "vit": "ViT", "resnet9": "ResNet-9", "resnet18": "ResNet-18"}
NOT_MEASURES = {"dataset", "seed", *FACTS}
MEASURES = {
    "label_memorization": "label memorization",
    "dejavu_quadrant": "déjà vu, quadrant",
    "dejavu_memorized": "déjà vu, memorized (share of pairs)",
    "dejavu_gain": "déjà vu, gain of votes for the class",
    "el2n": "EL2N",
    "knn_pixels": "distance to neighbours, pixels",
    "centroid_pixels": "distance to the class mean, pixels",
    "knn_neutral": "distance to neighbours, neutral features",
    "centroid_neutral": "distance to the class mean, neutral features",
    "prototype_neutral": "distance to prototypes, neutral features",
}
KINDS = {
    "sslmem_": "SSLMem of pairs (independents: sign turned)",
    "ensemble_": "ensemble score",
    "membership_": "membership (alignment alone)",
}


@dataclass(frozen=True)
class Measures:
    """Other measures of a split's images: `table` has row and set, then a column a measure."""

    page: str
    profile: str
    table: pd.DataFrame


@dataclass(frozen=True)
class Series:
    """Scores of one split: `table` has row, label, set, m_rel, m, align_f, align_g, se (one row an image)."""

    key: str
    dataset: str
    method: str
    page: str  # the notebook that made the numbers; "" for tables of `sslmem score`
    file: str  # of the numbers, in the tree
    about: str  # how they were made
    error: str  # what `se` is the standard error of
    recipe: dict[str, Any]  # what is needed to draw the views and the split again
    table: pd.DataFrame
    measures: tuple[Measures, ...] = field(default=())


def collect() -> list[Series]:
    """Every series that committed tables can fill, from the largest profile that has the dataset; [] without tables."""
    found = [*_four_sets(), *_scoring(), *_published()]
    return [_with_measures(one) for one in sorted(found, key=lambda one: (one.dataset, one.key))]


def _largest(notebook: str, table: str) -> Iterator[tuple[str, str, pd.DataFrame, dict[str, Any]]]:
    """Each dataset's part of a notebook's table in the first split, from the largest profile that has the dataset."""
    seen: set[str] = set()
    for profile in batch.committed_profiles(notebook):
        folder = paths.RESULTS / notebook / profile
        if not (folder / f"{table}.parquet").is_file():
            continue
        whole, about = tables.read(folder, table, f"sslmem run {notebook[:2]} --profile {profile}")
        whole = whole[whole["seed"] == SPLIT]
        for dataset, part in whole.groupby("dataset", sort=True):
            if dataset not in seen:
                yield str(dataset), profile, part, about
        seen |= set(whole["dataset"])


def _four_sets() -> Iterator[Series]:
    for dataset, profile, part, about in _largest(FOUR_SETS, "scores"):
        given = about["params"]
        part = part[part["representation"] == "pooled"].rename(columns={"se_views": "se"})
        recipe = {name: given[name] for name in ("candidate", "shared", "external", "method", "encoder")}
        yield Series(
            key=f"{FOUR_SETS}-{dataset}",
            dataset=dataset,
            method=f"{_method(given['method'], given['encoder'])}, all four sets",
            page=FOUR_SETS,
            file=_file(FOUR_SETS, profile, "scores"),
            about=f"one pair of encoders, {_made(profile, about)}",
            error=f"of m, over the {given['views']} views",
            recipe={**recipe, "views": given["views"]},
            table=_tidy(part),
        )


def _scoring() -> Iterator[Series]:
    for dataset, profile, whole, about in _largest(SCORING, "scores"):
        given = about["params"]
        file = f"sslmem run {SCORING[:2]} --profile {profile}"
        first, _ = tables.read(paths.RESULTS / SCORING / profile, "first_split", file)
        first = first[(first["dataset"] == dataset) & (first["seed"] == SPLIT)]
        vit = {name: given[name] for name in ("patch", "width", "depth", "heads")}
        for method, part in whole.groupby("method", sort=False):
            spread = first[first["method"] == method].groupby("row")["m_rel"].std() / given["each"] ** 0.5
            encoder = "vit" if method == "mae" else given["encoder"]
            recipe = {name: given[name] for name in ("candidate", "shared", "external")}
            recipe |= {"method": method, "encoder": encoder, "views": given["views"]}
            yield Series(
                key=f"{SCORING}-{dataset}-{method}",
                dataset=dataset,
                method=_method(str(method), encoder),
                page=SCORING,
                file=_file(SCORING, profile, "scores"),
                about=f"mean of {given['each']} pairs of encoders, {_made(profile, about)}",
                error=f"of m_rel, from {given['replicas']} pairs on the same split (candidates only)",
                recipe=recipe | ({"options": vit} if method == "mae" else {}),
                table=_tidy(part.assign(m=part["align_g"] - part["align_f"], se=part["row"].map(spread))),
            )


def _published() -> Iterator[Series]:
    """The tables that `sslmem_utils.load_scores` knows, with the recipe that their sidecars hold."""
    for path in sorted((paths.RESULTS / "scores").glob("*/[!.]*.parquet")):
        about = tables.verified(path)
        table, settings = pd.read_parquet(path), about["settings"]
        if "align_g" not in table:
            continue  # one encoder alone has no score
        part = table[(table["seed"] == SPLIT) & (table["representation"] == "pooled")]
        f, score = settings["f"], settings["score"]
        yield Series(
            key=f"scores-{path.parent.name}-{path.stem}",
            dataset=f["dataset"]["name"],
            method=f"{_method(f['method']['name'], f['encoder']['name'])}, published scores",
            page="",
            file=tables.shown(path),
            about=f"one pair of encoders, {_made('', about)}",
            error=f"of m, over the {score['views']} views",
            recipe={**{name: f[name] for name in ("dataset", "split", "view")}, "views": score["views"]},
            table=_tidy(part.rename(columns={"se_views": "se"})),
        )


def _method(method: str, encoder: str) -> str:
    return f"{NAMES.get(method, method)} with {ENCODERS.get(encoder, encoder)}"


def _made(profile: str, about: dict[str, Any]) -> str:
    where = f"profile {profile}, " if profile else ""
    return f"{where}{runs.machine(about)}, commit {about['commit']}, {about['created'][:10]}"


def _file(notebook: str, profile: str, table: str) -> str:
    return f"results/{notebook}/{profile}/{table}.parquet"


def _tidy(part: pd.DataFrame) -> pd.DataFrame:
    """One row an image, sets in their usual order, at most EACH of a set."""
    if twice := int(part["row"].duplicated().sum()):
        raise DataError(f"the scores of one split must name an image once, found {twice} again; write the table anew.")
    part = part.sort_values("row", ignore_index=True)
    some = []
    for name in SETS:
        rows = part[part["set"] == name]
        some.append(rows.iloc[np.linspace(0, len(rows) - 1, min(EACH, len(rows))).round().astype(int)])
    return pd.concat(some, ignore_index=True)[[*FACTS, *VALUES, "se"]]


def _with_measures(series: Series) -> Series:
    """The series with the other measures of its images: of the tables whose images lie in the same sets."""
    found = []
    for page, name in ((JOINT, "per_image"), (SCORING, "typicality")):
        for dataset, profile, part, _ in _largest(page, name):
            if dataset == series.dataset and _same_split(series.table, part):
                kept = [column for column in part if column not in NOT_MEASURES]
                found.append(Measures(page, profile, part[["row", "set", *kept]].reset_index(drop=True)))
    return Series(**{**vars(series), "measures": tuple(found)})


def _same_split(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether the images that two tables of whole sets share are all images of the sets they share, in equal sets."""
    common = set(a["set"]) & set(b["set"])
    of_a, of_b = (set(zip(one["row"], one["set"], strict=True)) for one in (a, b))
    of_a, of_b = ({pair for pair in one if pair[1] in common} for one in (of_a, of_b))
    return bool(of_a) and (of_a <= of_b or of_b <= of_a)


def measure_name(column: str) -> str:
    """The words for a measure of the joint table; the column's own name where there are none."""
    for prefix, words in KINDS.items():
        if column.startswith(prefix):
            return f"{words}, {NAMES.get(name := column.removeprefix(prefix), name)}"
    return MEASURES.get(column, MEASURES.get(column.removeprefix("neighbours_"), column))


def datasets(found: Sequence[Series]) -> list[str]:
    """Names of the datasets of some series, in their order."""
    return list(dict.fromkeys(one.dataset for one in found))
