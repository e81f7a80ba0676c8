"""Removal: take some of the images that f was trained on away, train again from scratch, and probe.

    base = removal.base("digits", 400, 300)                    # f trains on half A, g on half B
    table = removal.measure(base, range(5), [0.4])             # one row a retrained encoder
    removal.effects(table)                                     # arm minus random, paired by seed, in points

Every arm of one seed is retrained from the same initialisation and data order, so that two arms differ in nothing but
the images that were taken away. Scores come from encoders with other training seeds than those. Controls are switches
(`CONTROLS`), alone or joined by " + ".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .arms import ARMS, chosen
from .designs import CONTROLS, Design, design
from .differences import effects, in_words, needed

if TYPE_CHECKING:
    from .retraining import base, measure, planned, probe_all, retrained
    from .scored import Setting, measures, near_duplicates, planted_rows, scores
    from .unlearning import forgotten

_LAZY = dict.fromkeys(("base", "measure", "planned", "probe_all", "retrained"), "retraining")
_LAZY |= dict.fromkeys(("Setting", "measures", "near_duplicates", "planted_rows", "scores"), "scored")
_LAZY |= {"forgotten": "unlearning"}

__all__ = [
    "ARMS",
    "CONTROLS",
    "Design",
    "Setting",
    "base",
    "chosen",
    "design",
    "effects",
    "forgotten",
    "in_words",
    "measure",
    "measures",
    "near_duplicates",
    "needed",
    "planned",
    "planted_rows",
    "probe_all",
    "retrained",
    "scores",
]


def __getattr__(name: str) -> Any:  # what trains brings torch, which a page made from stored tables does without
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
