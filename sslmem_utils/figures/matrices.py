"""Figures of cells: a matrix with a number in each, and a table with bars."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from ..stats import Interval, Number, require, show
from .style import BLUE, DASHED, INK, SIZES, VERMILLION, colors, label, mean_bar, settled, style

PALE, DARK = "#f3f0ea", "#1b1f24"  # of a cell at the reference, and of the text in pale cells
_RAMP = LinearSegmentedColormap.from_list("cells", [VERMILLION, PALE, BLUE])  # opaque: alike on white and on black


@style()
def heatmap(
    table: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    low: str | None = None,
    high: str | None = None,
    *,
    reference: Number = 0.0,
    xlabel: str = "",
    ylabel: str = "",
    what: str = "",
) -> Figure:
    """A matrix of numbers: one cell for each row of the table, its value and interval written in it.

    `x`, `y` hold the names of columns and rows, in the order in which they first occur; `low`, `high` name the columns
    of the interval. Colour says how far the value lies above (blue) or below (red) `reference`; cells without a value
    are empty, rows of a name with itself are framed. `what` names the quantity.
    """
    require(table, [x, y, value, *(side for side in (low, high) if side)])
    columns, rows = (list(dict.fromkeys(table[name].astype(str))) for name in (x, y))
    far = (table[value].astype(float) - reference).abs()
    most = max(float(far.max()), 1e-9) if far.notna().any() else 1.0
    digits = 2 if most > 0.1 else 3
    side = max(0.62, min(1.0, (SIZES["wide"][0] - 1.3) / len(columns)))  # inches
    narrow = side < 0.75  # too little for a name or an interval in one line
    size = (min(SIZES["wide"][0], 1.3 + side * len(columns)), 0.9 + (0.6 if narrow else 0.5) * len(rows))
    figure, said = Figure(figsize=size, layout="constrained"), []
    axes = figure.subplots()
    for row in table.to_dict("records"):
        at, down, number = columns.index(str(row[x])), rows.index(str(row[y])), float(row[value])
        if columns[at] == rows[down]:
            axes.add_patch(Rectangle((at - 0.5, down - 0.5), 1, 1, fc="none", ec=INK, lw=1.6, zorder=5))
        if math.isnan(number):
            continue
        fill = _RAMP(0.5 + (number - reference) / most / 2)
        axes.add_patch(Rectangle((at - 0.5, down - 0.5), 1, 1, fc=fill, ec="none"))
        ends = [float("nan") if end is None else float(row[end]) for end in (low, high)]
        interval = "" if np.isnan(ends).any() else "[{:.{d}f}, {:.{d}f}]".format(*ends, d=digits)
        written = interval.replace(", ", ",\n") if narrow else interval
        ink = DARK if np.dot(fill[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"
        text = f"{number:.{digits}f}"
        axes.text(
            at,
            down - (0.26 if interval and narrow else 0.16 if interval else 0),
            text,
            color=ink,
            ha="center",
            va="center",
            weight="bold",
        )
        axes.text(at, down + 0.24, written, color=ink, ha="center", va="center", size=6 if narrow else 7)
        said.append(f"{row[y]} and {row[x]} {text} {interval}".strip())
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel, ylabel=ylabel)
    upright = {"rotation": 90, "va": "top"} if narrow else {}
    axes.set_xticks(range(len(columns)), [name.replace("\n", " ") if narrow else name for name in columns], **upright)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(what or label(value))
    return settled(figure, f"{what or label(value)}, rows {ylabel or y}, columns {xlabel or x}: {'; '.join(said)}.")


@style()
def table_with_bars(
    table: pd.DataFrame,
    row: str,
    columns: Mapping[str, str],
    column: str = "column",
    group: str | None = None,
    marks: Mapping[str, Number] | None = None,
) -> Figure:
    """A table whose cells are a number, its interval and a bar from 0: one panel a column, one line a row.

    `table`: `row` (names, in order), `column`, mean, low, high (NaN without an interval), and perhaps `group`, whose
    colour is used. `columns` maps the names in `column` to headings. `marks` draws a dashed line where a column would
    be without an effect (a nominal rate, chance), from where its bars then start.
    """
    require(table, [row, column, "mean", "low", "high"])
    names, marks = list(dict.fromkeys(table[row].astype(str))), dict(marks or {})
    of = dict(zip(table[row].astype(str), table[group].astype(str), strict=True)) if group else dict.fromkeys(names, "")
    inks, said = ({**colors(of.values())} if group else {"": BLUE}), []
    figure = Figure(figsize=(SIZES["wide"][0], 0.8 + 0.36 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axes, (name, heading) in zip(panels, columns.items(), strict=True):
        part, zero = table[table[column] == name], float(marks.get(name, 0.0))
        for row_of in part.dropna(subset="mean").to_dict("records"):
            one, mean, low, high = (row_of[key] for key in (row, "mean", "low", "high"))
            y, ink = names.index(str(one)), inks[of[str(one)]]
            axes.barh(y + 0.15, mean - zero, left=zero, height=0.4, color=ink, alpha=0.3, lw=0)
            mean_bar(axes, y + 0.15, Interval(0, mean, 0.0, low, high), ink)
            place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
            axes.text(1, y - 0.26, _short(mean), size=7.5, **place)
            said.append(f"{one} {heading} {show(mean, low, high)}")
        axes.axvline(zero, **DASHED)
        axes.set_title(heading, size=8)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.tick_params(axis="x", labelsize=7)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for text in panels[0].get_yticklabels():
        text.set_color(inks[of[text.get_text()]])
    seeds = f" over {int(table['n'].max())} seeds" if "n" in table and table["n"].max() > 1 else ""
    figure.supxlabel(f"means and 95 % intervals{seeds}", size=8)
    return settled(figure, f"Means with 95 % intervals{seeds}: {'; '.join(said)}.")


def _short(value: float) -> str:
    """Three decimals below one, else three significant digits; thousands as k, millions as M."""
    for unit, word in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{word}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.3g}"
