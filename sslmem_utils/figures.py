"""The one figure style and the few figure types of the book.

Every figure is a transparent SVG in neutral ink and Okabe-Ito colours, readable on white, on black and in print; a set
or a method has the same colour everywhere, text stays text, and equal data give equal bytes. Figure functions take
tables, compute no more than means and intervals over seeds (`stats`), and write their own factual alt text, which
`alt(figure)` returns. Their layout is settled when they return. Draw inside `style()` for the same looks in a figure of
your own. A mean of one seed has no interval and is drawn hollow.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from .errors import DataError
from .specs import SETS
from .stats import Interval, Number, density, interval, over_seeds, require, show, spearman

INK = "#7d8590"  # text, axes, zero lines: 3.8:1 on white, 5.0:1 on #121212
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
OLIVE = "#A08B00"  # stands in for Okabe-Ito's yellow, which cannot be read on white
COLORS = {"shared": PURPLE, "candidate": VERMILLION, "independent": BLUE, "external": GREEN}
COLORS |= {"f": VERMILLION, "g": BLUE}  # the sets that only f, only g was trained on
COLORS |= {"simclr": BLUE, "mae": VERMILLION, "dino": GREEN, "vicreg": PURPLE}
COLORS |= {"simsiam": SKY, "byol": ORANGE, "barlow_twins": OLIVE, "supervised": INK}
OTHERS = (BLUE, VERMILLION, GREEN, PURPLE, OLIVE, ORANGE, SKY)  # names of neither sets nor methods, in this order
SIZES = {"single": (4.6, 3.2), "wide": (7.4, 3.6), "tall": (7.4, 4.8)}  # inches; the book's text is 7.4 inches wide
LABELS = {
    "m": "memorization m",
    "m_rel": "relative memorization m_rel",
    "m_range": "range-normalised memorization m_range",
    "align_f": "alignment loss under f",
    "align_g": "alignment loss under g",
    "knn_distance": "distance to the 5 nearest images",
    "centroid_distance": "distance to the class mean",
    "views": "views K",
    "pooled": "backbone (pooled)",
    "projector": "projector output",
}
RC = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none")
RC |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
RC |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "savefig.transparent": True}
RC |= {"axes.titlesize": 10, "axes.titlelocation": "left", "font.size": 9, "figure.dpi": 200}
RC |= {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "axes.prop_cycle": mpl.cycler(color=OTHERS)}
RC |= {"svg.fonttype": "none", "svg.hashsalt": "sslmem", "image.composite_image": False}  # text stays text
FONTS = "'DejaVu Sans', Verdana, 'Bitstream Vera Sans', Helvetica, Arial, sans-serif"  # Verdana is as wide as DejaVu
SEED_LINE = {"lw": 0.8, "alpha": 0.5}
DASHED = {"color": INK, "lw": 0.9, "ls": (0, (4, 3)), "zorder": 1}
NO_SEEDS = "1 seed, no interval"
MANY = 2000  # points beyond which a scatter is embedded as a picture, to keep the SVG small


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib with the book's settings inside the block, as it was outside."""
    with mpl.rc_context(RC):
        yield


def _settled(figure: Figure, text: str) -> Figure:
    """The figure with its alt text and its layout fixed, so that drawing it again gives the same bytes."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure._sslmem_alt = " ".join(text.split())  # type: ignore[attr-defined]
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as SVG text: transparent, without a date, the same bytes for the same figure."""
    buffer = io.StringIO()
    with style():
        # what savefig does for SVG, without drawing everything once more before
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue().replace("'DejaVu Sans', sans-serif", FONTS)


def alt(figure: Figure) -> str:
    """The alt text that the figure's type wrote from its data ("" for a figure drawn by hand)."""
    return getattr(figure, "_sslmem_alt", "")


