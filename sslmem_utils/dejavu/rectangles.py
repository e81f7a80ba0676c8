"""The largest rectangle of an image that is free of its object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from ..errors import DataError

Box = Sequence[int | float]  # left, top, right, bottom in whole pixels; right and bottom are the first ones outside
Rectangle = tuple[int, int, int, int]  # top, left, height, width in pixels


def largest(occupied: Bool[np.ndarray, "h w"]) -> Rectangle:
    """Top, left, height and width of the largest free rectangle, by its area; all 0 where every pixel is occupied.

    Of several as large the one with the longer shorter side is taken, then the upper, then the left one. Each row is
    the base of a histogram of free pixels above it, whose maximal rectangles are found with one stack: O(h w).
    """
    height, width = occupied.shape
    heights, best = np.zeros(width + 1, dtype=int), (0, 0, 0, 0)
    order = (0, 0, 0, 0)
    for bottom in range(height):
        heights[:-1] = np.where(occupied[bottom], 0, heights[:-1] + 1)
        open_: list[tuple[int, int]] = []  # (left, height) of rectangles that may still grow to the right
        for right, tall in enumerate(heights.tolist()):  # the last column is of height 0 and closes all
            left = right
            while open_ and open_[-1][1] >= tall:
                left, high = open_.pop()
                found = (bottom - high + 1, left, high, right - left)
                rank = (high * found[3], min(found[2:]), -found[0], -left)
                if high and rank > order:
                    best, order = found, rank
            open_.append((left, tall))
    return best


def occupied_by(boxes: Sequence[Box], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Pixels inside any of the boxes; DataError for a box that is empty or reaches outside of the image (h, w)."""
    height, width = shape
    found = np.zeros(shape, dtype=bool)
    for box in boxes:
        left, top, right, bottom = box if len(box) == 4 and all(one == int(one) for one in box) else (0, 0, 0, 0)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise DataError(
                f"a box (left, top, right, bottom) must lie inside the image of {width} x {height} pixels, in whole "
                f"pixels, found {tuple(box)}; correct it or leave the image out."
            )
        found[int(top) : int(bottom), int(left) : int(right)] = True
    return found
