"""Figures of scores: their distributions, means, ranks, and the images that they rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from ..specs import SETS
from ..stats import Interval, Number, density, interval, over_seeds, require, show, spearman
from .style import (
    BLUE,
    COLORS,
    DASHED,
    INK,
    MANY,
    NO_SEEDS,
    SEED_LINE,
    SIZES,
    aside,
    colors,
    label,
    mean_bar,
    mean_line,
    name_rows,
    panel_grid,
    panels_of,
    ready,
    settled,
    style,
)


@style()
def distribution_of_sets(table: pd.DataFrame, value: str = "m_rel") -> Figure:
    """Densities of a score on the four sets: pooled (filled), per seed (lines), mean with its interval over seeds.

    `table` is a stacked score table (set, seed, value; one column of panels per `representation`). The densities show
    images; only the interval, taken over seeds, says how sure the mean is.
    """
    table, seeds = ready(table, "set", value)
    seeds = seeds or NO_SEEDS
    names = [name for name in SETS if (table["set"] == name).any()]
    panels, said = panels_of(table, "representation"), []
    figure = Figure(figsize=SIZES["tall"], layout="constrained")
    figure.get_layout_engine().set(wspace=0.08)
    for axes, (panel, part) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        low, high = part[value].min(), part[value].max()
        at = np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 150)
        rows = {name: part[part["set"] == name] for name in names}
        lines = {name: [density(one[value], at) for _, one in rows[name].groupby("seed")] for name in names}
        filled = {name: density(rows[name][value], at) for name in names}
        scale = 0.75 / (max(line.max() for name in names for line in (*lines[name], filled[name])) or 1.0)
        means = {name: interval(rows[name].groupby("seed")[value].mean()) for name in names}
        where = axes.get_yaxis_transform()  # x in shares of the width, y in rows
        for base, name in enumerate(reversed(names)):
            axes.fill_between(at, base, base + scale * filled[name], color=COLORS[name], alpha=0.3, lw=0)
            for line in lines[name]:
                axes.plot(at, base + scale * line, color=COLORS[name], **SEED_LINE)
            mean_bar(axes, base - 0.09, means[name], COLORS[name])
            axes.text(0, base + 0.8, name, transform=where, color=COLORS[name], weight="bold", va="top")
            axes.text(1, base + 0.8, str(means[name]), transform=where, ha="right", va="top")
        said += [f"{label(panel)} {name} {found}".strip() for name, found in means.items()]
        axes.axvline(0, **DASHED)
        axes.set(yticks=[], ylim=(-0.2, len(names) - 0.1), xlabel=f"{label(value)}\n(means over {seeds})")
        axes.spines["left"].set_visible(False)
        axes.set_title(label(panel))
    text = f"Densities of {label(value)} on the sets {', '.join(names)}. Means with 95 % intervals over {seeds}: "
    return settled(figure, text + "; ".join(said) + ".")


@style()
def set_means(means: pd.DataFrame, value: str = "centred") -> Figure:
    """Centred means of the sets with 95 % intervals over seeds, each seed as a dot; one panel per representation.

    `means` is what `stats.set_means` returns. External is the zero line, since it is what the means are centred on.
    """
    means, seeds = ready(means, "set", value)
    seeds = seeds or NO_SEEDS
    names = [name for name in SETS if name != "external" and (means["set"] == name).any()]
    panels, said = panels_of(means, "representation"), []
    figure = Figure(figsize=(SIZES["wide"][0], 0.5 + 1.5 * len(panels)), layout="constrained")
    figure.get_layout_engine().set(hspace=0.1)
    for axes, (panel, part) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for y, name in enumerate(names):
            numbers = part.loc[part["set"] == name, value].to_numpy(float)
            found = interval(numbers)
            axes.plot(numbers, np.full(len(numbers), y + 0.28), "o", ms=4, mec="none", alpha=0.6, color=COLORS[name])
            mean_bar(axes, y, found, COLORS[name])
            aside(axes, y, str(found))
            said.append(f"{label(panel)} {name} {found}".strip())
        name_rows(axes, names)
        axes.set_title(label(panel))
    axes.set_xlabel(f"mean(S) - mean(external); bar: mean and 95 % interval over {seeds}, dots: seeds")
    return settled(figure, f"Set means centred on external, with 95 % intervals over {seeds}: {'; '.join(said)}.")


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
        mean_bar(axes, y, Interval(0, row["mean"], 0.0, low, high), inks[str(row.get("group", ""))])
        aside(axes, y, show(row["mean"], low, high))
        said.append(f"{row['label']} {show(row['mean'], low, high)}")
    if delta:
        axes.axvspan(-delta, delta, color=INK, alpha=0.15, lw=0, zorder=0)
    name_rows(axes, [str(name) for name in table["label"]])
    axes.set_xlabel(xlabel)
    margin = f" The band of +-{delta:g} would not matter." if delta else ""
    return settled(figure, f"{xlabel or 'Estimates'} with 95 % intervals: {'; '.join(said)}.{margin}")


@style()
def scatter_rank(table: pd.DataFrame, x: str = "knn_distance", y: str = "m_rel", panel: str = "set") -> Figure:
    """A score against the rank of another quantity within each seed, with Spearman's correlation over seeds.

    Columns: x, y, seed, and `panel` (one panel each: candidates beside the external control, say). Dots are images;
    the line is the mean in each tenth of the ranks with its interval over seeds.
    """
    table, seeds = ready(table, x, y)
    seeds = seeds or NO_SEEDS
    panels, said = panels_of(table, panel), []
    figure, grid = panel_grid(len(panels), label(y))
    inks = colors(name for name, _ in panels)
    for axes, (name, part) in zip(grid, panels, strict=True):
        rank = part.groupby("seed")[x].rank(pct=True) * 100
        dots = {"ms": 2.6, "mec": "none", "alpha": min(0.5, 20 / len(part) ** 0.5), "rasterized": len(part) > MANY}
        axes.plot(rank, part[y], "o", color=inks[name], **dots)
        tenths = part.assign(tenth=np.minimum(rank // 10, 9) * 10 + 5).groupby(["tenth", "seed"])[y].mean()
        mean_line(axes, over_seeds(tenths.reset_index(), y, ["tenth"]), "tenth", INK)
        rho = interval([spearman(one[x], one[y]) for _, one in part.groupby("seed")])
        axes.axhline(0, **DASHED)
        axes.set_title(f"{label(name)}\nSpearman {rho}, {seeds}".strip(), color=inks[name])
        axes.set(xlabel=f"{label(x)}\n(rank within the seed, %)", xlim=(-2, 102))
        said.append(f"{label(name) or 'all'} {rho}")
    return settled(figure, f"{label(y)} against the rank of {label(x)}. Spearman over {seeds}: {'; '.join(said)}.")


@style()
def gallery(
    images: NDArray[np.uint8],
    scores: ArrayLike,
    p_top: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    columns: int = 8,
    value: str = "m_rel",
) -> Figure:
    """The most and the least memorized images (highest and lowest of another `value`), two rows a group, scores below.

    `images` is (n, c, h, w) uint8 with c of 1 or 3; `scores` (n,); `p_top` (n,) is P(the image is in the top decile)
    over seeds (`stats.top_probability`; NaN: not known); `groups` (n,) names the pair of rows an image belongs to.
    """
    scores, names = np.asarray(scores, dtype=float), np.asarray(groups if groups is not None else [""] * len(images))
    right = images.ndim == 4 and images.shape[1] in (1, 3) and images.dtype == np.uint8
    if not right or not 0 < len(images) == len(scores) == len(names):
        found = f"{images.dtype} {images.shape}, {len(scores)} scores and {len(names)} groups"
        raise DataError(f"a gallery needs uint8 (n, c, h, w), c of 1 or 3, and n scores, found {found}; convert them.")
    below = [f"{score:.3f}" for score in scores]
    if p_top is not None:
        shares = ["-" if np.isnan(share) else f"{share:.2f}" for share in np.asarray(p_top, dtype=float)]
        below = [f"{text}\nP {share}" for text, share in zip(below, shares, strict=True)]
    ends = ("most\nmemorized", "least\nmemorized") if value in ("m", "m_rel") else ("highest", "lowest")
    rows = []
    for name in dict.fromkeys(names.tolist()):
        order = np.flatnonzero(names == name)[np.argsort(-scores[names == name], kind="stable")]
        take = min(columns, max(1, len(order) // 2))
        for words, chosen in zip(ends, (order[:take], order[take:][-take:][::-1]), strict=True):
            rows += [(f"{name}\n{words}".strip(), chosen)] if len(chosen) else []
    said = (f"{' '.join(text.split())} {scores[chosen[0]]:.3g} to {scores[chosen[-1]]:.3g}" for text, chosen in rows)
    key = f"below each image: {label(value)}" + (", P(in the top decile) over seeds" if p_top is not None else "")
    text = f"Images ranked by {label(value)}, each row from its extreme inwards: {'; '.join(said)}."
    colored = np.repeat(images, 3 // images.shape[1], axis=1).transpose(0, 2, 3, 1)  # exact, as no colour map is
    return settled(_tiles(colored, rows, below, columns, key), text)


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
