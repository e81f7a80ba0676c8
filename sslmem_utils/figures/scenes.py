"""Figures of scenes: images beside what is known and predicted of every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..errors import DataError
from ..stats import require
from .style import INK, SIZES, label, settled, style

VOID = "#7d8590"


@style()
def scenes(table: pd.DataFrame, classes: Sequence[str], void: int = 255) -> Figure:
    """A row of pictures for each scene, a column for each `what`; classes in colours, void pixels in grey.

    Columns: scene, what, pixels (flat uint8: the colours of the image where `what` is "image", else class numbers), c,
    h, w. `classes` are the names of the numbers; those that occur stand below. DataError without pictures.
    """
    require(table, ["scene", "what", "pixels", "c", "h", "w"])
    if not len(table) or any(len(picture) == 0 for picture in table["pixels"]):
        raise DataError("the pictures of these scenes are not here; run the notebook where the scenes are.")
    rows, columns = (list(dict.fromkeys(table[name])) for name in ("scene", "what"))
    palette = mpl.colormaps["tab20"].colors  # dark and light in turn: the dark ones first
    inks = np.array([*palette[::2], *palette[1::2]] * (len(classes) // 20 + 1))
    shape = table.iloc[0][["h", "w"]].astype(int).tolist()
    width = SIZES["wide"][0]
    height = width / len(columns) * shape[0] / shape[1]
    lines = -(-len(classes) // 6)
    figure = Figure(figsize=(width, 0.3 + height * len(rows) + 0.22 * lines), layout="constrained")
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.02, h_pad=0.02)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    seen: set[int] = set()
    unknown = False
    for row in table.to_dict("records"):
        axes = grid[rows.index(row["scene"]), columns.index(row["what"])]
        picture = np.asarray(row["pixels"], dtype=np.uint8).reshape(row["c"], *shape).transpose(1, 2, 0)
        if row["what"] == "image":
            shown = np.repeat(picture, 3 // row["c"], axis=2)
        else:
            numbers = picture[..., 0]
            there = numbers != void
            unknown |= not there.all()
            seen |= set(np.unique(numbers[there]).tolist())
            shown = np.empty((*shape, 3))
            shown[there], shown[~there] = inks[numbers[there]], mpl.colors.to_rgb(VOID)
        axes.imshow(shown, interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=INK, linewidth=0.6)
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(label(str(name)), size=9)
    marks = [Patch(color=inks[number], label=classes[number]) for number in sorted(seen)]
    marks += [Patch(color=VOID, label="void")] if unknown else []
    figure.legend(handles=marks, loc="outside lower center", ncols=min(6, len(marks)), fontsize=8, handlelength=1)
    names = ", ".join(classes[number] for number in sorted(seen))
    text = f"{len(rows)} scenes in rows; in columns {', '.join(map(label, columns))}. Classes in colours: {names}."
    return settled(figure, text)
