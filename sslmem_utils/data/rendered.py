"""Small rendered scenes and shapes: what tests and quick profiles have in the place of photographs.

A scene is a room with a patterned floor and a wall, and balls, boxes and cones that stand on the floor, each in any
colour: its kind is in its form, its depth in its place and size. A shape is a grey picture of one of eight forms.
Nothing here looks like a photograph: results on it say that the machinery works, not how encoders do on photographs.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from ..errors import SpecError
from ..specs import seed_of
from . import cache

if TYPE_CHECKING:
    from .imageset import ImageSet

KINDS = ("wall", "floor", "ball", "box", "cone")
COUNTS = {"train": 120, "test": 60}
SIDE = 64  # pixels of a rendered scene
SHAPES = ("disc", "ring", "square", "frame", "triangle", "cross", "stripes", "dots")
SHAPE_SIDE, PER_SHAPE = 28, 100
_EYE, _FOCAL, _HORIZON = 1.5, 1.1, 0.35  # metres above the floor, heights of the picture, share of it from the top


def scenes(
    target: str, part: str, frame: tuple[int, int], channels: int
) -> tuple[UInt8[Tensor, "n c h w"], UInt8[Tensor, "n h w"] | Float32[Tensor, "n h w"]]:
    """Images and masks (numbers of KINDS) or depths (metres) of one part at the size `frame`; always the same."""
    if part not in COUNTS:
        raise SpecError(f"rendered scenes have the parts {', '.join(COUNTS)}, found {part!r}; choose one.")
    images, masks, depths = _part(part)
    rows, columns = (((np.arange(count) + 0.5) * SIDE / count).astype(int) for count in frame)
    images = images[:, :, rows][:, :, :, columns]
    if channels == 1:
        images = (images.astype(np.float32) * np.float32([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdims=True)
    kept = (masks if target == "masks" else depths)[:, rows][:, :, columns]
    return torch.from_numpy(images.round().astype(np.uint8)), torch.from_numpy(kept)


@lru_cache(maxsize=2)
def _part(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed_of("scenes", part))
    return tuple(np.stack(parts) for parts in zip(*(scene(rng) for _ in range(COUNTS[part])), strict=True))


def scene(
    rng: np.random.Generator,
) -> tuple[UInt8[np.ndarray, "3 s s"], UInt8[np.ndarray, "s s"], Float32[np.ndarray, "s s"]]:
    """One scene of SIDE pixels: the picture, the number in KINDS of every pixel, and its depth in metres."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    wall = rng.uniform(4.0, 9.0)
    with np.errstate(divide="ignore"):
        floor = np.where(down > _HORIZON, _EYE * _FOCAL / (down - _HORIZON), np.inf)
    depth, mask = np.minimum(floor, wall), (floor < wall).astype(np.uint8)
    aside = (across - 0.5) * depth / _FOCAL
    tiles = (np.floor(aside + rng.uniform(0, 2)) + np.floor(depth + rng.uniform(0, 2))) % 2
    stripes = np.floor(across * rng.integers(3, 9) + rng.uniform()) % 2
    inks = rng.uniform(0.15, 0.9, (4, 3))
    picture = np.where((mask == 1)[..., None], _mixed(tiles, *inks[:2]), _mixed(0.4 * stripes, *inks[2:]))
    for near in sorted(rng.uniform(2.0, wall - 0.5, rng.integers(2, 6)), reverse=True):
        _stand(rng, near, down, across, picture, mask, depth)
    picture = picture * rng.uniform(0.7, 1.1) + rng.normal(0, 0.03, picture.shape)
    colours = (picture.clip(0, 1) * 255).round().astype(np.uint8).transpose(2, 0, 1)
    return colours, mask, depth.astype(np.float32)


