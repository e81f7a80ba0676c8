"""What a reader takes away from a page: its notebook as the edition has it, its PDF, buttons that open it elsewhere.

The address of the repository stands once, in `_config.yml` under `repository: url`. Without it there are no buttons for
Colab and Binder; with it every notebook begins by installing the package from there where it cannot be imported, and
`_build/launch` is what the buttons open: the notebooks and what Binder installs, for a branch named `launch`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .. import paths
from ..runs import tables
from . import editions

PDF = "SSLMEM_PDF"  # set while pages are built that will be printed
LAUNCH = "launch"  # the branch that Colab and Binder open
_INSTALL = """# Installs the package where it is missing, as on Colab
import importlib.util

if importlib.util.find_spec("sslmem_utils") is None:
    %pip install --quiet "sslmem[privacy] @ git+{address}\""""
_FOR_TEACHERS = {"reader": {"instructor"}, "offline": {"instructor"}, "instructor": set()}


def notebook(path: Path, edition: str, address: str) -> str:
    """A notebook of the tree as an edition hands it out: to be run, so with blank answers and without outputs."""
    found = tables.read_json(path)
    if edition == "student":
        cells = editions.cells(found["cells"], edition)
    else:
        left_out = _FOR_TEACHERS[edition]
        cells = [cell for cell in found["cells"] if not left_out & set(cell["metadata"].get("tags", []))]
    if address:
        install: dict[str, Any] = {"cell_type": "code", "execution_count": None, "id": "install", "metadata": {}}
        cells.insert(1, install | {"outputs": [], "source": _INSTALL.format(address=address)})
    return json.dumps(found | {"cells": cells}, indent=1, ensure_ascii=False) + "\n"


def sources(html: Path, edition: str, address: str) -> None:
    """Replace the sources that Sphinx copied beside the pages by those of the edition."""
    for path in sorted((html / "_sources").rglob("*.*")):
        if path.suffix == ".ipynb":
            original = paths.ROOT / path.relative_to(html / "_sources")
            path.write_text(notebook(original, edition, address), encoding="utf-8")
        elif path.suffix == ".md":
            path.write_text(editions.prose(path.read_text(encoding="utf-8"), edition), encoding="utf-8")


def launch(html: Path, folder: Path, address: str) -> None:
    """Write what Colab and Binder open: the reader's notebooks and what they need."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for path in sorted((html / "_sources" / "notebooks").glob("*.ipynb")):
        (folder / "notebooks" / path.name).write_bytes(path.read_bytes())
    (folder / "requirements.txt").write_text(f"sslmem[privacy] @ git+{address}\n", encoding="utf-8")
    (folder / "runtime.txt").write_text("python-3.11\n", encoding="utf-8")


# ---------------------------------------------------------------- inside Sphinx
def register(app: Any) -> None:
    """Connect buttons and sources with Sphinx."""
    app.connect("config-inited", _options, priority=900)
    app.connect("html-page-context", _pdf_button, priority=600)
    app.connect("build-finished", _finish)


def _address(app: Any) -> str:
    return (app.config.html_theme_options.get("repository_url") or "").rstrip("/")


def _options(app: Any, config: Any) -> None:
    options, edition = config.html_theme_options, editions.edition()
    if not _address(app) or edition == "offline":
        options["launch_buttons"] = {}
    else:
        options |= {"use_repository_button": True, "use_issues_button": True}
    if edition == "offline":
        config.html_show_search_summary = False  # it is fetched page by page, which files on a disk refuse
    if edition in ("student", "instructor"):
        config.html_title = f"{config.html_title or config.project} ({edition} edition)"


def _pdf_button(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Link the printed page where pages are printed; elsewhere the button opens the browser's own dialog."""
    if not os.environ.get(PDF):
        return
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("label") == "download-pdf-button":
                button |= {
                    "type": "link",
                    "url": context["pathto"](f"_pdf/{pagename}.pdf", 1),
                    "tooltip": "Download PDF",
                }
                button.pop("javascript", None)


def _finish(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        html, edition, address = Path(app.outdir), editions.edition(), _address(app)
        sources(html, edition, address)
        if address and edition == "reader":
            launch(html, paths.BUILD / LAUNCH, address)
