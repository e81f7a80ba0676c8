"""Figures of what happens along a training: several quantities over the same epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..stats import Number, over_seeds, show
from .style import (
    INK,
    SEED_LINE,
    SIZES,
    averaged,
    colors,
    end_labels,
    label,
    mean_line,
    panels_of,
    ready,
    settled,
    style,
)

HEIGHT = 1.9  # inches of one quantity


@style()
def along(
    table: pd.DataFrame,
    x: str = "epoch",
    value: str = "value",
    series: str = "series",
    panel: str = "panel",
    column: str = "dataset",
    past: Mapping[str, Number] | None = None,
    named: str = "plateau",
    bounds: Mapping[str, tuple[Number, Number]] | None = None,
    level: bool = False,
) -> Figure:
    """Quantities against a count on a log axis, one below the other; seeds thin, means thick, intervals as bands.

    Columns: x, value, seed, `panel` (a row of panels with a y axis of its own, named by it), `series` (a colour, and
    its name at the line's end) and perhaps `column` (panels side by side). `past` says for each column from which count
    on something holds: what lies to the right of it is shaded, and `named` stands there.
    `bounds`: what the values of a panel can be; its bands end there. `level`: all panels share one y axis, else those
    of a row of panels do.
    """
    table, seeds = ready(table, x, value, panel, series)
    rows, columns = panels_of(table, panel), panels_of(table, column)
    inks, said, ends = colors(table[series].astype(str).unique()), [], {}
    size = (SIZES["wide" if len(columns) > 1 else "single"][0], 0.7 + HEIGHT * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex="col", sharey=level or "row")
    for axes, (quantity, title) in zip(
        grid.flat, [(row, title) for row, _ in rows for title, _ in columns], strict=True
    ):
        part = table[table[panel].astype(str) == quantity]
        part = part[part[column].astype(str) == title] if column in part else part
        ends[axes] = {}
        for name, one in panels_of(part, series):
            line = _line(axes, one.sort_values(x), x, value, inks[name])
            ends[axes][name] = float(line["mean"].iloc[-1])
            tips = line.iloc[[0, -1]].to_dict("records")
            texts = [f"{show(tip['mean'], tip['low'], tip['high'])} at {tip[x]:g}" for tip in tips]
            said.append(" ".join(filter(None, [title, label(quantity), label(name), " and ".join(texts)])))
        if past and title in past:
            _shade(axes, past[title], named if axes in grid[0] else "")
    for axes, (title, _) in zip(grid[0], columns, strict=True):
        axes.set_title(label(title), pad=14 if past else 6)
    for row, (quantity, _) in zip(grid, rows, strict=True):
        row[0].set_ylabel(label(quantity))
        for axes in row if bounds and quantity in bounds else ():
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, bounds[quantity][0]), min(high, bounds[quantity][1]))
    for last, (_, part) in zip(grid[-1], columns, strict=True):
        counts = part.loc[part[panel].astype(str) == rows[-1][0], x].astype(float).unique()
        _ticks(last, sorted(counts.tolist()), float(part[x].min()))
        last.set_xlabel(f"{label(x)}\n({averaged(seeds)})" if seeds else label(x))
    for axes, here in ends.items():  # once all is drawn and the limits are known
        end_labels(axes, here, inks)
    where = [f"{title} {named} from {start:g} on".strip() for title, start in (past or {}).items()]
    over = f", {averaged(seeds)}" if seeds else ""
    return settled(figure, f"Against {label(x)}{over}: {'; '.join([*said, *where])}.")


def _line(axes: Axes, rows: pd.DataFrame, x: str, value: str, ink: str) -> pd.DataFrame:
    for _, one in rows.groupby("seed"):
        axes.plot(one[x], one[value], color=ink, **SEED_LINE)
    line = over_seeds(rows, value, [x])
    mean_line(axes, line, x, ink)
    return line


def _shade(axes: Axes, start: Number, name: str) -> None:
    """Shade all that comes after a count, and say what it is."""
    axes.axvspan(start, axes.get_xlim()[1], color=INK, alpha=0.12, lw=0, zorder=0)
    if name:
        place = {"transform": axes.get_xaxis_transform(), "va": "bottom", "ha": "left", "color": INK}
        axes.text(start, 1.02, f"{name} \N{RIGHTWARDS ARROW}", **place)


def _ticks(axes: Axes, counts: Sequence[float], first: float) -> None:
    """A log axis from `first` on, with a tick at the last count and at all below that have room beside it."""
    axes.set_xscale("log")
    room, ticks = np.log(counts[-1] / first) / 9, [counts[-1]]
    for count in reversed(counts[:-1]):
        ticks += [count] if np.log(ticks[-1] / count) >= room else []
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(first, counts[-1])
