"""Partial views: the part of an image that an attack is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, UInt8
from pydantic import Field
from torch import Tensor

from .. import views
from ..data import ImageSet
from ..errors import DataError, SpecError
from ..specs import Seed, Spec, ViewSpec, digest, seed_of
from .rectangles import Box, Rectangle, largest, occupied_by

CORNERS = ("lower_left", "lower_right", "upper_left", "upper_right")
LEAST = 2  # pixels of the shorter side below which a rectangle shows nothing


@runtime_checkable
class PartialView(Protocol):
    """What an attack asks of a partial view."""

    def key(self) -> str:
        """A hash of all that decides what is shown."""

    def usable(self, images: ImageSet, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which images have such a view; the others are not attacked."""

    def __call__(
        self, images: ImageSet, rows: Int64[np.ndarray, " b"]
    ) -> tuple[Float32[Tensor, "b c h w"], Bool[Tensor, "b t"] | None]:
        """What is shown of usable images, in [0, 1] at their own size, and the patches hidden from the encoder."""


class Corner(Spec):
    """A square-cornered crop: `side` of the height and of the width at one corner, or at one drawn for each image.

    The published attack takes the lower left corner with a side of 0.3. Brought to the size of the image.
    """

    corner: Literal["lower_left", "lower_right", "upper_left", "upper_right", "any"] = "lower_left"
    side: Annotated[float, Field(gt=0, le=1)] = 0.3
    seed: Seed = 0  # of the corners that are drawn

    def usable(self, images: ImageSet, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """All of them; SpecError where the crop would have fewer than LEAST pixels a side."""
        if min(self._size(images)) < LEAST:
            tall, wide = images.shape[1:]
            raise SpecError(
                f"a corner crop needs {LEAST} pixels a side, found {self.side:g} of images of {tall} x {wide}; raise "
                "side."
            )
        return np.ones(len(rows), dtype=bool)

    def __call__(self, images: ImageSet, rows: Int64[np.ndarray, " b"]) -> tuple[Float32[Tensor, "b c h w"], None]:
        """The crops."""
        tall, wide = self._size(images)
        height, width = images.shape[1:]
        places = {}
        for number, name in enumerate(CORNERS):
            vertical, horizontal = name.split("_")
            top, left = (height - tall) * (vertical == "lower"), (width - wide) * (horizontal == "right")
            places[number] = (top, left, tall, wide)
        if self.corner == "any":
            ids, first = images.ids[torch.tensor(rows)], torch.zeros(1, dtype=torch.int64)
            drawn = views.uniform(seed_of("partial view", self.seed), ids, first, [0])
            which = (drawn.double().flatten() * len(CORNERS)).long().tolist()
        else:
            which = [CORNERS.index(self.corner)] * len(rows)
        return _cut(images.rows(rows), [places[one] for one in which]), None

    def _size(self, images: ImageSet) -> tuple[int, int]:
        return tuple(round(self.side * pixels) for pixels in images.shape[1:])


@dataclass(frozen=True)
class Background:
    """The largest rectangle (`largest`) outside of the object, given by boxes or by masks; see `of_boxes`, `of_masks`.

    `rectangles`: of each row of the dataset (or of `None`: of all others); brought to the size of the image, so that
    its sides may be stretched differently. Images whose rectangle has a side below `least` pixels are not attacked.
    """

    rectangles: Mapping[int | None, Rectangle]
    shape: tuple[int, int]  # height and width of the images that these belong to
    least: int = LEAST

    @staticmethod
    def of_boxes(
        boxes: Sequence[Box] | Mapping[int, Sequence[Box]], shape: tuple[int, int], least: int = LEAST
    ) -> Background:
        """Outside of all boxes: of each row, or the same ones in every image.

        Boxes are (left, top, right, bottom) in pixels. DataError for one that reaches outside of the image (h, w).
        """
        given = boxes if isinstance(boxes, Mapping) else {None: boxes}
        return Background({row: largest(occupied_by(some, shape)) for row, some in given.items()}, shape, least)

    @staticmethod
    def of_masks(masks: Mapping[int, Bool[np.ndarray, "h w"]], least: int = LEAST) -> Background:
        """Outside of a mask of the object, one for each row; DataError for masks of several sizes, or none."""
        shapes = {mask.shape for mask in masks.values()}
        if len(shapes) != 1:
            raise DataError(f"masks must all have the size of the images, found {sorted(shapes)}; give one a row.")
        return Background({row: largest(mask) for row, mask in masks.items()}, shapes.pop(), least)

    def key(self) -> str:
        """Hash of the rectangles."""
        known = sorted((-1 if row is None else int(row), *map(int, one)) for row, one in self.rectangles.items())
        return digest("background", known, list(self.shape), self.least)

    def usable(self, images: ImageSet, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Images with a rectangle that is large enough; DataError where they have another size than its image had."""
        if images.shape[1:] != tuple(self.shape):
            found, wanted = (" x ".join(map(str, one)) for one in (images.shape[1:], self.shape))
            raise DataError(f"these rectangles belong to images of {wanted} pixels, found {found}; make them anew.")
        return np.array([min(self._of(row)[2:]) >= self.least for row in rows.tolist()], dtype=bool)

    def __call__(self, images: ImageSet, rows: Int64[np.ndarray, " b"]) -> tuple[Float32[Tensor, "b c h w"], None]:
        """The rectangles' contents."""
        return _cut(images.rows(rows), [self._of(row) for row in rows.tolist()]), None

    def _of(self, row: int) -> Rectangle:
        return self.rectangles.get(row, self.rectangles.get(None, (0, 0, 0, 0)))


class Centred(Spec):
    """The background outside of a central box with `side` of the height and of the width: a guess where boxes lack.

    What of the object lies outside of that box is shown.
    """

    side: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def usable(self, images: ImageSet, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """All of them, or none where the box leaves less than LEAST pixels a side."""
        return self._background(images).usable(images, rows)

    def __call__(self, images: ImageSet, rows: Int64[np.ndarray, " b"]) -> tuple[Float32[Tensor, "b c h w"], None]:
        """The rectangles' contents."""
        return self._background(images)(images, rows)

    def _background(self, images: ImageSet) -> Background:
        height, width = images.shape[1:]
        top, left = (round(pixels * (1 - self.side) / 2) for pixels in (height, width))
        return Background.of_boxes([(left, top, width - left, height - top)], (height, width))


class Visible(Spec):
    """The visible patches of a masked image, for encoders that read patches: 1 - `mask` of them, at their places."""

    mask: Annotated[float, Field(gt=0, lt=1)] = 0.75
    patch: Annotated[int, Field(ge=1)] = 4  # side of a patch in pixels: that of the encoder
    kind: Literal["random", "block", "grid"] = "random"
    seed: Seed = 0

    def usable(self, images: ImageSet, rows: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """All of them."""
        return np.ones(len(rows), dtype=bool)

    def __call__(
        self, images: ImageSet, rows: Int64[np.ndarray, " b"]
    ) -> tuple[Float32[Tensor, "b c h w"], Bool[Tensor, "b t"]]:
        """The images and the patches of each that the encoder may not see."""
        view = ViewSpec(mask=self.mask, mask_patch=self.patch, mask_kind=self.kind)
        ids = images.ids[torch.tensor(rows)]
        seed = seed_of("partial view", self.seed)  # not the masks of the training
        hidden = views.mask(view, ids, torch.zeros(1, dtype=torch.int64), seed, images.shape)
        return images.rows(rows).float() / 255, hidden[:, 0]


def shown(view: PartialView, images: ImageSet, rows: Int64[np.ndarray, " b"]) -> UInt8[np.ndarray, "b c h w"]:
    """What a view shows, as pictures; hidden patches are black."""
    x, hidden = view(images, rows)
    if hidden is not None:
        side = round((x.shape[2] * x.shape[3] / hidden.shape[1]) ** 0.5)
        grid = (~hidden).view(-1, 1, x.shape[2] // side, x.shape[3] // side)
        x = x * grid.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return (x * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def _cut(pixels: UInt8[Tensor, "b c h w"], rectangles: Sequence[Rectangle]) -> Float32[Tensor, "b c h w"]:
    """A rectangle of each image, in [0, 1] and brought to the image's size (bilinear, with antialiasing)."""
    out = torch.empty(pixels.shape, dtype=torch.float32)
    alike: dict[Rectangle, list[int]] = {}
    for at, one in enumerate(rectangles):
        alike.setdefault(tuple(one), []).append(at)
    size = tuple(pixels.shape[2:])
    for (top, left, tall, wide), some in alike.items():
        part = pixels[some, :, top : top + tall, left : left + wide].float() / 255
        out[some] = F.interpolate(part, size=size, mode="bilinear", align_corners=False, antialias=True)
    return out
