"""What a folder or zip of images means: which part and class each file belongs to, and in which order they come."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import DataError

PARTS = ("train", "test", "val", "unlabeled")  # in the order of the rows
_PART_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "unlabeled": "unlabeled",
    "unlabelled": "unlabeled",
}


@dataclass(frozen=True)
class Item:
    """One image file: its path in the source, its relative path (the index), part ("" for none) and class ("")."""

    source: str
    path: str
    part: str
    label: str


def natural(text: str) -> list[str | int]:
    """A sort key in which img2 comes before img10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"([0-9]+)", text)]


def arrange(files: Iterable[str], where: str) -> list[Item]:
    """Items of `files` (paths with "/"), train before test, each part in natural order of the paths.

    Folders that hold everything are not part of the relative path, so that a zip of a folder, a zip of its content and
    the folder itself give the same dataset. DataError when the levels are not the same everywhere.
    """
    split = {file: tuple(file.split("/")) for file in files}
    while _is_wrapped(split.values()):
        split = {file: parts[1:] for file, parts in split.items()}
    with_parts = _has_parts(split.values(), where)
    items = [_item(file, levels, with_parts) for file, levels in split.items()]
    _check_levels(items, where)
    order = {part: rank for rank, part in enumerate(("", *PARTS))}
    return sorted(items, key=lambda item: (order[item.part], natural(item.path), item.path))


def _is_wrapped(all_levels: Iterable[tuple[str, ...]]) -> bool:
    tops = {levels[0] if len(levels) > 1 else None for levels in all_levels}
    return len(tops) == 1 and None not in tops and tops.pop().lower() not in _PART_NAMES


def _has_parts(all_levels: Iterable[tuple[str, ...]], where: str) -> bool:
    """Whether the first level is train/test(/val/unlabeled); a class may be called train, a mix of both is refused."""
    named = [levels for levels in all_levels if len(levels) > 1 and levels[0].lower() in _PART_NAMES]
    others = sorted({levels[0] for levels in all_levels if len(levels) == 1 or levels[0].lower() not in _PART_NAMES})
    if named and others and any(len(levels) > 2 for levels in named):
        raise DataError(
            f"{where} has {others[0]!r} beside the folder {named[0][0]!r}; on one level, use only train, test, val and "
            f"unlabeled, or only classes."
        )
    return bool(named) and not others


def _item(file: str, levels: tuple[str, ...], with_parts: bool) -> Item:
    part = _PART_NAMES[levels[0].lower()] if with_parts else ""
    below = levels[1:] if with_parts else levels
    return Item(file, "/".join(levels), part, below[0] if len(below) > 1 else "")


def _check_levels(items: list[Item], where: str) -> None:
    first: dict[tuple[str, bool], str] = {}
    for item in items:
        first.setdefault((item.part, bool(item.label)), item.source)
    for part in {item.part for item in items}:
        if (part, True) in first and (part, False) in first:
            raise DataError(
                f"{where} has images inside and outside of class folders ({first[part, True]} and "
                f"{first[part, False]}); move the latter into a class folder or remove them."
            )
