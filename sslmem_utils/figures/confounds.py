"""Figures of one outcome against several quantities that an intervention moves together."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..stats import over_seeds, show
from .style import SIZES, averaged, colors, label, panels_of, ready, settled, style

HEIGHT = 2.5  # inches of one row of panels


@style()
def against(
    table: pd.DataFrame,
    y: str,
    quantities: Mapping[str, str],
    series: str = "arm",
    order: str = "limit",
    column: str = "dataset",
) -> Figure:
    """An outcome against several quantities, a panel each with its own x axis; one row of panels for each `column`.

    Columns: y, those of `quantities` (and their words), seed, `series` (a colour) and `order` (doses, along which the
    means over seeds of a series are joined). Small dots are seeds; bars are intervals over seeds of both means, cut at
    the frame, which leaves some room around the dots. Where the points lie alike in every panel, the outcome cannot
    tell the quantities apart.
    """
    table, seeds = ready(table, y, *quantities, series, order)
    rows, names = panels_of(table, column), [name for name, _ in panels_of(table, series)]
    inks, said = colors(names), []
    size = (SIZES["wide"][0], 0.75 + HEIGHT * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(quantities), squeeze=False, sharey="row")
    for line, (title, part) in zip(grid, rows, strict=True):
        for axes, (x, words) in zip(line, quantities.items(), strict=True):
            for name, one in panels_of(part, series):
                means = _path(axes, one, x, y, order, inks[name])
                ends = means.iloc[[0, -1] if len(means) > 1 else [0]]
                texts = [f"{show(end.x, end.low, end.high)} with {end.y:.3g}" for end in ends.itertuples()]
                said.append(" ".join(filter(None, [title, words, label(name), " to ".join(texts)])))
            axes.set(xlabel=words, xlim=_room(part[x]), ylim=_room(part[y]))
            axes.locator_params(axis="x", nbins=4)
        line[0].set_ylabel(label(y))
        line[0].set_title(label(title))
    handles = [grid[0][0].plot([], [], "o-", color=inks[name], ms=5, label=label(name))[0] for name in names]
    over = averaged(seeds) if seeds else ""
    figure.legend(handles=handles, loc="outside lower center", ncols=len(names), title=over or None)
    return settled(figure, f"{label(y)} against {', '.join(quantities.values())}{', ' + over if over else ''}; x with "
                           f"y, from the smallest dose to the largest: {'; '.join(said)}.")  # fmt: skip


def _room(values: pd.Series) -> tuple[float, float]:
    """Limits that leave three tenths of the range of the values free on either side."""
    low, high = float(values.min()), float(values.max())
    margin = 0.3 * (high - low) or 1.0
    return low - margin, high + margin


def _path(axes: Axes, rows: pd.DataFrame, x: str, y: str, order: str, ink: str) -> pd.DataFrame:
    """One series: its seeds, its means along the doses and their intervals; x with low and high, and y."""
    axes.plot(rows[x], rows[y], "o", ms=2.6, mec="none", color=ink, alpha=0.4)
    of_x, of_y = (over_seeds(rows.sort_values(order), name, [order]) for name in (x, y))
    axes.plot(of_x["mean"], of_y["mean"], "o-", color=ink, ms=5, lw=1.4, zorder=3)
    known = of_x["low"].notna()
    if known.any():
        x_at, y_at = of_x[known], of_y[known]
        axes.vlines(x_at["mean"], y_at["low"], y_at["high"], color=ink, lw=1.2, alpha=0.7, zorder=2)
        axes.hlines(y_at["mean"], x_at["low"], x_at["high"], color=ink, lw=1.2, alpha=0.7, zorder=2)
    return pd.DataFrame({"x": of_x["mean"], "low": of_x["low"], "high": of_x["high"], "y": of_y["mean"]})
