"""Why memorization might help: three factors of a bound, the long tail, and one image of a class that is missing.

    found = generalization.factors(spec)                      # Huang et al.'s factors of one encoder, and their bound
    points = generalization.losses(base, range(5))            # one row a test image, arm and seed
    table = generalization.outliers(base, range(5))           # one image of a class in f's training data, none in g's

The bound: Huang et al. (ICLR 2023, arXiv 2111.00743), Theorem 1. The long tail: Feldman (2020, arXiv 1906.05271). The
outlier class: a hypothesis of the paper's authors, given in a talk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .bounds import Factors, bound, clusters, main_parts, rho
from .points import by_gap, contrast

if TYPE_CHECKING:
    from .classes import one_image, outliers
    from .measuring import augmented_distances, concentration, factors
    from .tails import arms, losses

__all__ = [
    "Factors",
    "arms",
    "augmented_distances",
    "bound",
    "by_gap",
    "clusters",
    "concentration",
    "contrast",
    "factors",
    "losses",
    "main_parts",
    "one_image",
    "outliers",
    "rho",
]
_WHERE = {"one_image": "classes", "outliers": "classes", "arms": "tails", "losses": "tails"}


def __getattr__(name: str) -> Any:  # what trains brings torch, which a page made from stored tables does without
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_WHERE.get(name, 'measuring')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
