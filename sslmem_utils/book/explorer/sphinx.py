"""The directive `{sslmem-explorer}` and where its files go."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from ... import figures, paths
from ...data import cache
from ...errors import RunError, SSLMemError
from ...runs import display
from ...store import write_atomic
from . import payload, pictures
from .series import Series, collect

MARK = "sslmem_explorer"
STATIC = ("explorer.css", "explorer.js")
FOLDER = "_static/explorer"
TABLE = {"rank": "rank", "row": "image", "label": "class", "m_rel": "m_rel", "align_f": "align_f", "align_g": "align_g"}
TABLE |= {"se": "standard error"}


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx; the book's own extension does."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class Explorer(SphinxDirective):
        """`{sslmem-explorer}`: the explorer, and its static twin."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname][MARK] = True
            try:
                found = _collected()
                choices = payload.write(found, _fresh(files()), _addresses(self.env, found))
            except SSLMemError as error:
                sys.exit(f"error: {error}")
            base = "../" * self.env.docname.count("/") + FOLDER + "/"
            head = f'<link rel="stylesheet" href="{base}explorer.css">'
            foot = f'<script defer src="{base}explorer.js"></script>'
            markup = payload.markup(choices, base)
            block = nodes.raw("", f"{head}\n{markup}{foot}", format="html")
            here = Path(self.env.doc2path(self.env.docname)).parent
            return [block, *self.parse_text_to_nodes(twin(found, paths.BUILD / "explorer", here))]

    app.add_directive("sslmem-explorer", Explorer)
    app.connect("env-get-outdated", _outdated)
    app.connect("build-finished", _copy)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def files() -> Path:
    """Where the data and the pictures are made, before they are copied to the pages."""
    return paths.BUILD / "explorer" / "files"


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _collected() -> list[Series]:
    if found := collect():
        return found
    raise RunError(
        "the explorer needs the committed scores of page 03, page 04 or results/scores, found none; run "
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
    """The figure and the table for print and for browsers without scripts, as MyST for a page in `seen_from`."""
    first = [one for one in found if one.dataset == "digits"] or found
    one = max(first, key=lambda one: one.table["set"].nunique())
    figure = figures.distribution_of_sets(one.table)
    path = folder / "distribution.svg"
    write_atomic(path, lambda file: file.write_text(figures.to_svg(figure), encoding="utf-8"))
    options = f":name: fig-explorer\n:alt: {figures.alt(figure)}\n:class: {display.DARK_LIGHT}"
    caption = f"{payload.title(one.dataset)}, {one.method}: the scores of one split by set ({one.about})."
    parts = [f"```{{figure}} {os.path.relpath(path, seen_from)}\n{options}\n\n{caption}\n```\n"]
    parts.append(_table(found))
    return "\n".join(parts)


def _table(found: list[Series]) -> str:
    """The most and the least memorized candidates of every dataset and method."""
    whole = payload.extremes(found)
    head = ["dataset", "scores", *TABLE.values()]
    lines = [head, ["---"] * len(head)]
    for row in whole.to_dict("records"):
        shown = {
            name: "" if row[name] != row[name] else f"{row[name]:.3g}" for name in ("m_rel", "align_f", "align_g", "se")
        }
        shown |= {"rank": f"{row['rank']} of {row['of']}", "row": str(row["row"]), "label": str(row["label"])}
        lines.append([row["dataset"], row["scores"], *(shown[name] for name in TABLE)])
    rows = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f":::{{div}} sslmem-scroll sslmem-scorecard\n{rows}\n:::\n"


def _cell(value: Any) -> str:
    """Three significant digits of a score; nothing for one that is not known."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """The explorer's pages, when tables, datasets or code are others than those they were made with, or files miss."""
    names = [name for name, about in env.metadata.items() if MARK in about]
    if not names:
        return []
    before, env.sslmem_explorer = getattr(env, "sslmem_explorer", ""), _state()
    return [] if before == env.sslmem_explorer and files().is_dir() else names


def _state() -> str:
    total = hashlib.sha256()
    tables = sorted([*paths.RESULTS.glob("*/*/*.json"), *paths.RESULTS.glob("scores/*/*.json")])
    for path in [*tables, *sorted(Path(__file__).parent.glob("*.*"))]:
        total.update(path.read_bytes())
    for name in payload.datasets(collect()):
        about = cache.describe(name)
        total.update(f"{name} {about['fingerprint'] if about else pictures.missing(name)}".encode())
    return total.hexdigest()


def _copy(app: Any, error: Exception | None) -> None:
    """Put the explorer's files beside the pages, and no others."""
    shown = any(MARK in about for about in app.env.metadata.values())
    if error is None and app.builder.format == "html" and shown:
        folder = _fresh(Path(app.outdir) / FOLDER)
        for path in [*(Path(__file__).parent / name for name in STATIC), *sorted(files().iterdir())]:
            shutil.copyfile(path, folder / path.name)
