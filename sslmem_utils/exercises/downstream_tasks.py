"""Exercises of the page on downstream tasks."""

from __future__ import annotations

import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers

KEYS = ["dataset", "task"]


def _mean(table: pd.DataFrame, arm: str) -> pd.Series:
    return table[table["arm"] == arm].groupby(KEYS, sort=False)["linear"].mean()


@exercise("11.1")
def worth(answer: object, accuracy: pd.DataFrame, floor: pd.DataFrame) -> str | None:
    """What training is worth on each task, and what removal costs at all."""
    start = _mean(floor, "untrained")
    whole = _mean(accuracy, "none").loc[start.index]
    wanted = pd.DataFrame({"worth": whole - start, "price": whole - _mean(accuracy, "random").loc[start.index]}) * 100
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(100 * found, wanted):
        return "these are shares; a point is a hundredth."
    if near(-found, wanted):
        return "the sign is turned: both are what the encoder trained on everything has more."
    if near(found["worth"], wanted["worth"]):
        return "the worth is right; the price compares with the arm *random*, not with the most memorized."
    return "compare means over seeds of the linear probe; the untrained encoders stand in `floor`."


@exercise("11.2")
def test_noise(answer: object, accuracy: pd.DataFrame, delta: float) -> str | None:
    """Standard error by the number of test images, and the images that the margin takes."""
    table = accuracy[accuracy["arm"] == "random"].groupby(KEYS, sort=False)[["linear", "test"]].mean()
    variance = table["linear"] * (1 - table["linear"])
    wanted = pd.DataFrame({"error": 100 * (variance / table["test"]) ** 0.5, "images": variance / (delta / 100) ** 2})
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(100 * found["error"], wanted["error"]):
        return "the error is a share; it is asked for in points."
    if near(found["error"], wanted["error"]):
        return "the error is right; set it equal to the margin and solve for n, both in the same unit."
    return "p is the mean accuracy after random removal, a share between 0 and 1, and n the column `test`."


@exercise("11.3")
def wall(answer: object) -> str | None:
    """Share of pixels right and mIoU of a head that says wall everywhere."""
    found = numbers(answer, 2)
    if near(found, [0.9, 0.45]):
        return None
    if near(found, [90, 45]):
        return "both are shares, between 0 and 1."
    if not near(found[0], 0.9):
        return "count the pixels that are right, of all 100."
    return "intersection over union class by class: what was *called* wall counts in its union; then the mean of two."
