"""The explorer's files: a data script and a sheet of thumbnails a dataset, sheets of views, and the block of HTML."""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...data import cache, registry
from ...figures import LABELS
from ...specs import SETS
from ...store import write_atomic
from . import pictures
from .series import VALUES, Measures, Series, datasets, measure_name

LETTERS = {"candidate": "C", "independent": "I", "shared": "S", "external": "E"}
ROLES = {
    "candidate": "f was trained on it, g was not",
    "independent": "g was trained on it, f was not",
    "shared": "both were trained on it",
    "external": "neither was trained on it",
}
FIRST = ("fashion_mnist", "cifar10", "mnist", "digits")  # the order in which datasets are offered
VIEWED_IN_A_ROW = 10  # images whose views share a line of their sheet
assert set(LETTERS) == set(SETS) == set(ROLES)


def title(dataset: str) -> str:
    """What a dataset is called."""
    entry = registry.entries().get(dataset)
    return entry.title if entry else dataset


def class_names(dataset: str) -> list[str]:
    """Names of a dataset's classes, by label: of the images here, else of the registry; [] where neither has them."""
    about, entry = cache.describe(dataset), registry.entries().get(dataset)
    return list(about["classes"] if about else entry.classes if entry else [])


def numbers(values: pd.Series) -> list[float | str | None]:
    """Six significant digits, text as it is, None for what is not known."""
    if values.dtype.kind not in "fiu":
        return [None if pd.isna(value) else str(value) for value in values]
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.astype(float)]


def describe(dataset: str, found: Sequence[Series], folder: Path, addresses: Mapping[str, str]) -> dict[str, Any]:
    """All that the browser needs to know of a dataset, its pictures written into `folder`.

    `addresses` has the page of every notebook, seen from the explorer's.
    """
    why = pictures.missing(dataset)
    images = None if why else pictures.images_of(dataset)
    others = {one.key: "" if images is None else pictures.other_images(one, images) for one in found}
    about: dict[str, Any] = {"name": dataset, "title": title(dataset), "why": why, "classes": class_names(dataset)}
    about["sheet"] = None
    shown = [one for one in found if images is not None and not others[one.key]]
    place: dict[int, int] = {}
    if shown:
        rows = pictures.union(shown)
        place = {int(row): number for number, row in enumerate(rows)}
        about["sheet"] = _write_sheet(folder, f"{dataset}-images", images.rows(rows).numpy(), pictures.COLUMNS)
    groups: list[Measures] = []
    about["series"] = []
    for one in found:
        kept = _series(one, groups) | {"why": others[one.key], "address": addresses.get(one.page, "")}
        if one in shown:
            kept |= {"tiles": [place[row] for row in one.table["row"]], "views": _views(one, images, folder)}
        about["series"].append(kept)
    about["groups"] = [_group(one, found, addresses) for one in groups]
    return about


def _series(series: Series, groups: list[Measures]) -> dict[str, Any]:
    """The numbers of a series, and which of `groups` hold its other measures; new ones are appended to them."""
    table = series.table
    out: dict[str, Any] = {name: getattr(series, name) for name in ("key", "method", "page", "file", "about", "error")}
    out |= {"rows": table["row"].tolist(), "labels": table["label"].tolist()}
    out |= {"sets": "".join(table["set"].map(LETTERS)), "tiles": None, "views": None, "groups": []}
    out["values"] = {name: numbers(table[name]) for name in [*VALUES, "se"]}
    for one in series.measures:
        same = [number for number, known in enumerate(groups) if one.table.equals(known.table)]
        out["groups"] += same or [len(groups)]
        groups += [] if same else [one]
    return out


def _views(series: Series, images: Any, folder: Path) -> dict[str, Any]:
    tiles = pictures.views_of(series, images)
    about = _write_sheet(folder, f"{series.key}-views", tiles, pictures.SHOWN * VIEWED_IN_A_ROW)
    shown = {"each": pictures.SHOWN, "compared": series.recipe["views"]}
    return about | shown | {"rows": pictures.viewed(series).tolist()}


def _group(group: Measures, found: Sequence[Series], addresses: Mapping[str, str]) -> dict[str, Any]:
    """A table of other measures: of the images that some series of the dataset has."""
    part = group.table[group.table["row"].isin(pictures.union(found))]
    columns = [{"key": name, "name": measure_name(name), "values": numbers(part[name])} for name in part.columns[2:]]
    where = {"page": group.page, "profile": group.profile, "address": addresses.get(group.page, "")}
    return {**where, "rows": part["row"].tolist(), "columns": columns}


def script(about: Mapping[str, Any]) -> str:
    """A dataset's data as a script: JSON that no text in it can end or leave, wherever it is put."""
    text = json.dumps(about, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f"window.sslmemExplorerData({text});\n"


def _write_sheet(folder: Path, name: str, tiles: NDArray[np.uint8], columns: int) -> dict[str, Any]:
    content, side = pictures.sheet(tiles, columns)
    file = _named(name, content, "webp")
    write_atomic(folder / file, lambda path: path.write_bytes(content))
    return {"file": file, "side": side, "columns": columns, "lines": -(-len(tiles) // columns)}


def _named(name: str, content: bytes, ending: str) -> str:
    """A file's name with its content's digest: a browser never mixes two builds."""
    return f"{re.sub('[^a-z0-9_]+', '-', name.lower())}-{hashlib.sha256(content).hexdigest()[:8]}.{ending}"


def write(found: Sequence[Series], folder: Path, addresses: Mapping[str, str]) -> list[dict[str, Any]]:
    """Write everything into `folder`; the datasets to choose from, those with pictures first: name, title, script."""
    out = []
    for dataset in datasets(found):
        about = describe(dataset, [one for one in found if one.dataset == dataset], folder, addresses)
        content = script(about).encode()
        file = _named(dataset, content, "js")
        write_atomic(folder / file, lambda path, content=content: path.write_bytes(content))
        out.append({"name": dataset, "title": about["title"], "script": file, "pictures": about["sheet"] is not None})
    return sorted(out, key=lambda one: (not one["pictures"], FIRST.index(one["name"]) if one["name"] in FIRST else 9))


def markup(choices: Sequence[Mapping[str, Any]], base: str) -> str:
    """The block of HTML that the script fills; hidden until it runs. `base`: where the files are, from the page."""
    options = "".join(
        f'<option value="{html.escape(one["script"])}">{html.escape(one["title"])}</option>' for one in choices
    )
    values = "".join(f'<option value="{name}">{html.escape(LABELS.get(name, name))}</option>' for name in VALUES)
    sets = "".join(
        f'<label class="sslmem-ex-set sslmem-ex-{name}"><input type="checkbox" name="set" value="{letter}" checked>'
        f'<span class="sslmem-ex-mark" aria-hidden="true">{letter}</span> {name} '
        f'<span class="sslmem-ex-role">({ROLES[name]})</span></label>'
        for name, letter in LETTERS.items()
    )
    fields = {"base": base, "datasets": options, "values": values, "sets": sets}
    text = (Path(__file__).parent / "explorer.html").read_text(encoding="utf-8")
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    return text


def extremes(series: Series, show: int) -> pd.DataFrame:
    """The most and the least memorized candidates, `show` of each at most, from the most memorized down."""
    table = series.table[series.table["set"] == "candidate"].sort_values("m_rel", ascending=False, kind="stable")
    take = min(show, len(table) // 2)
    return pd.concat([table.head(take), table.tail(take)], ignore_index=True)
