"""What a folder or zip of images means: which part and class each file belongs to, and in which order they come."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

PARTS = ("train", "test", "val", "unlabeled")  # in the order of the rows
_RANKS = {part: rank for rank, part in enumerate(("", *PARTS))}
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


class Item(NamedTuple):
    """One image file: its path in the source, its relative path (the index), part ("" for none) and class ("")."""

    source: str
    path: str
    part: str
    label: str


def natural(text: str) -> str:
    """A sort key in which img2 comes before img10: one string, because a list of pieces takes five times the memory."""
    pieces = re.split(r"0*([0-9]+)", text)
    pieces[1::2] = [f"\0{chr(len(digits))}{digits}" for digits in pieces[1::2]]
    return "".join(pieces)


def arrange(files: Iterable[str], where: str) -> list[Item]:
    """Items of `files` (paths with "/"), train before test, each part in natural order of the paths.

    Folders that hold everything are not part of the relative path, so that a zip of a folder, a zip of its content and
    the folder itself give the same dataset. DataError when the levels are not the same everywhere.
    """
    files = list(files)
    below = files
    while _is_wrapped(below):
        below = [path.partition("/")[2] for path in below]
    with_parts = _has_parts(below, where)
    items = [_item(*paths, with_parts) for paths in zip(files, below, strict=True)]
    _check_levels(items, where)
    items.sort(key=lambda item: (_RANKS[item.part], natural(item.path), item.path))
    return items


def _top(path: str) -> str:
    """The first folder of a path, "" when there is none."""
    top, slash, _ = path.partition("/")
    return top if slash else ""


def _is_wrapped(paths: Sequence[str]) -> bool:
    first = _top(paths[0]) if paths else ""
    return first != "" and first.lower() not in _PART_NAMES and all(_top(path) == first for path in paths)


def _has_parts(paths: Sequence[str], where: str) -> bool:
    """Whether the first level is train/test(/val/unlabeled); a class may be called train, a mix of both is refused."""
    named, others = {}, set()
    for path in paths:
        top = _top(path)
        if top.lower() in _PART_NAMES:
            named[top] = named.get(top, False) or path.count("/") > 1
        else:
            others.add(top or path)
    if named and others and any(named.values()):
        raise DataError(
            f"{where} has {min(others)!r} beside the folder {next(iter(named))!r}; on one level, use only train, test, "
            f"val and unlabeled, or only classes."
        )
    return bool(named) and not others


def _item(source: str, path: str, with_parts: bool) -> Item:
    part = sys.intern(_PART_NAMES[_top(path).lower()]) if with_parts else ""
    return Item(source, path, part, sys.intern(_top(path.partition("/")[2] if with_parts else path)))


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


def choose(items: Sequence[Item], file: Path) -> list[Item]:
    """The items that the lines of `file` name, in the order of `items`.

    A line is a relative path, or a number: the place of the image, from 0, where the parts come as in `items` and each
    is sorted as torchvision's ImageFolder does (class, folder, name; img10 before img2). DataError for a line that
    names no image, or one that an earlier line named.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {file} cannot be read ({error}); expected one path or number a line.") from None
    lines = [line.strip().replace("\\", "/").removeprefix("./") for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"The list {file} is empty; expected one path or number a line.")
    order = sorted(range(len(items)), key=lambda row: _place(items[row])) if any(map(_is_number, lines)) else []
    wanted = set(lines)
    rows = {item.source: row for row, item in enumerate(items) if item.source in wanted}
    rows |= {item.path: row for row, item in enumerate(items) if item.path in wanted}
    chosen: set[int] = set()
    for line in lines:
        row = rows.get(line)
        if row is None and _is_number(line) and int(line) < len(items):
            row = order[int(line)]
        if row is None:
            raise DataError(
                f"{file} names {line}, which is none of the {len(items):,} images; expected paths such as "
                f"{items[0].path}, or numbers from 0 to {len(items) - 1}."
            )
        if row in chosen:
            raise DataError(f"{file} names {items[row].path} more than once (at {line}); remove the copy.")
        chosen.add(row)
    return [items[row] for row in sorted(chosen)]


def _is_number(line: str) -> bool:
    return line.isascii() and line.isdigit()


def _place(item: Item) -> tuple[int, str, str, str]:
    folder, _, name = item.path.rpartition("/")
    return _RANKS[item.part], item.label, folder, name
