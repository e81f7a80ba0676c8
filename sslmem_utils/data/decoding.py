"""One image file to one uint8 array, or one sentence about why not."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .layout import Item
from .threads import in_order

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset("png jpg jpeg jpe jfif bmp dib gif tif tiff webp ppm pgm pbm pnm jp2 tga".split())
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA")
_GREY = {"1", "L", "LA", "La"}
_WIDE = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_WIDE_RAW = re.compile(";16[BLN]")  # Pillow reads RGB of 16 bits per channel as 8 without a word; BGR;16 is 5-6-5
_BATCH_BYTES = 4 << 20
_SCALED = 3  # a JPEG is decoded at half size or less where that leaves so many times the wanted size
_SMALL = 2048  # bytes of a file below which Python's share of the work makes a second thread slow it down

Read = Callable[[str], bytes]


@dataclass(frozen=True)
class Wanted:
    """What every image is turned into: `size` pixels square, `channels` "grey" or "rgb", `background` for alpha."""

    size: int | None = None
    channels: str | None = None
    background: str | None = None


def decode(file: str, content: bytes, wanted: Wanted, notes: Counter) -> np.ndarray:
    """uint8 (h, w) for grey or (h, w, 3) for colour; DataError names `file`; `notes` counts what was changed.

    A JPEG of at least 6 times the wanted size is decoded at a half, quarter or eighth of its size: for photographs of
    2,000 pixels at 256 that takes 40% less time and differs by .7 grey levels (root mean square).
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.mode in _WIDE or any(_WIDE_RAW.search(str(tile[3])) for tile in image.tile):
                raise DataError(f"{file} has more than 8 bits per channel; convert it to 8 bits first.")
            notes["animated images, of which the first frame was taken"] += bool(getattr(image, "is_animated", False))
            if wanted.size is not None:
                image.draft(None, (_SCALED * wanted.size, _SCALED * wanted.size))
            image.load()
            upright = image
            if _is_turned(image):
                upright = ImageOps.exif_transpose(image)
                notes["images turned upright as their EXIF orientation says"] += 1
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged files
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if "cannot identify image file" in reason:  # followed by the address of a buffer
            reason = "its content is no known image format"
        raise DataError(f"{file} cannot be decoded ({reason[:120]}); replace or remove it.") from None
    plain = _plain(file, upright, wanted, notes)
    if wanted.size is not None:
        plain = square(plain, wanted.size)
    return np.asarray(plain)


def square(image: Image, size: int) -> Image:
    """The centred square at `size` pixels: bilinear with antialiasing, as torchvision's Resize and CenterCrop."""
    from PIL.Image import Resampling

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize((size, size), Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _is_turned(image: Image) -> bool:
    try:
        return image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # damaged EXIF beside good pixels is common in collected photographs
        return False


def _plain(file: str, image: Image, wanted: Wanted, notes: Counter) -> Image:
    """The image as L or RGB, without transparency."""
    from PIL import Image

    grey = image.mode in _GREY
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            if wanted.background is None:
                raise DataError(
                    f"{file} is partly transparent; import with a background (white or black) to put it on one."
                )
            canvas = Image.new("RGBA", image.size, wanted.background)
            image = Image.alpha_composite(canvas, image)
            notes[f"transparent images put on {wanted.background}"] += 1
    mode = {"grey": "L", "rgb": "RGB", None: "L" if grey else "RGB"}[wanted.channels]
    return image if image.mode == mode else image.convert(mode)


def decode_all(
    items: Sequence[Item], read: Read, wanted: Wanted, check: Callable[[tuple[int, int, int]], None], notes: Counter
) -> tuple[tuple[int, int, int], Iterator[np.ndarray]]:
    """Shape (c, h, w) of the first image, and batches (b, c, h, w) of all, decoded by threads in bounded memory.

    `check` sees the shape before anything else is decoded. DataError when an image differs from the first in channels
    or size.
    """
    content = read(items[0].source)
    first = decode(items[0].source, content, wanted, Counter())
    shape = _shape(first)
    check(shape)

    def batch(some: Sequence[Item]) -> tuple[np.ndarray, Counter]:
        out = np.empty((len(some), *shape), np.uint8)
        counted: Counter = Counter()
        for row, item in enumerate(some):
            image = decode(item.source, read(item.source), wanted, counted)
            if _shape(image) != shape:
                raise _unlike(items[0].source, shape, item.source, _shape(image))
            out[row] = image if image.ndim == 2 else image.transpose(2, 0, 1)
        return out, counted

    step = max(1, min(256, _BATCH_BYTES // first.size))

    def batches() -> Iterator[np.ndarray]:
        pieces = [items[start : start + step] for start in range(0, len(items), step)]
        for out, counted in in_order(batch, pieces, 1 if len(content) < _SMALL else 8):
            notes.update(counted)
            yield out

    return shape, batches()


def _shape(image: np.ndarray) -> tuple[int, int, int]:
    return (1 if image.ndim == 2 else 3, image.shape[0], image.shape[1])


def _unlike(one: str, first: tuple[int, int, int], other: str, second: tuple[int, int, int]) -> DataError:
    if first[0] != second[0]:
        kinds = {1: "grey", 3: "colour"}
        return DataError(
            f"{one} is {kinds[first[0]]} and {other} is {kinds[second[0]]}; import with channels grey or rgb "
            f"(--channels) to make them alike."
        )
    return DataError(
        f"{one} is {first[2]}x{first[1]} pixels and {other} is {second[2]}x{second[1]}; import with a size (--size) to "
        f"make them alike."
    )
