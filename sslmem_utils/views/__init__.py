"""Views: batched augmentation on the tensor's device, one draw per sample.

`draw` turns a `ViewSpec` into parameters, `apply` turns images and parameters into views, `mask` draws hidden patches.
Every random number is a hash of (seed, image id, view number, slot), so that any batch, order, subset, device and
resumed run draws the same views; nothing here keeps or touches a global generator.
"""

from .counter import uniform
from .masks import mask
from .operations import apply, views
from .parameters import Draw, changes, draw, view_shape
from .policies import named

__all__ = ["Draw", "apply", "changes", "draw", "mask", "named", "uniform", "view_shape", "views"]
