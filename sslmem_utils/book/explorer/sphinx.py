"""The directive `{sslmem-explorer}` and where its files go."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ... import figures, paths
from ...data import cache, registry
from ...errors import SSLMemError
from ...runs import display
from ...store import write_atomic, write_json
from . import payload, pictures
from .series import Series, collect, datasets

MARK = "sslmem_explorer"
STATIC = ("explorer.css", "explorer.js")
FOLDER = "_static/explorer"
EXAMPLE = "digits"  # drawn in the still figures: its images are on every machine
IN_A_ROW, IN_A_CELL = 8, 3  # images at each end of the ranking, in the figure and in the table


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx; the book's own extension does."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class Explorer(SphinxDirective):
        """`{sslmem-explorer}`: the explorer."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname][MARK] = True
            found = _collected()
            try:
                choices = _made(found, _addresses(self.env, found))
            except SSLMemError as error:
                sys.exit(f"error: {error}")
            base = "../" * self.env.docname.count("/") + FOLDER + "/"
            head = f'<link rel="stylesheet" href="{base}explorer.css">'
            foot = f'<script defer src="{base}explorer.js"></script>'
            markup = payload.markup(choices, base)
            return [nodes.raw("", f"{head}\n{markup}{foot}", format="html")]

    class Still(SphinxDirective):
        """`{sslmem-explorer-still}`: figures and a table of the same, for print and for browsers without scripts."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname][MARK] = True
            here = Path(self.env.doc2path(self.env.docname)).parent
            return self.parse_text_to_nodes(twin(_collected(), paths.BUILD / "explorer", here))

    app.add_directive("sslmem-explorer", Explorer)
    app.add_directive("sslmem-explorer-still", Still)
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def files() -> Path:
    """Where the data and the pictures are made, before they are copied to the pages."""
    return paths.BUILD / "explorer" / "files"


def _made(found: list[Series], addresses: dict[str, str]) -> list[dict[str, Any]]:
    """The datasets to choose from, with all files made; those of an earlier build where nothing has changed."""
    note, state = files().with_name("made.json"), hashlib.sha256(f"{_state()} {addresses}".encode()).hexdigest()
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    if before.get("state") == state and files().is_dir():
        return before["choices"]
    choices = payload.write(found, _fresh(files()), addresses)
    write_json(note, {"state": state, "choices": choices})
    return choices


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _collected() -> list[Series]:
    """What there is to show; ends the build with one sentence where that is nothing, or damaged."""
    try:
        if found := collect():
            return found
    except SSLMemError as error:
        sys.exit(f"error: {error}")  # not an exception that Sphinx would wrap
    sys.exit(
        "error: the explorer needs the committed scores of page 03, page 04 or results/scores, found none; run "
        "`sslmem run 03 04 --profile quick` and `sslmem results export`."
    )


def _addresses(env: Any, found: list[Series]) -> dict[str, str]:
    """The address of every notebook that is part of the book, from the page that is read."""
    pages = {one.page for one in found} | {group.page for one in found for group in one.measures}
    builder, here = env.app.builder, env.docname
    names = {page: f"notebooks/{page}" for page in sorted(pages)}
    if builder.format != "html":
        return {}
    return {page: builder.get_relative_uri(here, name) for page, name in names.items() if name in env.found_docs}


def twin(found: list[Series], folder: Path, seen_from: Path) -> str:
    """The figures and the table for print and for browsers without scripts, as MyST for a page in `seen_from`."""
    first = [one for one in found if one.dataset == EXAMPLE] or found
    one = max(first, key=lambda one: one.table["set"].nunique())
    name = plain(f"{payload.title(one.dataset)}, {one.method}")
    caption = f"{name}: the scores of one split by set ({plain(one.about)})."
    parts = [_figure("distribution", figures.distribution_of_sets(one.table), caption, folder, seen_from)]
    images = None if pictures.missing(one.dataset) else pictures.images_of(one.dataset)
    if images is not None and not pictures.other_images(one, images):
        ends = payload.extremes(one, IN_A_ROW)
        shown = figures.gallery(images.rows(ends["row"].to_numpy()).numpy(), ends["m_rel"])
        count = int((one.table["set"] == "candidate").sum())
        caption = f"{name}: the most and the least memorized of the {count} candidates."
        parts.append(_figure("extremes", shown, caption, folder, seen_from))
    return "\n".join([*parts, _table(found)])


def _figure(name: str, figure: Any, caption: str, folder: Path, seen_from: Path) -> str:
    path = folder / f"{name}.svg"
    write_atomic(path, lambda file: file.write_text(figures.to_svg(figure), encoding="utf-8"))
    options = f":name: fig-explorer-{name}\n:alt: {figures.alt(figure)}\n:class: {display.DARK_LIGHT}"
    return f"```{{figure}} {os.path.relpath(path, seen_from)}\n{options}\n\n{caption}\n```\n"


def _table(found: list[Series]) -> str:
    """The most and the least memorized candidates of every dataset and method: row, class and score of each."""
    lines = [["dataset", "method", "highest score", "lowest score"], ["---"] * 4]
    for one in found:
        ends, names = payload.extremes(one, IN_A_CELL), payload.class_names(one.dataset)
        classes = [names[label] if 0 <= label < len(names) else f"class {label}" for label in ends["label"]]
        rows = zip(ends["row"], classes, ends["m_rel"], strict=True)
        cells = [f"{row}\N{NO-BREAK SPACE}({name})\N{NO-BREAK SPACE}{score:.3f}" for row, name, score in rows]
        half = len(cells) // 2
        line = [payload.title(one.dataset), one.method, "; ".join(cells[:half]), "; ".join(cells[half:][::-1])]
        lines.append([plain(text) for text in line])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f":::{{div}} sslmem-scroll sslmem-scorecard\n{text}\n:::\n"


def plain(text: str) -> str:
    """One line of MyST that shows the text as it is, whatever signs it has."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", re.sub("[ \\t\\r\\n]+", " ", text))


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The explorer's pages, when tables, datasets or code are others than those they were made with, or files miss."""
    names = [name for name, about in env.metadata.items() if MARK in about]
    if not names:
        return []
    before, env.sslmem_explorer = getattr(env, "sslmem_explorer", ""), _state()
    return [] if before == env.sslmem_explorer and files().is_dir() else names


def _state() -> str:
    """A digest of all that the explorer's files are made of."""
    total = hashlib.sha256()
    tables = sorted([*paths.RESULTS.glob("*/*/*.json"), *paths.RESULTS.glob("scores/*/*.json")])
    for path in [*tables, *sorted(Path(__file__).parent.glob("*.*"))]:
        total.update(path.read_bytes())
    for name in datasets(_collected()):
        about, entry = cache.describe(name), registry.entries().get(name)
        found = about["fingerprint"] if about else pictures.missing(name) or (entry.fingerprint if entry else "")
        total.update(f"{name} {found}".encode())
    return total.hexdigest()


def _copy(app: Any, error: Exception | None) -> None:
    """Put the explorer's files beside the pages, and no others."""
    shown = any(MARK in about for about in app.env.metadata.values())
    if error is None and app.builder.format == "html" and shown:
        folder = _fresh(Path(app.outdir) / FOLDER)
        for path in [*(Path(__file__).parent / name for name in STATIC), *sorted(files().iterdir())]:
            shutil.copyfile(path, folder / path.name)
