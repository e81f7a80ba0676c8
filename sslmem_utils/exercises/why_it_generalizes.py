"""Exercises of the page on why memorization should help."""

from __future__ import annotations

import math

import pandas as pd

from . import exercise
from .comparing import aligned, half_width, near, numbers


@exercise("17.2")
def classes_or_cells(answer: object, alone: pd.DataFrame) -> str | None:
    """Half widths over cells and over classes."""
    rows, by_seed = {}, {}
    for name, part in alone.groupby("dataset", sort=False):
        rows[name] = {"cells": half_width(part["knn"]), "classes": half_width(part.groupby("class")["knn"].mean())}
        by_seed[name] = half_width(part.groupby("seed")["knn"].mean())
    wanted = pd.DataFrame(rows).T
    found = aligned(answer, wanted)
    if near(found, wanted):
        return None
    if near(found, 2 * wanted):
        return "these are whole widths, from low to high; half of each is asked for."
    if near(found["cells"], wanted["cells"]) and near(found["classes"], pd.Series(by_seed)):
        return "you have averaged over the classes of a seed; average over the seeds of a class."
    if near(found["cells"], wanted["cells"]):
        return "cells are right; for classes there is one number a class before the interval is taken."
    return "the column is `knn`, f minus g; use `stats.interval` on one number per replication."


@exercise("17.3")
def largest_rho(answer: object) -> str | None:
    """Up to which rho the condition of the bound can hold."""
    found = numbers(answer, 1)
    if near(found, [2 - math.sqrt(3)], 0.01):
        return None
    if near(found, [2 + math.sqrt(3)], 0.01):
        return "that solves the squared equation and not the first one: put it in."
    return "put s for the root of 2 rho, and solve s^2 / 2 + s = 1 for a positive s."
