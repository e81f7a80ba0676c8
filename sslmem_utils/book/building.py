"""The command that builds the pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .. import batch, paths, runs
from ..errors import RunError, SpecError
from . import downloads, editions, printing
from .copies import pages

PROFILE = "SSLMEM_BOOK"
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # it has no __main__ to run with -m


def build(profile: str = "", edition: str = "reader", pdf: bool = False) -> Path:
    """Build an edition of the pages with warnings as errors; returns the first page.

    `profile`: show this machine's run of it; else the committed results. `pdf`: print every page, too. Raises RunError
    when a page has no results, the build warns, or there is no Chromium to print with.
    """
    editions.checked(edition)
    if profile and profile not in {name for notebook in batch.notebooks() for name in batch.profiles(notebook)}:
        known = sorted({name for notebook in batch.notebooks() for name in batch.profiles(notebook)})
        raise SpecError(runs.parameters.unknown("profile", profile, known))
    pages(batch.notebooks(), profile)  # one sentence instead of a Sphinx log if something is missing
    program = printing.browser() if pdf else None
    if pdf and program is None:
        raise RunError("PDFs are printed by Chromium, which is not installed; install it, or build without --pdf.")
    output = paths.BUILD.parent if paths.BUILD.name == "_build" else paths.BUILD  # Jupyter Book adds _build/html
    if edition != editions.EDITIONS[0]:
        output = paths.BUILD / edition
    command = [sys.executable, "-c", _JUPYTER_BOOK, "build", str(paths.ROOT), "--path-output", str(output)]
    command += ["-n", "-W", "--keep-going", "--quiet"]
    environment = {**os.environ, "SSLMEM_ROOT": str(paths.ROOT), "SSLMEM_BUILD": str(paths.BUILD.resolve())}
    environment |= {PROFILE: profile, editions.EDITION: edition, downloads.PDF: program or ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RunError(f"the book was not built:\n{_complaints(result.stdout + result.stderr)}")
    html = output / "_build" / "html"
    if edition == "offline":
        printing.refuse(printing.strangers(html))
    if program:
        printing.to_pdf(html, program)
    return html / "index.html"


def _complaints(log: str) -> str:
    """The lines of a build's log that say what is wrong (all of it if none stands out)."""
    lines = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or line.startswith("error:")]
    return "\n".join(lines or log.splitlines()[-20:])
