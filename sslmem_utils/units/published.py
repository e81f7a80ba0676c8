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
# Accuracy in % after switching units off in CIFAR-10's encoder, probed on CIFAR-10, SVHN and STL-10 (Table 6).
PRUNING = pd.DataFrame(
    [
        ("none", "", 0.0, 70.44, 78.22, 69.12),
        ("most", "layer", 0.1, 53.04, 63.84, 50.94),
        ("random", "layer", 0.1, 58.09, 67.04, 55.71),
        ("least", "layer", 0.1, 62.58, 72.26, 59.26),
        ("most", "layer", 0.2, 48.30, 55.88, 43.18),
        ("random", "layer", 0.2, 51.34, 58.01, 46.74),
        ("least", "layer", 0.2, 54.84, 62.60, 50.02),
        ("most", "total", 0.1, 49.16, 61.28, 47.30),
        ("random", "total", 0.1, 56.77, 67.09, 53.89),
        ("least", "total", 0.1, 62.62, 72.28, 59.30),
    ],
    columns=["arm", "scope", "share", "cifar10", "svhn", "stl10"],
)


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
