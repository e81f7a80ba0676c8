"""Editions of the book from the same sources: who sees which cells, and with which answers.

| edition | exercises | solutions | for teachers |
|---|---|---|---|
| reader | text | folded | - |
| student | text and a blank cell | - | - |
| instructor | text | open | common mistakes, timings |
| offline | text | folded | - |

Offline is the reader's edition without anything that asks another host. Cells are told apart by their tags
(`exercise`, `solution`, `instructor`) and solutions by their directives; plain text pages go through the same filter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from ..errors import SpecError
from ..runs.parameters import unknown

EDITION = "SSLMEM_EDITION"
EDITIONS = ("reader", "student", "instructor", "offline")

_Cell = dict[str, Any]
_FENCE = re.compile(r"^(?P<mark>`{3,}|:{3,}){(?P<name>solution(?:-start|-end)?)}[^\n]*$", re.MULTILINE)
_FOLDED = re.compile(r"^(?P<head>(?:`{3,}|:{3,}){solution(?:-start)?}[^\n]*\n):class: dropdown\n", re.MULTILINE)
_LEFT_OUT = {
    "reader": {"exercise", "instructor"},
    "student": {"solution", "instructor"},
    "instructor": {"exercise"},
    "offline": {"exercise", "instructor"},
}


def edition() -> str:
    """The edition that is being built (`SSLMEM_EDITION`, default reader)."""
    return checked(os.environ.get(EDITION) or EDITIONS[0])


def checked(name: str) -> str:
    """The name of an edition; SpecError for any other."""
    if name not in EDITIONS:
        raise SpecError(unknown("edition", name, list(EDITIONS)))
    return name


def cells(found: Sequence[_Cell], name: str) -> list[_Cell]:
    """The cells of a notebook that an edition shows; those of the tree and the order are left alone."""
    kept: list[_Cell] = []
    inside = False  # between the start and the end of a solution
    for cell in found:
        tags = set(cell["metadata"].get("tags", []))
        markdown = cell["cell_type"] == "markdown"
        started, before = inside, text_of(cell)
        text, inside = _without(before, inside) if name == "student" and markdown else (_opened(before, name), inside)
        if tags & _LEFT_OUT[name] or (name == "student" and (not text.strip() or (started and not markdown))):
            continue
        new = {**cell, "source": text}
        if "exercise" in tags and not markdown:
            new |= {"outputs": [], "execution_count": None}
        kept.append(new)
    return kept


def prose(text: str, name: str) -> str:
    """A page of text as an edition shows it."""
    return _without(text, False)[0] if name == "student" else _opened(text, name)


def text_of(cell: _Cell) -> str:
    """A cell's source, which may be stored as lines."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _opened(text: str, name: str) -> str:
    return _FOLDED.sub(r"\g<head>", text) if name == "instructor" else text


def _without(text: str, inside: bool) -> tuple[str, bool]:
    """The text outside of solutions, and whether it ends within one that goes on in the next cells."""
    kept: list[str] = []
    closing = ""  # the line that ends the directive we are in
    dropped = inside
    for line in text.splitlines(keepends=True):
        if closing:
            closing = "" if line.strip() == closing else closing
            continue
        if found := _FENCE.match(line.rstrip("\n")):
            closing = found["mark"]
            dropped = found["name"] == "solution-start" or (dropped and found["name"] != "solution-end")
            continue
        if not dropped:
            kept.append(line)
    return "".join(kept), dropped
