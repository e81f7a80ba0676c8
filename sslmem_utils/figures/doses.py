"""Figures of what a change of dose does: a value against few doses, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from ..stats import Number, over_seeds, show
from .style import (
    DASHED,
    INK,
    SEED_LINE,
    SIZES,
    averaged,
    colors,
    end_labels,
    label,
    panel_grid,
    panels_of,
    ready,
    settled,
    style,
)

APART = 4 / 72  # inches between the bars of two series at one dose


@style()
def dose_response(
    table: pd.DataFrame,
    x: str,
    value: str = "m_rel",
    series: str = "series",
    panel: str = "panel",
    reference: tuple[str, Number] | None = None,
) -> Figure:
    """A value at each of a few doses: seeds thin, means joined by lines, their intervals over seeds as bars.

    Columns: x, value, seed, and perhaps `series` (one colour, and its name at the line's end) and `panel`. Doses that
    are numbers stand in their places; words, policies say, stand side by side in the order of the table. `reference`
    names a horizontal line and says where it is: ("chance", 0.5).
    """
    table, seeds = ready(table, x, value)
    words = [] if pd.api.types.is_numeric_dtype(table[x]) else [str(dose) for dose in dict.fromkeys(table[x])]
    table = table.assign(at=table[x].astype(str).map(words.index) if words else table[x])
    panels, names = panels_of(table, panel), [name for name, _ in panels_of(table, series)]
    inks, said, ends = colors(names), [], []
    figure, grid = panel_grid(len(panels), label(value))
    if words and len(panels) == 1:
        figure.set_size_inches(SIZES["wide"])
    for axes, (title, part) in zip(grid, panels, strict=True):
        ends.append({})
        for name, rows in panels_of(part, series):
            shift = (names.index(name) - (len(names) - 1) / 2) * APART
            line = _line(axes, rows.sort_values("at", kind="stable"), value, inks[name], shift)
            ends[-1][name] = float(line["mean"].iloc[-1])
            tips = line.iloc[[0, -1] if len(line) > 1 else [0]].to_dict("records")
            texts = [f"{show(tip['mean'], tip['low'], tip['high'])} at {_word(tip['at'], words)}" for tip in tips]
            said.append(" ".join(filter(None, [label(title), label(name), " and ".join(texts)])))
        _ticks(axes, sorted(table["at"].unique().tolist()), words)
        axes.set(xlabel=f"{label(x)}\n({averaged(seeds)})" if seeds else label(x), title=label(title))
    if reference is not None:
        inks[reference[0]] = INK
        said.append(f"{reference[0]} {reference[1]:g}")
    for axes, here in zip(grid, ends, strict=True):  # once all panels are drawn and the y axis they share is known
        if reference is not None:
            axes.axhline(reference[1], **DASHED)
            here[reference[0]] = float(reference[1])
        end_labels(axes, here, inks)
    over = f", {averaged(seeds)}" if seeds else ""
    return settled(figure, f"{label(value)} against {label(x)}{over}: {'; '.join(said)}.")


def _line(axes: Axes, rows: pd.DataFrame, value: str, ink: str, shift: Number) -> pd.DataFrame:
    """One series, `shift` inches to the side; its means and intervals by dose."""
    line = over_seeds(rows, value, ["at"])
    known = line.dropna(subset="low")
    aside = ScaledTranslation(shift, 0, axes.figure.dpi_scale_trans)
    place = {"color": ink, "transform": axes.transData + aside}
    for _, one in rows.groupby("seed"):
        axes.plot(one["at"], one[value], **place, **SEED_LINE)
    hollow = {} if len(known) == len(line) else {"mfc": "none"}
    axes.plot(line["at"], line["mean"], "o-", ms=5, lw=1.6, zorder=3, **place, **hollow)
    if len(known):
        axes.vlines(known["at"], known["low"], known["high"], lw=2.4, zorder=4, **place)
    heights = pd.concat([rows[value], known["low"], known["high"]])
    axes.update_datalim(
        [(rows["at"].min(), heights.min()), (rows["at"].max(), heights.max())]
    )  # lines moved aside do not do it
    axes.autoscale_view()
    return line


def _word(dose: Number, words: Sequence[str]) -> str:
    return words[int(dose)] if words else f"{dose:g}"


def _ticks(axes: Axes, doses: Sequence[Number], words: Sequence[str]) -> None:
    """A tick at every dose that does not run into the one before it."""
    room = 0.0 if words else (doses[-1] - doses[0]) / 12
    ticks: list[Number] = []
    for dose in doses:
        ticks += [dose] if not ticks or dose - ticks[-1] >= room else []
    axes.set_xticks(ticks, [_word(tick, words).replace(" ", "\n") for tick in ticks])
    if words:
        axes.set_xlim(-0.4, len(words) - 0.6)
