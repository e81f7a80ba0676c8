"""Slides: short text from `book/slides/*.md`, figures from the pages' executed notebooks, exported by nbconvert.

Slides are parted by `---`. A line `![fig-name](../../notebooks/NN_name.ipynb)` stands for the notebook's last figure
whose name begins so, and {sslmem-verdict}`NN.N` for the verdict on a claim. Reveal.js lies beside them (MIT).
"""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import claims, paths
from ..errors import RunError
from ..runs import display, tables
from .verdicts import best

_FIGURE = re.compile(r"^!\[([\w-]+)\]\(\S*?(\w+)\.ipynb\)[ \t]*$", re.MULTILINE)
_VERDICT = re.compile(r"{sslmem-verdict}`([\d.]+)`")
_TEMPLATE = "slides.html.j2"


def write(folder: Path, copies: Mapping[str, Path]) -> list[Path]:
    """Export all slides into `folder`; returns the files. RunError where a figure is missing."""
    source = paths.ROOT / "book" / "slides"
    decks = sorted(source.glob("*.md"))
    if not decks:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    for file in [source / "slides.css", *sorted((source / "reveal").iterdir())]:
        shutil.copyfile(file, folder / file.name)
    return [_export(deck, folder / f"{deck.stem}.html", copies, (source / _TEMPLATE).read_text()) for deck in decks]


def _export(deck: Path, file: Path, copies: Mapping[str, Path], template: str) -> Path:
    from nbconvert import SlidesExporter

    notebook = _notebook(deck, copies)
    text, _ = SlidesExporter(raw_template=template).from_notebook_node(notebook)
    file.write_text(text, encoding="utf-8")
    return file


def _notebook(deck: Path, copies: Mapping[str, Path]) -> Any:
    from nbformat import v4

    cells = []
    for slide in re.split(r"^---\n", deck.read_text(encoding="utf-8"), flags=re.MULTILINE):
        text = _VERDICT.sub(lambda found: f"*{claims.status(best(found[1])[1])}*", slide.strip())
        text = _FIGURE.sub(lambda found: _figure(deck, found[1], copies.get(found[2]), found[2]), text)
        cells.append(v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": "slide"}}))
    title = re.sub(r"^#+ ", "", cells[0]["source"].splitlines()[0])
    return v4.new_notebook(cells=cells, metadata={"title": title})


def _figure(deck: Path, name: str, copy: Path | None, notebook: str) -> str:
    """The figure as HTML with its alt text, its picture inside."""
    cells = tables.read_json(copy)["cells"] if copy else []
    for output in reversed([output for cell in cells for output in cell.get("outputs", [])]):
        about = output.get("metadata", {}).get(display.METADATA, {})
        if about.get("name", "").startswith(name):
            link = re.search(r'src="(data:[^"]+)"', "".join(output["data"]["text/html"]))
            if link:
                return f'<img src="{link[1]}" alt="{html.escape(about["alt"])}">'
    raise RunError(
        f"slides {deck.name} show a figure {name!r} of notebook {notebook}, which has none; correct the name."
    )
