"""Scenes: images with a class or a depth for every pixel, from a folder, a zip, torchvision's VOC, or rendered.

    scenes.load("camvid", "masks", "train", (96, 128))     # camvid.zip or camvid/ in the data folder, or a path
    scenes.load("rendered", "depths", "test", (64, 64))    # made here, see `rendered`

A folder holds `train/images/NAME.jpg` beside `train/masks/NAME.png` (class numbers, one channel or a palette) or
`train/depths/NAME.png` (whole numbers, millimetres where `unit` does not say otherwise, 0 where nothing is known), and
the same below `test`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from .. import paths
from ..errors import DataError, SpecError
from ..specs import digest
from . import rendered
from .decoding import Wanted, decode
from .importing import opened
from .layout import arrange

Target = Literal["masks", "depths"]
Frame = tuple[int, int]
VOID = 255  # the class number that means none, where nothing else is known
UNIT = 0.001  # metres of one step of a depth map
CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist")
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv"),
)
NAMES = {"camvid": (CAMVID, 11), "voc": (VOC, VOID), "rendered": (rendered.KINDS, VOID)}  # classes and the void


@dataclass(frozen=True, eq=False)
class Scenes:
    """n scenes; row i of `images` and of `targets` is the same place, cut and scaled alike.

    `targets` are class numbers (uint8, `void` where a pixel has none) or depths in metres (float32, 0 where unknown).
    """

    name: str
    images: UInt8[Tensor, "n c h w"]
    targets: UInt8[Tensor, "n h w"] | Float32[Tensor, "n h w"]
    classes: tuple[str, ...]
    void: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """Changes with any pixel or target."""
        import hashlib

        parts = [hashlib.sha256(part.numpy().tobytes()).hexdigest() for part in (self.images, self.targets)]
        return digest(*parts, self.classes, self.void)


@dataclass(frozen=True)
class _Pair:
    """Where an image and its target are, and how their files are read."""

    image: str
    target: str
    read: Callable[[str], bytes]


def here(name: str) -> bool:
    """Whether the scenes of this name or path can be loaded without anything being fetched."""
    return name == "rendered" or _place(name).exists()


@lru_cache(maxsize=4)
def load(
    name: str,
    target: Target,
    part: str,
    frame: Frame,
    *,
    channels: int = 3,
    void: int | None = None,
    unit: float = UNIT,
) -> Scenes:
    """One part of the scenes called `name`: `camvid`, `voc`, `rendered`, or a folder or zip as described above.

    Each scene is cut to the largest centred frame of the shape of `frame` (height, width) and brought to its size:
    images bilinear with antialiasing, targets by the nearest pixel, so that no class or depth is made up. Images become
    grey or colour as `channels` (1 or 3) asks. `void` is the class number of pixels without a class (default: what is
    known of the name, else 255). DataError, one sentence each, for scenes that are not here, an image without its
    target, a target of another size than its image, or one that is not a map of numbers.
    """
    if channels not in (1, 3) or min(frame) < 4:
        raise SpecError(
            f"scenes have 1 or 3 channels and frames of 4 pixels or more, found {channels} and {frame}; correct one."
        )
    classes, usual = NAMES.get(name, ((), VOID))
    void = usual if void is None else void
    if name == "rendered":
        return Scenes(name, *rendered.scenes(target, part, frame, channels), classes, void)
    with _pairs(name, target, part) as pairs:
        both = [_read(pair, target, frame, channels, unit) for pair in pairs]
    images, targets = (torch.from_numpy(np.stack(parts)) for parts in zip(*both, strict=True))
    if target == "masks":
        classes = _classes(name, targets, classes, void)
    return Scenes(name, images, targets, classes, void)


def _place(name: str) -> Path:
    """The folder or zip that a name or path means."""
    if name == "voc":
        return paths.data_dir() / "VOCdevkit"
    folder = paths.data_dir() / name
    known = [Path(name).expanduser(), folder] if "/" in name else [folder]
    return next((place for place in known if place.exists()), paths.data_dir() / f"{name}.zip")


@contextmanager
def _pairs(name: str, target: Target, part: str) -> Iterator[list[_Pair]]:
    if name == "voc":
        yield _voc(target, part)
        return
    place = _place(name)
    if not place.exists():
        raise DataError(
            f"There are no scenes {name!r} on this machine; put {name}.zip, or a folder {name}, with "
            f"train/images/NAME.jpg beside train/{target}/NAME.png and the same for test into {paths.data_dir()}."
        )
    with opened(place) as source:
        items = [item for item in arrange(source.files, str(place)) if item.part == part]
        found = {label: _stems(items, label) for label in ("images", target)}
        if not found["images"]:
            raise DataError(f"{place} has no images in {part}/images; expected {part}/images/NAME.jpg.")
        for stem, file in found["images"].items():
            if stem not in found[target]:
                raise DataError(f"{file} of {place.name} has none of the {part}/{target}; add {stem}.png there.")
        yield [_Pair(file, found[target][stem], source.read) for stem, file in found["images"].items()]


def _stems(items: list, label: str) -> dict[str, str]:
    """The files below the folder `label` of one part, by their path without the suffix."""
    below = {item.path.partition(f"{label}/")[2]: item.source for item in items if item.label == label}
    return {str(PurePosixPath(path).with_suffix("")): source for path, source in below.items()}


def _voc(target: Target, part: str) -> list[_Pair]:
    """Pascal VOC 2012's masks by torchvision, which downloads them (2 GB); its validation images are the test."""
    from torchvision.datasets import VOCSegmentation

    if target != "masks":
        raise SpecError("Pascal VOC has masks and no depths; name scenes that have them.")
    options = {"year": "2012", "image_set": "train" if part == "train" else "val"}
    try:
        found = VOCSegmentation(str(paths.data_dir()), download=not here("voc"), **options)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
        raise DataError(
            f"voc is not on this machine and could not be downloaded ({reason}); put VOCdevkit into {paths.data_dir()}."
        ) from None
    return [_Pair(*both, lambda file: Path(file).read_bytes()) for both in zip(found.images, found.masks, strict=True)]


