"""Datasets as uint8 images (n, c, h, w) with labels and stable identities; see data/README.md.

Importing this package loads no torch: `load`, `match`, `gather` and `ImageSet` bring it when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .importing import import_images
from .listing import catalogue

if TYPE_CHECKING:
    from .imageset import ImageSet, gather
    from .loading import load
    from .matching import Match, match
    from .rendered import import_shapes

__all__ = ["ImageSet", "Match", "catalogue", "gather", "import_images", "import_shapes", "load", "match"]
_LATER = {
    "ImageSet": "imageset",
    "gather": "imageset",
    "load": "loading",
    "Match": "matching",
    "match": "matching",
    "import_shapes": "rendered",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
