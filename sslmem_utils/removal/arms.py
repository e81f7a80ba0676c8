"""Which images are taken: by memorization, at random, or by what competes with it; no torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int64

from ..errors import DataError, SpecError
from ..specs import seed_of
from ..splits import shuffle_keys
from ..stats import finite, require

# Column that an arm ranks by, whether the largest come first, and what the arm is in words.
ARMS: dict[str, tuple[str | None, bool, str]] = {
    "top": ("m_rel", True, "the most memorized"),
    "bottom": ("m_rel", False, "the least memorized"),
    "random": (None, True, "drawn at random"),
    "classwise": (None, True, "drawn at random, the same share of every class"),
    "el2n": ("el2n", True, "the largest EL2N (arXiv 2107.07075)"),
    "atypical": ("prototype", True, "the farthest from a k-means centre of f's features (arXiv 2206.14486)"),
    "prototypes": ("prototype", False, "the nearest to a k-means centre of f's features"),
    "planted": ("planted", True, "the planted images, then at random"),
}


def chosen(
    how: str, table: pd.DataFrame, count: int, seed: int, *, balanced: bool = False
) -> Int64[np.ndarray, " count"]:
    """The `count` first rows of the dataset in the order of an arm, sorted.

    `table` has a row an image: row, label and the column of ARMS that the arm ranks by (`scores`, `measures`). Smaller
    counts are part of larger ones. `seed` draws the random order, which also breaks ties. `balanced` takes the same
    share of every class, to within one image, and the first of each by the arm's order. SpecError for an unknown arm,
    for more images than there are, for images that are not candidates (column `set`, where it is there) and for
    classes without labels; DataError for a measure that is not finite.
    """
    if how not in ARMS:
        raise SpecError(f"arm must be one of {', '.join(ARMS)}, found {how!r}; choose one of them.")
    column, largest, _ = ARMS[how]
    require(table, ["row", "label", *([column] if column else [])])
    if "set" in table and (strange := set(table["set"]) - {"candidate"}):
        raise SpecError(
            f"only candidates have scores to remove images by, found images of the {min(strange)} set, which g was "
            "trained on too or f was not; keep the candidates."
        )
    if not 0 <= count <= len(table):
        raise SpecError(f"{count} images cannot be taken from {len(table)}; take {len(table)} or fewer.")
    rows = table["row"].to_numpy()
    keys = shuffle_keys(seed_of("removal", seed), rows)
    value = finite(table[column], column) * (-1 if largest else 1) if column else np.zeros(len(rows))
    order = np.lexsort((keys, value))
    if balanced or how == "classwise":
        labels = table["label"].to_numpy()[order]
        if (labels < 0).any():
            raise DataError("taking the same share of every class needs a label for every image; label them.")
        part = pd.Series(labels).groupby(labels)
        place = (part.cumcount() + 0.5) / part.transform("size")
        order = order[np.argsort(place.to_numpy(), kind="stable")]
    return np.sort(rows[order[:count]])