def _read(
    pair: _Pair, target: Target, frame: Frame, channels: int, unit: float
) -> tuple[UInt8[np.ndarray, "c h w"], np.ndarray]:
    from PIL import Image

    plain = decode(pair.image, pair.read(pair.image), Wanted(channels="rgb" if channels == 3 else "grey"), Counter())
    numbers = _numbers(pair.target, pair.read(pair.target), target)
    if numbers.shape != plain.shape[:2]:
        sizes = [f"{size[1]}x{size[0]}" for size in (numbers.shape, plain.shape)]
        raise DataError(
            f"{pair.target} is {sizes[0]} pixels and its image {pair.image} is {sizes[1]}; make them of one size."
        )
    box, size = _box(numbers.shape, frame), (frame[1], frame[0])
    fitted = np.asarray(Image.fromarray(plain).resize(size, Image.Resampling.BILINEAR, box))
    fitted = fitted[None] if fitted.ndim == 2 else fitted.transpose(2, 0, 1)
    rows, columns = (
        np.minimum((np.arange(count) + 0.5) * (end - start) / count + start, end - 0.5).astype(int)
        for count, start, end in ((frame[0], box[1], box[3]), (frame[1], box[0], box[2]))
    )
    kept = numbers[np.ix_(rows, columns)]
    return np.ascontiguousarray(fitted), kept if target == "masks" else (kept * unit).astype(np.float32)


def _box(shape: tuple[int, ...], frame: Frame) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the largest centred frame of this shape in an image of `shape` (h, w)."""
    scale = min(shape[0] / frame[0], shape[1] / frame[1])
    height, width = frame[0] * scale, frame[1] * scale
    left, top = (shape[1] - width) / 2, (shape[0] - height) / 2
    return left, top, left + width, top + height


def _numbers(file: str, content: bytes, target: Target) -> np.ndarray:
    """Class numbers (uint8) or steps of depth (int64) of one map, (h, w)."""
    from PIL import Image

    modes = ("L", "P", "1") if target == "masks" else ("L", "I", "I;16", "I;16B")
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode
            numbers = np.asarray(image)
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise DataError(f"{file} cannot be decoded ({type(error).__name__}); replace or remove it.") from None
    if mode not in modes:
        kind = "class numbers of 8 bits, grey or with a palette" if target == "masks" else "depths, grey, 8 or 16 bits"
        raise DataError(f"{file} holds pixels of mode {mode}; expected {kind}; convert it.")
    return numbers.astype(np.uint8 if target == "masks" else np.int64)


def _classes(name: str, masks: UInt8[Tensor, "n h w"], known: tuple[str, ...], void: int) -> tuple[str, ...]:
    """The names of the classes: those known, else their numbers; DataError for a number that has no name."""
    seen = [number for number in masks.unique().tolist() if number != void]
    if not seen:
        raise DataError(f"all pixels of the masks of {name} are void ({void}); check the number that means void.")
    if known and seen[-1] >= len(known):
        raise DataError(
            f"a mask of {name} holds the number {seen[-1]}, which is neither one of its {len(known)} classes nor void "
            f"({void}); check the masks."
        )
    return known or tuple(str(number) for number in range(seen[-1] + 1))
