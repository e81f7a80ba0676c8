"""LayerMem as Wang et al. 2024 (arXiv 2409.19069) print it: their numbers, not ours, to stand beside ours."""

from __future__ import annotations

import numpy as np
import pandas as pd

SOURCE = "arXiv 2409.19069"
# Mean (g - f) / (g + f) over candidates, not centred on external images, by layer in order of depth.
LAYERMEM = {
    ("ResNet-9, SimCLR, CIFAR-10", "convolutions", "Table 1"): (
        *(0.091, 0.123, 0.154, 0.183, 0.212, 0.246, 0.276, 0.308),
    ),
    ("ViT-Tiny, MAE, CIFAR-10", "MLP", "Table 10"): (
        *(0.020, 0.039, 0.060, 0.083, 0.105, 0.129, 0.155, 0.182, 0.210, 0.240, 0.271, 0.303),
    ),
    ("ViT-Tiny, MAE, CIFAR-10", "attention", "Table 10"): (
        *(0.006, 0.028, 0.046, 0.067, 0.092, 0.114, 0.140, 0.164, 0.191, 0.220, 0.249, 0.280),
    ),
    ("ViT-Base, MAE, ImageNet", "blocks", "Table 31"): (
        *(0.019, 0.037, 0.055, 0.075, 0.095, 0.118, 0.139, 0.163, 0.188, 0.215, 0.243, 0.271),
    ),
    ("ViT-Base, DINO, ImageNet", "blocks", "Table 31"): (
        *(0.019, 0.036, 0.056, 0.077, 0.096, 0.119, 0.142, 0.168, 0.193, 0.219, 0.247, 0.275),
    ),
}


def theirs() -> pd.DataFrame:
    """Their LayerMem by layer: encoder, part, source, number, layermem, delta (less the number of the layer before)."""
    rows = [
        {"encoder": encoder, "part": part, "source": f"{SOURCE}, {where}", "number": at + 1, "layermem": value}
        for (encoder, part, where), values in LAYERMEM.items()
        for at, value in enumerate(values)
    ]
    table = pd.DataFrame(rows)
    return table.assign(delta=table.groupby(["encoder", "part"], sort=False)["layermem"].diff())


def beside(found: pd.DataFrame) -> pd.DataFrame:
    """Our LayerMem and theirs in one table: one row an encoder and part, marked by `whose` (theirs, ours).

    `found`: rows of `layermem` with `encoder` and `part`. Columns: whose, encoder, part, layers, first, last (LayerMem
    of the first and the last layer, not centred, as theirs), step (mean Delta), centred (the last, centred; NaN for
    theirs), all means over seeds.
    """
    rows = []
    for (encoder, part), one in theirs().groupby(["encoder", "part"], sort=False):
        values = one["layermem"].to_numpy()
        rows.append(_row("theirs", encoder, part, values, float("nan")))
    for (encoder, part), one in found.groupby(["encoder", "part"], sort=False):
        means = one.groupby("number")[["raw", "layermem"]].mean()
        rows.append(_row("ours", encoder, part, means["raw"].to_numpy(), float(means["layermem"].iloc[-1])))
    return pd.DataFrame(rows)


def _row(whose: str, encoder: str, part: str, values: np.ndarray, centred: float) -> dict[str, object]:
    steps = max(1, len(values) - 1)
    row = {"whose": whose, "encoder": encoder, "part": part, "layers": len(values)}
    ends = {"first": float(values[0]), "last": float(values[-1])}
    return {**row, **ends, "step": (ends["last"] - ends["first"]) / steps, "centred": centred}
