"""Images on which two measures disagree, with both ranks below each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ..errors import DataError
from .scores import _tiles
from .style import settled, style


@style()
def disagreements(
    images: NDArray[np.uint8], ranks: ArrayLike, names: Sequence[str], key: str = "rank", columns: int = 8
) -> Figure:
    """Two rows of images: ranked high by the first measure and low by the second, and the other way round.

    `images` (n, c, h, w) uint8 with c of 1 or 3; `ranks` (n, 2) under the two measures, from 0 to 1, printed below each
    image; `names` of the measures, short; `key` says what a rank is. Each row starts with the largest difference.
    """
    ranks = np.asarray(ranks, dtype=float)
    right = images.ndim == 4 and images.shape[1] in (1, 3) and images.dtype == np.uint8
    if not right or ranks.shape != (len(images), 2) or not len(images) or len(names) != 2:
        found = f"{images.dtype} {images.shape}, ranks {ranks.shape} and {len(names)} names"
        raise DataError(
            f"disagreements need uint8 (n, c, h, w), c of 1 or 3, n pairs of ranks and two names, found {found}; "
            "convert them."
        )
    gap, rows, said = ranks[:, 0] - ranks[:, 1], [], []
    for sign, (high, low) in ((1, names), (-1, (names[1], names[0]))):
        chosen = np.flatnonzero(sign * gap > 0)
        chosen = chosen[np.argsort(-abs(gap[chosen]), kind="stable")][:columns]
        if len(chosen):
            rows.append(("higher by\n" + high.replace(" ", "\n"), chosen))
            said.append(f"{len(chosen)} ranked higher by {high} than by {low}, up to {abs(gap[chosen]).max():.2f}")
    below = [f"{first:.2f}\n{second:.2f}" for first, second in ranks]
    colored = np.repeat(images, 3 // images.shape[1], axis=1).transpose(0, 2, 3, 1)
    figure = _tiles(colored, rows, below, columns, f"below each image: its {key} by {names[0]}, then by {names[1]}")
    return settled(figure, f"Images on which {names[0]} and {names[1]} disagree: {'; '.join(said) or 'none'}.")
