"""Where a loss curve levels off, and how fast something else changes after that; no torch."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from .. import stats
from ..errors import DataError
from ..stats import Number

FALL, PART = 0.04, 0.1  # the rule of the plateau, see `plateau`


def plateau(losses: Float[np.ndarray, " epochs"], fall: Number = FALL, part: Number = PART) -> float:
    """The first epoch from which on the loss hardly falls; NaN where there is none.

    The mean loss of the epochs before it, a `part` of the training, is above that of as many epochs after it by no more
    than a share `fall` of the whole fall (the first epoch's loss less the mean of the last `part`), and so it stays for
    every later epoch. The rule is relative to what was trained: a loss that falls with the logarithm of the epochs has
    its plateau at the same share of any training. DataError for a loss that is not finite or never falls.
    """
    values = stats.finite(losses, "losses")
    size = max(1, round(part * len(values)))
    whole = values[0] - values[-size:].mean()
    if len(values) < 2 * size or whole <= 0:
        raise DataError(
            f"a plateau needs a loss that falls over {2 * size} epochs or more, found {len(values)} epochs and a fall "
            f"of {whole:.3g}; train longer or with another learning rate."
        )
    sums = np.concatenate([[0.0], values.cumsum()])
    at = np.arange(size, len(values) - size + 1)  # epochs finished
    drop = (2 * sums[at] - sums[at - size] - sums[at + size]) / size
    steep = np.flatnonzero(drop > fall * whole)
    first = steep[-1] + 1 if len(steep) else 0
    return float(at[first]) if first < len(at) else float("nan")


def plateaus(losses: pd.DataFrame, fall: Number = FALL, part: Number = PART) -> pd.DataFrame:
    """The plateau of every experiment, from the mean of the loss curves of all its encoders (as returned by `losses`).

    Columns: dataset (if given), plateau (epoch), last (epoch trained), fallen: the share of the whole fall that the
    loss has behind it there, by the means of `plateau`. DataError where there is none.
    """
    rows = []
    for name, some in losses.groupby("dataset", sort=False) if "dataset" in losses else [("", losses)]:
        mean = some.groupby("epoch")["loss"].mean()
        values, size = mean.to_numpy(), max(1, round(part * len(mean)))
        found = plateau(values, fall, part)
        if not np.isfinite(found):
            raise DataError(
                f"a plateau must begin before the last epoch, found the loss{' of ' * bool(name)}{name} still falling "
                f"at epoch {mean.index.max()}; train longer."
            )
        before, end = values[int(found) - size : int(found)].mean(), values[-size:].mean()
        fallen = float((values[0] - before) / (values[0] - end))
        row = {"plateau": found, "last": int(mean.index.max()), "fallen": fallen}
        rows.append({"dataset": name, **row} if name else row)
    return pd.DataFrame(rows)


def slopes(curves: pd.DataFrame, plateaus: pd.DataFrame, value: str = "candidate") -> pd.DataFrame:
    """Least-squares slope of a column of `curves` per doubling of the epochs, for each seed, from the plateau on.

    Columns: dataset (if given), seed, slope (units of the column), checkpoints (used). DataError where fewer than 3
    checkpoints come after a plateau.
    """
    rows, by = [], ["dataset"] * ("dataset" in plateaus)
    for row in plateaus.to_dict("records"):
        part = curves[(curves[by] == [row[name] for name in by]).all(axis=1) & (curves["epoch"] >= row["plateau"])]
        if part["epoch"].nunique() < 3:
            raise DataError(
                f"a slope needs 3 checkpoints after the plateau at epoch {row['plateau']:g}, found "
                f"{part['epoch'].nunique()}; train longer, or look more often."
            )
        for seed, one in part.groupby("seed"):
            slope = np.polyfit(np.log2(one["epoch"]), one[value], 1)[0]
            names = {name: row[name] for name in by}
            rows.append({**names, "seed": seed, "slope": float(slope), "checkpoints": len(one)})
    return pd.DataFrame(rows)
