"""Training length: the score, both alignment losses and the probes along one training, and where its loss levels off.

    base = recipes.recipe("digits", shared=125, candidate=125, external=500)
    course = lengths.Course(base, range(5), [60, 120, 240, 480], score)
    curves, losses = lengths.curves(course), lengths.losses(course)    # one row a seed and epoch
    lengths.slopes(curves, lengths.plateaus(losses), "candidate")

The schedule is the point at issue: at the end of a cosine the learning rate is 0, the loss levels off because nothing
moves any more, and every number changes with the rate. A training is therefore followed along a schedule that is made
for `horizon` times as many epochs as are trained: 1 is the cosine as it is, at 4 the rate never falls below .87 of its
peak after the warm-up, which takes the same epochs for every horizon.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .levels import plateau, plateaus, slopes

if TYPE_CHECKING:
    from .following import KIND, Course, curves, follow, losses, pair, stretched

__all__ = ["KIND", "Course", "curves", "follow", "losses", "pair", "plateau", "plateaus", "slopes", "stretched"]


def __getattr__(name: str) -> Any:  # what trains brings torch, which a page made from stored tables does without
    if name in __all__:
        return getattr(import_module(f"{__name__}.following"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
