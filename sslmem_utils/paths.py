"""The only knowledge of the tree and of environment variables.

Every path in the package comes from here, so that notebooks behave the same from any working directory.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def _root() -> Path:
    """The project's top level: the checkout this package lives in, else the working directory."""
    if override := os.environ.get("SSLMEM_ROOT"):
        return Path(override).expanduser().resolve()
    checkout = PACKAGE.parent
    return checkout if (checkout / "_toc.yml").is_file() else Path.cwd()


ROOT = _root()
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
BOOK = ROOT / "book"
RESULTS = ROOT / "results"
BUILD = Path(os.environ.get("SSLMEM_BUILD", ROOT / "_build")).expanduser()


def data_dir() -> Path:
    """Imported and downloaded datasets (`SSLMEM_DATA`, default `data/cache`)."""
    return Path(os.environ.get("SSLMEM_DATA", ROOT / "data" / "cache")).expanduser()


def store_dir() -> Path:
    """Content-addressed artifacts: encoders and tables (`SSLMEM_STORE`, default `data/store`)."""
    return Path(os.environ.get("SSLMEM_STORE", ROOT / "data" / "store")).expanduser()


def run_folder() -> Path | None:
    """Where the notebook in this kernel leaves its outputs (`SSLMEM_RUN`); None: at the usual place."""
    return Path(value) if (value := os.environ.get("SSLMEM_RUN")) else None


def jobs(device: str = "cpu") -> int:
    """Encoders to train at a time (`SSLMEM_JOBS`, default: the cores this process may use; one on a GPU)."""
    if value := os.environ.get("SSLMEM_JOBS"):
        if not value.isdigit() or int(value) < 1:
            from .errors import SpecError

            raise SpecError(f"SSLMEM_JOBS must be a whole number of at least 1, found {value!r}; correct or unset it.")
        return int(value)
    if device != "cpu":
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
