"""Result tables on disk: Parquet beside a JSON sidecar that says what made it, both written atomically.

The sidecar holds: notebook, profile, table, caption, pictures_of, params, versions, hardware, commit, result_version,
seconds, created, rows, columns, sha256 (of the Parquet file).
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .. import paths
from .. import versions as result_versions
from ..errors import RunError, StoreError
from ..store import explained, sha256, write_atomic, write_json

SIDECAR = ".json"
CLAIMS = "claims.json"
ORIGIN = ("versions", "hardware", "commit", "result_version", "created")  # what `origin` returns
_PACKAGES = ("sslmem", "torch", "numpy", "pandas", "scipy", "scikit-learn", "lightly")


def read_json(path: Path) -> Any:
    """Parsed JSON; a damaged file is a StoreError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise StoreError(f"{shown(path)} is damaged (not JSON); delete it and run the notebook again.") from None


def read_claims(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Facts and claims of a run's record of claims; StoreError when it is damaged or no such record."""
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("claims"), list):
        raise StoreError(f"{shown(path)} holds no list of claims; delete it and run the notebook again.")
    return found, found["claims"]


def write(folder: Path, name: str, frame: pd.DataFrame, facts: dict[str, Any]) -> dict[str, Any]:
    """Write `<folder>/<name>.parquet` and its sidecar; return the sidecar."""
    path = folder / f"{name}.parquet"
    with explained(folder):
        # The old sidecar goes first: killed in between, the table lacks its sidecar but is never wrongly described
        path.with_suffix(SIDECAR).unlink(missing_ok=True)
    write_atomic(path, lambda file: frame.to_parquet(file, index=False, compression="zstd"))
    sidecar = {**facts, "rows": len(frame), "columns": list(map(str, frame.columns)), "sha256": sha256(path)}
    write_json(path.with_suffix(SIDECAR), sidecar)
    return sidecar


def read(folder: Path, name: str, again: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table and its sidecar, checksum verified; `again` is the command that makes it anew."""
    path = folder / f"{name}.parquet"
    if not path.is_file() or not path.with_suffix(SIDECAR).is_file():
        raise RunError(f"table {name!r} is not among the results in {shown(folder)}; run `{again}`.")
    sidecar = verified(path)
    return pd.read_parquet(path), sidecar


def verified(path: Path) -> dict[str, Any]:
    """The sidecar of a Parquet file after comparing its checksum."""
    sidecar = read_json(path.with_suffix(SIDECAR))
    if sidecar.get("sha256") != sha256(path):
        raise StoreError(
            f"{shown(path)} does not match the checksum in its sidecar; restore it from version control or run "
            f"`sslmem run {str(sidecar.get('notebook'))[:2]} --profile {sidecar.get('profile')}` again."
        )
    return sidecar


def sidecars(folder: Path) -> dict[str, dict[str, Any]]:
    """Sidecars of all tables in a folder by table name."""
    return {path.stem: read_json(path.with_suffix(SIDECAR)) for path in sorted(folder.glob("[!.]*.parquet"))}


def clear(folder: Path) -> None:
    """Remove tables, sidecars and claims of an earlier run, so that the folder holds the outputs of one run only."""
    with explained(folder):
        for path in [*folder.glob("*.parquet"), *folder.glob("*.json")]:
            path.unlink(missing_ok=True)


def shown(path: Path) -> str:
    """A path as shown to people: relative to the project where it lies inside it."""
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)


def origin() -> dict[str, Any]:
    """What made a table: versions, hardware, commit, result version, date. Imports no torch."""
    return {
        "versions": versions(),
        "hardware": hardware(),
        "commit": commit(),
        "result_version": result_versions.current(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that change numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor model, usable cores, GPU (None when none is used; torch is asked only if it is already loaded)."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {"cpu": _cpu(), "cores": paths.jobs(), "gpu": gpu}


@functools.cache
def _cpu() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


@functools.cache
def commit() -> str:
    """Short git commit of the package, marked `+changes` when tracked files differ from it; else "unknown"."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(paths.PACKAGE), *arguments]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return result.stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    # Results, pages and other untracked files change nothing about how numbers were made
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(top)notebooks")
    return "unknown" if head is None else head + ("+changes" if changed else "")