def colors(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: its own for a set, an encoder or a method, else the next of the palette not in use."""
    names = list(dict.fromkeys(names))
    used = [COLORS[name] for name in names if name in COLORS]
    free = iter([*(ink for ink in OTHERS if ink not in used), *OTHERS * len(names)])
    return {name: COLORS.get(name) or next(free) for name in names}


def label(name: str) -> str:
    """The words for a column or a representation; the name itself where there are none."""
    return LABELS.get(name, name)


def _panels(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    if column not in table:
        return [("", table)]
    return [(str(name), part) for name, part in table.groupby(column, sort=False, observed=True)]


def _grid(count: int, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A figure of panels that share the y axis, two in a row."""
    (width, height), rows = SIZES["wide" if count > 1 else "single"], -(-count // 2)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, min(count, 2), squeeze=False, sharey=True)
    for first in axes[:, 0]:
        first.set_ylabel(ylabel)
    for empty in axes.flat[count:]:
        empty.remove()
    return figure, list(axes.flat[:count])


def _ready(table: pd.DataFrame, *columns: str) -> tuple[pd.DataFrame, str]:
    """The table with a seed column, and how many seeds it has, in words ("" for a table that knows no seeds)."""
    require(table, columns)
    if "seed" not in table:
        return table.assign(seed=0), ""
    count = table["seed"].nunique()
    return table, f"{count} seeds" if count > 1 else NO_SEEDS


def _bar(axes: Axes, y: Number, found: Interval, ink: str) -> None:
    """A mean with its interval over seeds as a horizontal bar."""
    whole = found.low <= found.high  # false for NaN
    error = [[found.mean - found.low], [found.high - found.mean]] if whole else None
    axes.errorbar(found.mean, y, xerr=error, fmt="o", ms=5, lw=2.4, color=ink, mfc=ink if whole else "none", zorder=4)


def _line(axes: Axes, line: pd.DataFrame, x: str, ink: str, width: Number = 2) -> None:
    """A mean line with its interval over seeds as a band (`line` from `stats.over_seeds`)."""
    axes.fill_between(line[x], line["low"], line["high"], color=ink, alpha=0.3, lw=0, zorder=2)
    axes.plot(line[x], line["mean"], "-", color=ink, lw=width, zorder=3)


def _aside(axes: Axes, y: Number, text: str, ink: str = INK) -> None:
    axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", ha="left", color=ink)


def _end_labels(axes: Axes, ends: dict[str, float], inks: dict[str, str]) -> None:
    """Names right of their lines, pushed apart so that none overlap (13 points of height each); limits must be set."""
    low, high = axes.get_ylim()
    step, places = (high - low) * 13 / (axes.get_position().height * axes.figure.get_size_inches()[1] * 72 * 0.9), []
    names = sorted((name for name in ends if name), key=lambda name: ends[name])
    for name in names:
        places.append(max(ends[name], places[-1] + step) if places else ends[name])
    shift = np.mean([place - ends[name] for place, name in zip(places, names, strict=True)]) if names else 0
    for place, name in zip(places, names, strict=True):
        _aside(axes, place - shift, name, inks[name])


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Names as y ticks from the top down, sets in their colours."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, **DASHED)
    for text in axes.get_yticklabels():
        if text.get_text() in SETS:
            text.set(color=COLORS[text.get_text()], weight="bold")


@style()
def distribution_of_sets(table: pd.DataFrame, value: str = "m_rel") -> Figure:
    """Densities of a score on the four sets: pooled (filled), per seed (lines), mean with its interval over seeds.

    `table` is a stacked score table (set, seed, value; one column of panels per `representation`). The densities show
    images; only the interval, taken over seeds, says how sure the mean is.
    """
    table, seeds = _ready(table, "set", value)
    seeds = seeds or NO_SEEDS
    names = [name for name in SETS if (table["set"] == name).any()]
    panels, said = _panels(table, "representation"), []
    figure = Figure(figsize=SIZES["tall"], layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    grid = figure.subplots(len(names), len(panels), squeeze=False, sharex="col", sharey="col")
    for column, (panel, part) in zip(grid.T, panels, strict=True):
        low, high = part[value].min(), part[value].max()
        at = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 200)
        for axes, name in zip(column, names, strict=True):
            rows = part[part["set"] == name]
            axes.fill_between(at, density(rows[value], at), color=COLORS[name], alpha=0.3, lw=0)
            for _, one in rows.groupby("seed"):
                axes.plot(at, density(one[value], at), color=COLORS[name], **SEED_LINE)
        top = column[0].get_ylim()[1]  # known once all rows of the column are drawn
        for axes, name in zip(column, names, strict=True):
            found = interval(part[part["set"] == name].groupby("seed")[value].mean())
            _bar(axes, -0.12 * top, found, COLORS[name])
            axes.axvline(0, ymax=0.8, **DASHED)
            axes.text(0, 1, name, transform=axes.transAxes, color=COLORS[name], weight="bold", va="top")
            axes.text(1, 1, str(found), transform=axes.transAxes, ha="right", va="top")
            axes.set(
                ylabel="", yticks=[], ylim=(-0.25 * top, 1.3 * top), xlabel=f"{label(value)}\n(means over {seeds})"
            )
            axes.spines["left"].set_visible(False)
            axes.label_outer()
            said.append(f"{label(panel)} {name} {found}".strip())
        column[0].set_title(label(panel))
    text = f"Densities of {label(value)} on the sets {', '.join(names)}. Means with 95 % intervals over {seeds}: "
    return _settled(figure, text + "; ".join(said) + ".")


@style()
def set_means(means: pd.DataFrame, value: str = "centred") -> Figure:
    """Centred means of the sets with 95 % intervals over seeds, each seed as a dot; one panel per representation.

    `means` is what `stats.set_means` returns. External is the zero line, since it is what the means are centred on.
    """
    means, seeds = _ready(means, "set", value)
    seeds = seeds or NO_SEEDS
    names = [name for name in SETS if name != "external" and (means["set"] == name).any()]
    panels, said = _panels(means, "representation"), []
    figure = Figure(figsize=(SIZES["wide"][0], 0.5 + 1.5 * len(panels)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.1)
    for axes, (panel, part) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for y, name in enumerate(names):
            numbers = part.loc[part["set"] == name, value].to_numpy(float)
            found = interval(numbers)
            axes.plot(numbers, np.full(len(numbers), y + 0.28), "o", ms=4, mec="none", alpha=0.6, color=COLORS[name])
            _bar(axes, y, found, COLORS[name])
            _aside(axes, y, str(found))
            said.append(f"{label(panel)} {name} {found}".strip())
        _rows(axes, names)
        axes.set_title(label(panel))
    axes.set_xlabel(f"mean(S) - mean(external); bar: mean and 95 % interval over {seeds}, dots: seeds")
    return _settled(figure, f"Set means centred on external, with 95 % intervals over {seeds}: {'; '.join(said)}.")


@style()
def forest(table: pd.DataFrame, xlabel: str = "", delta: Number = 0) -> Figure:
    """Estimates with intervals, one row each, beside a zero line and the band of +-`delta` that would not matter.

    Columns: label, mean, low, high (NaN or None without an interval), and perhaps `group`, whose colour is used.
    """
    require(table, ["label", "mean", "low", "high"])
    inks = colors(table["group"].astype(str)) if "group" in table else {"": BLUE}
    figure = Figure(figsize=(SIZES["wide"][0], 0.8 + 0.34 * len(table)), layout="constrained")
    axes, said = figure.subplots(), []
    for y, row in enumerate(table.to_dict("records")):
        low, high = (float("nan") if pd.isna(row[side]) else float(row[side]) for side in ("low", "high"))
        _bar(axes, y, Interval(0, row["mean"], 0.0, low, high), inks[str(row.get("group", ""))])
        _aside(axes, y, show(row["mean"], low, high))
        said.append(f"{row['label']} {show(row['mean'], low, high)}")
    if delta:
        axes.axvspan(-delta, delta, color=INK, alpha=0.15, lw=0, zorder=0)
    _rows(axes, [str(name) for name in table["label"]])
    axes.set_xlabel(xlabel)
    margin = f" The band of +-{delta:g} would not matter." if delta else ""
    return _settled(figure, f"{xlabel or 'Estimates'} with 95 % intervals: {'; '.join(said)}.{margin}")


@style()
def scatter_rank(table: pd.DataFrame, x: str = "knn_distance", y: str = "m_rel", panel: str = "set") -> Figure:
    """A score against the rank of another quantity within each seed, with Spearman's correlation over seeds.

    Columns: x, y, seed, and `panel` (one panel each: candidates beside the external control, say). Dots are images;
    the line is the mean in each tenth of the ranks with its interval over seeds.
    """
    table, seeds = _ready(table, x, y)
    seeds = seeds or NO_SEEDS
    panels, said = _panels(table, panel), []
    figure, grid = _grid(len(panels), label(y))
    inks = colors(name for name, _ in panels)
    for axes, (name, part) in zip(grid, panels, strict=True):
        rank = part.groupby("seed")[x].rank(pct=True) * 100
        dots = {"ms": 2.6, "mec": "none", "alpha": min(0.5, 20 / len(part) ** 0.5), "rasterized": len(part) > MANY}
        axes.plot(rank, part[y], "o", color=inks[name], **dots)
        tenths = part.assign(tenth=np.minimum(rank // 10, 9) * 10 + 5).groupby(["tenth", "seed"])[y].mean()
        _line(axes, over_seeds(tenths.reset_index(), y, ["tenth"]), "tenth", INK)
        rho = interval([spearman(one[x], one[y]) for _, one in part.groupby("seed")])
        axes.axhline(0, **DASHED)
        axes.set_title(f"{label(name)}\nSpearman {rho}, {seeds}".strip(), color=inks[name])
        axes.set(xlabel=f"{label(x)}\n(rank within the seed, %)", xlim=(-2, 102))
        said.append(f"{label(name) or 'all'} {rho}")
    return _settled(figure, f"{label(y)} against the rank of {label(x)}. Spearman over {seeds}: {'; '.join(said)}.")


@style()
def convergence(
    table: pd.DataFrame,
    x: str = "views",
    y: str = "value",
    series: str = "series",
    reference: tuple[str, Number] | None = None,
) -> Figure:
    """A value against a count on a log axis: seeds thin, mean thick, interval over seeds as a band.

    Columns: x, y, seed, and perhaps `series` (one colour, and its name at the line's end). `reference` names a
    horizontal line and says where it is: ("closed form", 0.3), a ceiling, or chance.
    """
    table, seeds = _ready(table, x, y)
    figure = Figure(figsize=SIZES["single"], layout="constrained")
    axes, panels, ends, said = figure.subplots(), _panels(table, series), {}, []
    inks = colors(name for name, _ in panels)
    for name, part in panels:
        for _, one in part.sort_values(x).groupby("seed"):
            axes.plot(one[x], one[y], color=inks[name], **SEED_LINE)
        line = over_seeds(part.sort_values(x), y, [x])
        _line(axes, line, x, inks[name])
        ends[name] = float(line["mean"].iloc[-1])
        tips = line.iloc[[0, -1]].to_dict("records")
        texts = [f"{show(row['mean'], row['low'], row['high'])} at {row[x]:g}" for row in tips]
        said.append(f"{name} {' and '.join(texts)}".strip())
    ticks = sorted(table[x].unique())
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    if reference is not None:
        name, place = reference
        axes.axhline(place, **DASHED)
        ends[name], inks[name] = float(place), INK
        said.append(f"{name} {place:g}")
    _end_labels(axes, ends, inks)
    over = f"mean and 95 % interval over {seeds}" if seeds else ""
    axes.set(xlabel=f"{label(x)}\n({over})" if over else label(x), ylabel=label(y))
    return _settled(figure, f"{label(y)} against {label(x)}{f', {over}' if over else ''}: {'; '.join(said)}.")


@style()
def curves(table: pd.DataFrame, points: pd.DataFrame | None = None, xlabel: str = "x", ylabel: str = "h(x)") -> Figure:
    """Functions of one input: each seed thin, the mean over seeds thick, training points marked on the x axis.

    `table`: x, value, seed, `encoder` (f, g), and perhaps `panel`. `points`: x, set (its colour), and perhaps `panel`.
    """
    table, seeds = _ready(table, "x", "value", "encoder")
    panels, names = _panels(table, "panel"), list(table["encoder"].unique())
    inks, handles, ends = colors(names), {}, {}
    figure, grid = _grid(len(panels), ylabel)
    for axes, (panel, part) in zip(grid, panels, strict=True):
        ends[axes] = {}
        for width, (name, rows) in zip(np.linspace(3.4, 1.6, len(names)), _panels(part, "encoder"), strict=False):
            for _, one in rows.groupby("seed"):
                axes.plot(one["x"], one["value"], color=inks[name], **SEED_LINE)
            line = over_seeds(rows.sort_values("x"), "value", ["x"])
            _line(axes, line, "x", inks[name], float(width))  # the first is wider, so that it shows beneath the others
            ends[axes][name] = float(line["mean"].iloc[-1])
        here = points if points is None or "panel" not in points else points[points["panel"] == panel]
        for name, rows in [] if here is None else _panels(here, "set"):
            place = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
            place |= {"ms": 8, "mec": "none", "color": colors([name])[name]}
            handles[name] = axes.plot(rows["x"], np.full(len(rows), 0.02), "^", **place)[0]
        axes.set(xlabel=f"{xlabel}\n(mean and 95 % interval over {seeds})" if seeds else xlabel, title=label(panel))
    for axes in grid if len(names) > 1 else ():  # once all panels have been drawn and the y axis they share is known
        _end_labels(axes, ends[axes], inks)
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles), labelcolor="linecolor")
    where = f" in the panels {', '.join(panel for panel, _ in panels)}" if len(panels) > 1 else ""
    marked = f" Marked on the x axis: {', '.join(handles)}." if handles else ""
    mean = f", mean over {seeds}" if seeds else ""
    return _settled(figure, f"{ylabel} against {xlabel} for {', '.join(names)}{where}{mean}.{marked}")


@style()
def gallery(
    images: NDArray[np.uint8],
    scores: ArrayLike,
    p_top: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    columns: int = 8,
    value: str = "m_rel",
) -> Figure:
    """The most and the least memorized images, a pair of rows per group, the score printed below each.

    `images` is (n, c, h, w) uint8 with c of 1 or 3; `scores` (n,); `p_top` (n,) is P(the image is in the top decile)
    over seeds (`stats.top_probability`); `groups` (n,) names the pair of rows an image belongs to, a class say.
    """
    scores, names = np.asarray(scores, dtype=float), np.asarray(groups if groups is not None else [""] * len(images))
    right = images.ndim == 4 and images.shape[1] in (1, 3) and images.dtype == np.uint8
    if not right or not 0 < len(images) == len(scores) == len(names):
        found = f"{images.dtype} {images.shape}, {len(scores)} scores and {len(names)} groups"
        raise DataError(f"a gallery needs uint8 (n, c, h, w), c of 1 or 3, and n scores, found {found}; convert them.")
    below = [f"{score:.3f}" for score in scores]
    if p_top is not None:
        below = [f"{text}\nP {share:.2f}" for text, share in zip(below, np.asarray(p_top), strict=True)]
    rows = []
    for name in dict.fromkeys(names.tolist()):
        order = np.flatnonzero(names == name)[np.argsort(-scores[names == name], kind="stable")]
        take = min(columns, max(1, len(order) // 2))
        for word, chosen in (("most", order[:take]), ("least", order[take:][-take:][::-1])):
            rows += [(f"{name}\n{word}\nmemorized".strip(), chosen)] if len(chosen) else []
    said = (f"{' '.join(text.split())} {scores[chosen[0]]:.3g} to {scores[chosen[-1]]:.3g}" for text, chosen in rows)
    key = f"below each image: {label(value)}" + (", P(in the top decile) over seeds" if p_top is not None else "")
    text = f"Images ranked by {label(value)}, each row from its extreme inwards: {'; '.join(said)}."
    colored = np.repeat(images, 3 // images.shape[1], axis=1).transpose(0, 2, 3, 1)  # exact, as no colour map is
    return _settled(_tiles(colored, rows, below, columns, key), text)


def _tiles(
    images: NDArray[np.uint8], rows: list[tuple[str, NDArray[np.int64]]], below: list[str], columns: int, key: str
) -> Figure:
    """One axes measured in inches: pixels stay sharp at any zoom, a hairline around each image, text below it."""
    left, head, line, width = 0.95, 0.3, 0.14, SIZES["wide"][0]
    cell = (width - left) / columns
    side = min(0.86 * cell, 0.9)
    pitch = side + line * len(below[0].split("\n")) + 0.16
    height = head + pitch * len(rows)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(left, 0.02, key, va="top")
    for place, (text, chosen) in enumerate(rows):
        top = head + place * pitch
        axes.text(0, top + side / 2, text, va="center")
        for column, index in enumerate(chosen):
            x = left + column * cell
            box = {"extent": (x, x + side, top + side, top), "interpolation": "none", "aspect": "auto"}
            axes.imshow(images[index], **box)
            axes.plot([x, x, x + side, x + side, x], [top, top + side, top + side, top, top], color=INK, lw=0.6)
            axes.text(x + side / 2, top + side + 0.04, below[index], ha="center", va="top", size=8)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure
