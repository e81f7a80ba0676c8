"""One self-contained page about a table of scores: no script, no font, no file from elsewhere."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd

from .. import figures, stats
from ..specs import SETS, ViewSpec
from .audit import audit
from .pictures import Pictures

_STYLE = """
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.15rem; margin-top: 2rem }
figure { margin: 0 } figcaption, .small { font-size: .85rem }
.wide { overflow-x: auto } .wide > svg { display: block; width: 100%; min-width: 32rem; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: left; font-size: .85rem }
th, td { padding: .2rem .6rem .2rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886 }
th { white-space: normal; vertical-align: bottom } th:first-child, td:first-child { text-align: left }
@media (max-width: 30rem) { table { font-size: .85rem } }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); gap: .6rem; padding: 0 }
.tiles img { width: 100%; image-rendering: pixelated; outline: 1px solid #8886 }
.tiles figcaption { line-height: 1.25; overflow-wrap: anywhere } 
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; font-size: .85rem }
dt { font-weight: 600 } dd { margin: 0; overflow-wrap: anywhere }
"""
_SIDE = 96  # pixels of a thumbnail; smaller images stay as they are
_EACH = 16  # images in the gallery at either end


def report(table: pd.DataFrame, images: Pictures, facts: Mapping[str, object] = {}) -> str:
    """The page as HTML text: distribution, sets with tests, gallery of both ends, notes and settings.

    `table` is what `score` returned for `images`; `facts` are shown at the end beside its settings. With one encoder
    the page shows alignment, and membership p-values when there are external images.
    """
    alone = bool(table["m"].isna().all())
    value, known = ("align_f" if alone else "m_rel"), table[table["set"] != ""]
    title = f"{'Alignment' if alone else 'Memorization'} of {len(table):,} images of {images.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        "".join(f"<p>{escape(note[:1].upper() + note[1:])}.</p>" for note in table.attrs.get("notes", [])),
        "<h2>Distribution</h2>",
        _distribution(known if len(known) else table, value, bool(len(known))),
        _sets(known, value) if len(known) else "<p>No sets were given, so nothing is compared with a control.</p>",
        _membership(table) if alone and (table["set"] == "external").sum() > 1 else "",
        _gallery(table, images, value, alone),
        "<h2>How it was measured</h2>",
        _facts({**table.attrs.get("settings", {}), **facts}),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body><main>\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def _distribution(table: pd.DataFrame, value: str, with_sets: bool) -> str:
    figure = figures.distribution_of_sets(table, value) if with_sets else _density(table, value)
    text = figures.alt(figure) or f"Density of {figures.label(value)}, mean {table[value].mean():.4f}."
    svg = re.sub(r"^.*?<svg ", f'<svg role="img" aria-label="{escape(text)}" ', figures.to_svg(figure), flags=re.DOTALL)
    return f'<figure><div class="wide" tabindex="0">{svg}</div><figcaption>{escape(text)}</figcaption></figure>'


def _density(table: pd.DataFrame, value: str) -> object:
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure(figsize=figures.SIZES["wide"], layout="constrained")
        axes, numbers = figure.subplots(), table[value].to_numpy(float)
        edge = 0.1 * np.ptp(numbers)
        at = np.linspace(numbers.min() - edge, numbers.max() + edge, 200)
        axes.fill_between(at, stats.density(numbers, at), color=figures.INK, alpha=0.3, lw=0)
        axes.set(xlabel=figures.label(value), yticks=[])
        axes.spines["left"].set_visible(False)
    return figure


def _sets(table: pd.DataFrame, value: str) -> str:
    """Means of the sets, and candidates against each of the others."""
    scores = stats.scores_by_set(table, value)
    outside = scores["external"].mean() if "external" in scores else np.nan
    rows = [
        (name, f"{len(some):,}", f"{some.mean():.4f}", _number(some.mean() - outside, 4), f"{some.std():.4f}")
        for name, some in scores.items()
    ]
    found = _table(("set", "images", "mean", "minus external", "sd"), rows, f"Means of {figures.label(value)}.")
    others = [name for name in SETS if name in scores and name != "candidate"]
    if "candidate" not in scores or not others:
        return f"<h2>Sets</h2>{found}"
    tests = stats.paper_t_tests({name: scores[name] for name in ("candidate", *others)}).set_index(["first", "second"])
    rows = []
    for name in others:
        one = tests.loc[("candidate", name)]
        area = stats.auc(scores["candidate"], scores[name])
        rows.append((name, f"{area:.3f}", _number(one["d"], 2), _number(one["t"], 2), f"{one['p_two_sided']:.2g}"))
    note = "All images share the same encoders: p describes these images and says nothing about other encoders."
    head = ("candidates against", "AUC", "Cohen's d", "t", "p, two-sided")
    return f"<h2>Sets</h2>{found}{_table(head, rows, note)}"


def _membership(table: pd.DataFrame) -> str:
    rates = audit(table)[1]
    rows = [
        (one["set"], f"{one['level']:.0%}", f"{one['flagged']} of {one['n']}", f"{one['low']:.3f} to {one['high']:.3f}")
        for one in rates.to_dict("records")
    ]
    note = (
        "Images with p at or below the level, and the 95 % interval of their share. On external and independent images "
        "these are false positives. The p-values need external images that are exchangeable with candidates that were "
        "not trained on: the same source, preprocessing and selection. By chance, that "
        "share of the images that were not trained on is flagged at each level."
    )
    return f"<h2>Was it in the training set?</h2>{_table(('set', 'level', 'flagged', 'share'), rows, note)}"


def _gallery(table: pd.DataFrame, images: Pictures, value: str, alone: bool) -> str:
    some = table[table["set"] == "candidate"] if (table["set"] == "candidate").any() else table
    order = some.sort_values(value, ascending=alone, kind="stable")
    words = ("Best aligned", "Worst aligned") if alone else ("Most memorized", "Least memorized")
    each, ends = min(_EACH, max(1, len(order) // 2)), []
    of = "candidates" if len(some) < len(table) else "images"
    for word, rows in ((words[0], order.head(each)), (words[1], order.tail(each).iloc[::-1])):
        tiles = "".join(_tile(row, pixels, value, images.classes) for row, pixels in zip(
            rows.to_dict("records"), images.read(rows.index.to_numpy()).numpy(), strict=True
        ))  # fmt: skip
        ends.append(f'<h2>{word} {of}</h2><div class="tiles">{tiles}</div>')
    return "".join(ends)


def _tile(row: Mapping[str, object], pixels: np.ndarray, value: str, classes: Sequence[str]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data, label = base64.b64encode(buffer.getvalue()).decode(), int(row["label"])
    name = str(row["index"])
    if 0 <= label < len(classes) and classes[label] not in name.split("/"):
        name += f" ({classes[label]})"
    return (
        f'<figure><img alt="image {escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{row[value]:.3f}<br>{escape(name)}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    table = f"<table><tr>{names}</tr>{lines}</table>"
    return f'<div class="wide" tabindex="0">{table}</div><p class="small">{escape(note)}</p>'


def _facts(facts: Mapping[str, object]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(_said(v))}</dd>" for k, v in facts.items()) + "</dl>"


def _said(value: object) -> str:
    """A setting in words; of a view policy only what it changes."""
    if isinstance(value, Mapping):
        plain = ViewSpec().model_dump(mode="json")
        return ", ".join(f"{k} {_said(v)}" for k, v in value.items() if k not in plain or v != plain[k])
    return "-" if value is None else str(value)


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"
