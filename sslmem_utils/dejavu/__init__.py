"""Déjà vu: an image's label inferred from a part of it, by an encoder that saw the whole in training and by one that
did not (Meehan et al. 2023, arXiv 2304.13850).

    base = recipes.recipe("digits", shared=125, candidate=125, external=500)
    table = dejavu.attacks(base, range(3), dejavu.Corner(side=0.5), [5, 20, 50])   # one row an image, pair and k
    dejavu.scores(table)                    # DV score a seed, at 20 % and 100 % of the most confident images
    dejavu.tests(table)                     # of each pair: interval over images and McNemar's test
    dejavu.agreement(table, score_table)    # with m on the same images

f attacks the candidates with g as its reference, g attacks the independents with f as its reference. Shared images,
which both saw, and external images, which neither saw, are attacked by f with g as its reference: controls.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .outcomes import (
    GROUPS,
    QUADRANTS,
    SHARES,
    accuracy,
    agreement,
    bootstrap,
    mcnemar,
    per_image,
    quadrants,
    scores,
    tests,
)
from .rectangles import largest
from .votes import Votes, vote

if TYPE_CHECKING:
    from .attacking import KIND, attack, attacks, pictures, public
    from .neighbours import nearest
    from .partial import CORNERS, Background, Centred, Corner, PartialView, Visible, shown

_TORCH = {
    **dict.fromkeys(("KIND", "attack", "attacks", "pictures", "public"), "attacking"),
    "nearest": "neighbours",
    **dict.fromkeys(("CORNERS", "Background", "Centred", "Corner", "PartialView", "Visible", "shown"), "partial"),
}

__all__ = [
    "CORNERS", "GROUPS", "KIND", "QUADRANTS", "SHARES", "Background", "Centred", "Corner", "PartialView", "Visible",
    "Votes", "accuracy", "agreement", "attack", "attacks", "bootstrap", "largest", "mcnemar", "nearest", "per_image",
    "pictures", "public", "quadrants", "scores", "shown", "tests", "vote",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # what embeds images brings torch, which a page made from stored tables does without
    if name in _TORCH:
        return getattr(import_module(f"{__name__}.{_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
