"""Limiting alignment: what Eq. (3) of the paper does to memorization, to alignment in general and to accuracy.

    base = removal.base("digits", 400, 300)
    plan = limiting.Plan(limits=[0.1, 0.5], chosen_limits=[0.5])
    table = limiting.measure(base, range(5), plan)      # one row a seed, arm and limit
    limiting.matched(table)                             # accuracy at equal alignment of images that nobody saw

The term pulls views of *all* images apart, also of those never trained on, so that a lower accuracy need not come from
less memorization (a reviewer's objection). Two things help: arms that limit only some candidates, the most memorized
ones or as many drawn at random, compared at the same alignment of external images; and partial correlations
(`stats.partial_correlation`) with alignment, uniformity and RankMe held fixed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .matching import EVERY, MOST, NONE, RANDOM, changes, matched, rankme, uniformity

if TYPE_CHECKING:
    from .measuring import KIND, Plan, arms, chosen, geometry, limited, measure

__all__ = [
    "EVERY",
    "KIND",
    "MOST",
    "NONE",
    "RANDOM",
    "Plan",
    "arms",
    "changes",
    "chosen",
    "geometry",
    "limited",
    "matched",
    "measure",
    "rankme",
    "uniformity",
]


def __getattr__(name: str) -> Any:  # what trains brings torch, which a page made from stored tables does without
    if name in __all__:
        return getattr(import_module(f"{__name__}.measuring"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
