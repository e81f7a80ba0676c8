"""The controls of the removal experiment, each a switch; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SpecError

DUPLICATES = 0.05  # share of a half that counts as near-duplicates
WEIGHT_DECAY = 0.05  # where the recipe has none
PLAIN, NOTHING = "plain", "none"  # the design without controls, the arm that removes nothing


@dataclass(frozen=True)
class Design:
    """How the experiment departs from the plain one."""

    balanced: bool = False  # all arms take the same share of every class
    duplicates: float = 0.0  # share of each half taken away before anything is trained, nearest neighbours first
    weight_decay: bool = False  # on where the recipe has it off, and the other way round
    equal_steps: bool = False  # as many optimizer steps as with all images
    same_seed: bool = False  # retrained from the seed of the f that was scored (double dipping)


CONTROLS: dict[str, dict[str, object]] = {
    "balanced": {"balanced": True},
    "duplicates first": {"duplicates": DUPLICATES},
    "weight decay": {"weight_decay": True},
    "equal steps": {"equal_steps": True},
    "same seed": {"same_seed": True},
}


def design(text: str) -> Design:
    """The design called "plain", or by names of CONTROLS joined by " + "; SpecError for another name."""
    fields: dict[str, object] = {}
    for name in text.split(" + ") if text != PLAIN else ():
        if name not in CONTROLS:
            raise SpecError(
                f"a control is {PLAIN!r}, or one or several of {', '.join(CONTROLS)} joined by ' + ', found {name!r}; "
                "choose one of them."
            )
        fields |= CONTROLS[name]
    return Design(**fields)
