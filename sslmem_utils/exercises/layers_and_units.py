"""Exercises of the page on layers and units."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from . import exercise
from .comparing import aligned, near, numbers

DRAWS = 2000  # units that know nothing


def _unitmem(activations: np.ndarray) -> np.ndarray:
    top = activations.max(0)
    others = (activations.sum(0) - top) / (len(activations) - 1)
    return (top - others) / (top + others)


@exercise("15.1")
def unitmem(answer: object) -> str | None:
    """A function that computes UnitMem."""
    if not isinstance(answer, Callable):
        return f"the answer should be the function itself, found {type(answer).__name__}."
    firing = (np.arange(100)[:, None] < np.array([1, 50, 51, 100])).astype(float)
    tried = {"of one image": firing[:, :1], "of fifty": firing, "of any": np.random.default_rng(0).random((20, 7))}
    for activations in tried.values():
        try:
            found = answer(activations.copy())
        except Exception as error:
            return f"the function fails on a matrix of {len(activations)} images: {type(error).__name__}: {error}"
        if not near(found, _unitmem(activations)):
            return _why(activations, found)
    return None


def _why(activations: np.ndarray, found: object) -> str:
    top, mean, median = activations.max(0), activations.mean(0), np.median(activations, 0)
    if near(found, (top - mean) / (top + mean)):
        return "the mean is that of all *other* images: the strongest one does not count in it."
    if near(found, (top - median) / (top + median)):
        return "that is the median of the images; the formula has the mean of the others."
    if np.shape(found) != top.shape:
        return f"one number for each unit, a column, is asked for; found the shape {np.shape(found)}."
    return "a unit that fires for one image only has 1, one that fires for all alike has 0."


@exercise("15.2")
def selective(answer: object, images: int) -> str | None:
    """Mean UnitMem of units that know nothing."""
    found = numbers(answer, 1)
    rng = np.random.default_rng(1)
    if near(found, [_unitmem(rng.exponential(size=(images, DRAWS))).mean()], 0.03):
        return None
    if near(found, [_unitmem(rng.exponential(size=(10 * images, DRAWS))).mean()], 0.01):
        return "that is the value of ten times as many images."
    return "draw images by units, take UnitMem of every unit, and then the mean over the units."


@exercise("15.3")
def chance(answer: object, means: pd.DataFrame) -> str | None:
    """Share of blocks and seeds that lie outside of the range of independent units, for each model."""
    some = means[means["images"] == "both"]
    off, root = (some["in_candidates"] - 0.5).abs(), np.sqrt(0.25 / some["units"])
    wanted = (off > 1.96 * root).groupby(some["model"]).mean()
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, 1 - wanted):
        return "that is the share *inside* of the range."
    if near(found, (some["in_candidates"] - 0.5 > 1.96 * root).groupby(some["model"]).mean()):
        return "the range has two ends: shares far below one half lie outside as well."
    return "the rows with `images` equal to both; u is their column `units`; then the mean over the rows of each model."
