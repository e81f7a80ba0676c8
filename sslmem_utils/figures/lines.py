"""Figures of curves and of speeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from ..stats import Number, over_seeds, require, show
from .style import (
    BLUE,
    DASHED,
    INK,
    SEED_LINE,
    SIZES,
    VERMILLION,
    averaged,
    colors,
    end_labels,
    label,
    mean_line,
    panel_grid,
    panels_of,
    ready,
    settled,
    style,
)


@style()
def convergence(
    table: pd.DataFrame,
    x: str = "views",
    y: str = "value",
    series: str = "series",
    reference: tuple[str, Number] | None = None,
    bounds: tuple[Number, Number] | None = None,
) -> Figure:
    """A value against a count on a log axis: seeds thin, mean thick, interval over seeds as a band.

    Columns: x, y, seed, and perhaps `series` (one colour, and its name at the line's end). `reference` names a
    horizontal line and says where it is: ("closed form", 0.3), a ceiling, or chance. `bounds`: what the value can be;
    bands end there.
    """
    table, seeds = ready(table, x, y)
    figure = Figure(figsize=SIZES["single"], layout="constrained")
    axes, panels, ends, said = figure.subplots(), panels_of(table, series), {}, []
    inks = colors(name for name, _ in panels)
    for name, part in panels:
        for _, one in part.sort_values(x).groupby("seed"):
            axes.plot(one[x], one[y], color=inks[name], **SEED_LINE)
        line = over_seeds(part.sort_values(x), y, [x])
        mean_line(axes, line, x, inks[name])
        ends[name] = float(line["mean"].iloc[-1])
        tips = line.iloc[[0, -1]].to_dict("records")
        texts = [f"{show(row['mean'], row['low'], row['high'])} at {row[x]:g}" for row in tips]
        said.append(f"{name} {' and '.join(texts)}".strip())
    ticks: list[float] = []
    for one in sorted(table[x].unique()):  # those that do not run into each other
        ticks += [one] if not ticks or one > 1.45 * ticks[-1] else []
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    if reference is not None:
        name, place = reference
        axes.axhline(place, **DASHED)
        ends[name], inks[name] = float(place), INK
        said.append(f"{name} {place:g}")
    if bounds is not None:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, bounds[0]), min(high, bounds[1]))
    end_labels(axes, ends, inks)
    over = averaged(seeds) if seeds else ""
    axes.set(xlabel=f"{label(x)}\n({over})" if over else label(x), ylabel=label(y))
    return settled(figure, f"{label(y)} against {label(x)}{f', {over}' if over else ''}: {'; '.join(said)}.")


@style()
def curves(table: pd.DataFrame, points: pd.DataFrame | None = None, xlabel: str = "x", ylabel: str = "h(x)") -> Figure:
    """Functions of one input: each seed thin, the mean over seeds thick, training points marked on the x axis.

    `table`: x, value, seed, `encoder` (f, g), and perhaps `panel`. `points`: x, set (its colour), and perhaps `panel`.
    """
    table, seeds = ready(table, "x", "value", "encoder")
    panels, names = panels_of(table, "panel"), list(table["encoder"].unique())
    inks, handles, ends = colors(names), {}, {}
    figure, grid = panel_grid(len(panels), ylabel)
    for axes, (panel, part) in zip(grid, panels, strict=True):
        ends[axes] = {}
        # The first is wider, so that it shows beneath the others
        for width, (name, rows) in zip(np.linspace(3.4, 1.6, len(names)), panels_of(part, "encoder"), strict=False):
            for _, one in rows.groupby("seed"):
                axes.plot(one["x"], one["value"], color=inks[name], **SEED_LINE)
            line = over_seeds(rows.sort_values("x"), "value", ["x"])
            mean_line(axes, line, "x", inks[name], float(width))
            ends[axes][name] = float(line["mean"].iloc[-1])
        here = points if points is None or "panel" not in points else points[points["panel"] == panel]
        for name, rows in [] if here is None else panels_of(here, "set"):
            place = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
            place |= {"ms": 8, "mec": "none", "color": colors([name])[name]}
            handles[name] = axes.plot(rows["x"], np.full(len(rows), 0.02), "^", **place)[0]
        axes.set(xlabel=f"{xlabel}\n({averaged(seeds)})" if seeds else xlabel, title=label(panel))
    for axes in grid if len(names) > 1 else ():  # once all panels have been drawn and the y axis they share is known
        end_labels(axes, ends[axes], inks)
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), labelcolor="linecolor")
    where = f" in the panels {', '.join(panel for panel, _ in panels)}" if len(panels) > 1 else ""
    marked = f" Marked on the x axis: {', '.join(handles)}." if handles else ""
    mean = f", mean over {seeds}" if seeds else ""
    return settled(figure, f"{ylabel} against {xlabel} for {', '.join(names)}{where}{mean}.{marked}")


@style()
def roofline(table: pd.DataFrame) -> Figure:
    """What each model's training reaches of the measured peak of matrix products, one panel a device, on a log axis.

    Columns: case, setting ("PRECISION, DEVICE", perhaps more after it), quantity ("peak": a dashed line, "achieved": a
    dot), median, low, high (quartiles) in GFLOP/s.
    """
    require(table, ["case", "setting", "quantity", "median", "low", "high"])
    parts = table["setting"].str.split(", ")
    table = table.assign(precision=parts.str[0], device=parts.str[-1])
    panels = [(name, part) for name, part in panels_of(table, "device") if part["quantity"].nunique() == 2]
    inks = dict(zip(("fp32", "bf16"), (BLUE, VERMILLION), strict=True))
    rows = [part.loc[part["quantity"] == "achieved", "case"].nunique() for _, part in panels]
    figure = Figure(figsize=(SIZES["wide"][0], sum(0.9 + 0.34 * count for count in rows)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": rows})[:, 0]
    said = []
    for axes, (device, part) in zip(grid, panels, strict=True):
        reached = part[part["quantity"] == "achieved"]
        names = list(dict.fromkeys(reached["case"]))
        for row in reached.to_dict("records"):
            error = [[row["median"] - row["low"]], [row["high"] - row["median"]]]
            ink = inks[row["precision"]]
            axes.errorbar(row["median"], names.index(row["case"]), xerr=error, fmt="o", ms=5, color=ink, zorder=3)
            said.append(f"{row['case']} {row['median']:.3g} ({row['setting']})")
        for row in part[part["quantity"] == "peak"].to_dict("records"):
            ink = inks[row["precision"]]
            axes.axvline(row["median"], color=ink, lw=1.2, ls=(0, (4, 3)), zorder=1)
            text = f"{row['precision']} peak {row['median']:.3g}"
            axes.text(row["median"], -0.55, text, color=ink, ha="center", va="bottom")
            said.append(f"peak {row['median']:.3g} ({row['setting']})")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_title(device, pad=20)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.minorticks_off()
    grid[-1].set_xlabel("GFLOP/s (median and quartiles)")
    return settled(figure, f"GFLOP/s of training steps beside measured peaks of matrix products: {'; '.join(said)}.")
