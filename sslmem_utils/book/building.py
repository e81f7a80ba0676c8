"""The command that builds the pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .. import batch, paths, runs
from ..errors import RunError, SpecError
from .copies import pages

PROFILE = "SSLMEM_BOOK"
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # it has no __main__ to run with -m


def build(profile: str = "") -> Path:
    """Build the pages with warnings as errors; returns the first page.

    `profile`: show this machine's run of it; else the committed results. Raises RunError when a page has no results, or
    the build warns.
    """
    if profile and profile not in {name for notebook in batch.notebooks() for name in batch.profiles(notebook)}:
        known = sorted({name for notebook in batch.notebooks() for name in batch.profiles(notebook)})
        raise SpecError(runs.parameters.unknown("profile", profile, known))
    pages(batch.notebooks(), profile)  # one sentence instead of a Sphinx log if something is missing
    output = paths.BUILD.parent if paths.BUILD.name == "_build" else paths.BUILD  # Jupyter Book adds _build/html
    command = [sys.executable, "-c", _JUPYTER_BOOK, "build", str(paths.ROOT), "--path-output", str(output)]
    command += ["-n", "-W", "--keep-going", "--quiet"]
    environment = {**os.environ, "SSLMEM_ROOT": str(paths.ROOT), "SSLMEM_BUILD": str(paths.BUILD.resolve())}
    environment[PROFILE] = profile
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RunError(f"the book was not built:\n{_complaints(result.stdout + result.stderr)}")
    return output / "_build" / "html" / "index.html"


def _complaints(log: str) -> str:
    """The lines of a build's log that say what is wrong (all of it if none stands out)."""
    lines = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or line.startswith("error:")]
    return "\n".join(lines or log.splitlines()[-20:])