def _mixed(share: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return share[..., None] * one + (1 - share[..., None]) * other


def _stand(
    rng: np.random.Generator,
    near: float,
    down: np.ndarray,
    across: np.ndarray,
    picture: np.ndarray,
    mask: np.ndarray,
    depth: np.ndarray,
) -> None:
    """Put an object of a random kind and colour on the floor, `near` metres away, in front of what is there."""
    kind, ink = int(rng.integers(2, len(KINDS))), rng.uniform(0.1, 1.0, 3)
    half = rng.uniform(0.25, 0.6) * _FOCAL / near  # in heights of the picture
    foot, middle = _HORIZON + _EYE * _FOCAL / near, rng.uniform(0.1, 0.9)
    x, y = (across - middle) / half, (foot - down) / half - 1  # -1 at the floor, 1 at the top
    inside = {2: x**2 + y**2 <= 1, 3: (abs(x) <= 1) & (abs(y) <= 1), 4: (abs(x) <= (1 - y) / 2) & (abs(y) <= 1)}[kind]
    light = {2: 0.55 + 0.45 * (y - x) / 2**0.5, 3: np.where(x > 0.4, 0.6, 1.0), 4: 0.75 - 0.35 * x}[kind]
    picture[inside] = np.clip(light[..., None] * ink, 0, 1)[inside]
    mask[inside], depth[inside] = kind, near


def shape(kind: str, rng: np.random.Generator) -> UInt8[np.ndarray, "s s"]:
    """A grey picture of one of SHAPES: light on dark or dark on light, of any place, size and turn."""
    middle, turn, size = rng.uniform(-0.2, 0.2, 2), rng.uniform(-0.5, 0.5), rng.uniform(0.5, 0.85)
    v, u = (np.mgrid[0:SHAPE_SIDE, 0:SHAPE_SIDE] + 0.5) / (SHAPE_SIDE / 2) - 1
    u, v = (u - middle[0]) / size, (v - middle[1]) / size
    u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    far, most = np.hypot(u, v), np.maximum(abs(u), abs(v))
    inside = {
        "disc": far < 0.9,
        "ring": (far < 0.95) & (far > 0.6),
        "square": most < 0.8,
        "frame": (most < 0.9) & (most > 0.6),
        "triangle": (v > -0.8) & (abs(u) < (0.8 - v) / 1.8) & (v < 0.8),
        "cross": (most < 0.95) & (np.minimum(abs(u), abs(v)) < 0.22),
        "stripes": (most < 0.9) & (np.cos(9 * u) > 0.1),
        "dots": (most < 0.95) & (np.cos(6 * u) * np.cos(6 * v) > 0.35),
    }[kind]
    ink = rng.uniform(0.4, 1.0) * (1 if rng.uniform() < 0.8 else -1)
    grey = (0.0 if ink > 0 else 1.0) + ink * inside + rng.normal(0, 0.06, inside.shape)
    return (grey.clip(0, 1) * 255).round().astype(np.uint8)


def import_shapes(name: str = "rendered_shapes") -> ImageSet:
    """PER_SHAPE pictures of each of SHAPES as an imported dataset; nothing when they are there."""
    from PIL import Image

    from ..specs import DatasetSpec
    from .importing import import_images
    from .loading import load

    made = {}
    for kind in SHAPES:
        rng = np.random.default_rng(seed_of("shapes", kind))
        made[kind] = np.stack([shape(kind, rng) for _ in range(PER_SHAPE)])
    if (cache.describe(name) or {}).get("images") == len(SHAPES) * PER_SHAPE:
        there = load(DatasetSpec(name=name))
        if np.array_equal(there.images[:, 0].numpy(), np.concatenate([made[kind] for kind in sorted(SHAPES)])):
            return there
    with tempfile.TemporaryDirectory() as folder:
        for kind, pictures in made.items():
            place = Path(folder) / "shapes" / kind
            place.mkdir(parents=True)
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(place / f"{number}.png")
        return import_images(name, Path(folder) / "shapes", replace=True)
