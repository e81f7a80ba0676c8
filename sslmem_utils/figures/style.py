"""The looks of the book's figures, and what several figure types are drawn with."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..specs import SETS
from ..stats import Interval, Number, require
from ..wording import spelled

INK = "#6e7681"  # text, axes, zero lines: 4.6:1 on white; dark pages brighten figures (custom.css), to 6:1
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
OLIVE = "#A08B00"  # stands in for Okabe-Ito's yellow, which cannot be read on white
COLORS = {"shared": PURPLE, "candidate": VERMILLION, "independent": BLUE, "external": GREEN}
COLORS |= {"f": VERMILLION, "g": BLUE}  # the sets that only f, only g was trained on
COLORS |= {"simclr": BLUE, "mae": VERMILLION, "dino": GREEN, "vicreg": PURPLE}
COLORS |= {"simsiam": SKY, "byol": ORANGE, "barlow_twins": OLIVE, "supervised": INK}
COLORS |= {"most memorized": VERMILLION, "least memorized": BLUE, "random": GREEN}  # what is removed, or kept
OTHERS = (BLUE, VERMILLION, GREEN, PURPLE, OLIVE, ORANGE, SKY)  # names of neither sets nor methods, in this order
SIZES = {"single": (4.6, 3.2), "wide": (7.4, 3.6), "tall": (7.4, 4.8)}  # inches; the book's text is 7.4 inches wide
LABELS = {
    "m": "memorization m",
    "m_rel": "relative memorization m_rel",
    "m_range": "range-normalised memorization m_range",
    "align_f": "alignment loss under f",
    "align_g": "alignment loss under g",
    "auc": "AUC, candidates against external",
    "mask": "share of the patches hidden",
    "knn_distance": "distance to the 5 nearest images",
    "centroid_distance": "distance to the class mean",
    "views": "views K",
    "encoders": "encoders trained",
    "occurrences": "occurrences in the training data",
    "rho": "Spearman with leave-one-out",
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
_TEXT = re.compile(r"(?<=>)[^<>]+(?=</text>)")
SEED_LINE = {"lw": 0.8, "alpha": 0.5}
DASHED = {"color": INK, "lw": 0.9, "ls": (0, (4, 3)), "zorder": 1}
NO_SEEDS = "1 seed, no interval"
MANY = 2000  # points beyond which a scatter is embedded as a picture, to keep the SVG small


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib with the book's settings inside the block, as it was outside."""
    with mpl.rc_context(RC):
        yield


def settled(figure: Figure, text: str) -> Figure:
    """The figure with its alt text and its layout fixed, so that drawing it again gives the same bytes."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")
    figure._sslmem_alt = spelled(" ".join(text.split()))  # type: ignore[attr-defined]
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as SVG text: transparent, without a date, names spelled, the same bytes for the same figure."""
    buffer = io.StringIO()
    with style():
        # what savefig does for SVG, without drawing everything once more before
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().replace("'DejaVu Sans', sans-serif", FONTS)
    return _TEXT.sub(lambda found: spelled(found[0]), svg)


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


def panels_of(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """The parts of a table by a column, with their names; the whole table, without a name, where there is none."""
    if column not in table:
        return [("", table)]
    return [(str(name), part) for name, part in table.groupby(column, sort=False, observed=True)]


def panel_grid(count: int, ylabel: str) -> tuple[Figure, list[Axes]]:
    """A figure of panels that share the y axis, two in a row."""
    (width, height), rows = SIZES["wide" if count > 1 else "single"], -(-count // 2)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, min(count, 2), squeeze=False, sharey=True)
    for first in axes[:, 0]:
        first.set_ylabel(ylabel)
    for empty in axes.flat[count:]:
        empty.remove()
    return figure, list(axes.flat[:count])


def ready(table: pd.DataFrame, *columns: str) -> tuple[pd.DataFrame, str]:
    """The table with a seed column, and how many seeds it has, in words ("" for a table that knows no seeds)."""
    require(table, columns)
    if "seed" not in table:
        return table.assign(seed=0), ""
    count = table["seed"].nunique()
    return table, f"{count} seeds" if count > 1 else NO_SEEDS


def averaged(seeds: str) -> str:
    """What a line and its bars are, over so many seeds."""
    return seeds if seeds == NO_SEEDS else f"mean and 95 % interval over {seeds}"


def mean_bar(axes: Axes, y: Number, found: Interval, ink: str) -> None:
    """A mean with its interval over seeds as a horizontal bar."""
    whole = found.low <= found.high  # false for NaN
    error = [[found.mean - found.low], [found.high - found.mean]] if whole else None
    axes.errorbar(found.mean, y, xerr=error, fmt="o", ms=5, lw=2.4, color=ink, mfc=ink if whole else "none", zorder=4)


def mean_line(axes: Axes, line: pd.DataFrame, x: str, ink: str, width: Number = 2) -> None:
    """A mean line with its interval over seeds as a band (`line` from `stats.over_seeds`)."""
    axes.fill_between(line[x], line["low"], line["high"], color=ink, alpha=0.3, lw=0, zorder=2)
    axes.plot(line[x], line["mean"], "-", color=ink, lw=width, zorder=3)


def aside(axes: Axes, y: Number, text: str, ink: str = INK) -> None:
    """Words right of the axes, at the height y."""
    axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", ha="left", color=ink)


def end_labels(axes: Axes, ends: dict[str, float], inks: dict[str, str]) -> None:
    """Names right of their lines, pushed apart so that none overlap (13 points of height each); limits must be set."""
    low, high = axes.get_ylim()
    step, places = (high - low) * 13 / (axes.get_position().height * axes.figure.get_size_inches()[1] * 72 * 0.9), []
    names = sorted((name for name in ends if name), key=lambda name: ends[name])
    for name in names:
        places.append(max(ends[name], places[-1] + step) if places else ends[name])
    shift = np.mean([place - ends[name] for place, name in zip(places, names, strict=True)]) if names else 0
    for place, name in zip(places, names, strict=True):
        aside(axes, place - shift, name, inks[name])


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names as y ticks from the top down, sets in their colours."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, **DASHED)
    for text in axes.get_yticklabels():
        if text.get_text() in SETS:
            text.set(color=COLORS[text.get_text()], weight="bold")
