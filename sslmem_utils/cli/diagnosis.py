"""What `sslmem doctor` shows."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import data, paths
from ..runs import tables
from ..runs.display import aligned

_LEAST_FREE = 2 * 10**9  # bytes: the encoders and pages of the quick profile with room to spare


def examine() -> list[str]:
    """Print the facts; return what is wrong as sentences."""
    problems: list[str] = []
    rows = [*_versions(problems), *_device(problems), *_folders(problems), *_data()]
    print(aligned(rows))
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return problems


def _versions(problems: list[str]) -> Iterator[tuple[str, str]]:
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    found = tables.versions()
    for name in ("torchvision", "papermill", "jupyter-book", "sphinx-book-theme"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed; run `make paper`, which installs everything.")
    yield from found.items()
    if not found.get("jupyter-book", "1").startswith("1."):
        problems.append(f"jupyter-book {found['jupyter-book']} is another program; install jupyter-book<2.")


def _device(problems: list[str]) -> Iterator[tuple[str, str]]:
    yield "processor", f"{tables.hardware()['cpu']}, {os.cpu_count()} cores"
    yield "processes", f"{paths.jobs()} to train in on a CPU (SSLMEM_JOBS)"
    try:
        import torch
        import torchvision  # noqa: F401  (fails here when it does not fit torch)

        from ..training import compute_here
    except (ImportError, RuntimeError, OSError) as error:
        problems.append(
            f"torch does not load ({str(error).splitlines()[0]}); take torch and torchvision from one place."
        )
        return
    compute = compute_here()
    yield "threads", f"{torch.get_num_threads()} of torch in this process"
    if compute.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        yield "device", f"{about.name}, {about.total_memory / 2**30:.0f} GB, CUDA {torch.version.cuda}"
    else:
        yield "device", "CPU" + (" (this build of torch has no CUDA)" if torch.version.cuda is None else "")
    yield "precision", compute.precision


def _folders(problems: list[str]) -> Iterator[tuple[str, str]]:
    for name, folder in (
        ("project", paths.ROOT),
        ("pages and runs", paths.BUILD),
        ("data", paths.data_dir()),
        ("store", paths.store_dir()),
    ):
        there = next(place for place in [folder, *folder.absolute().parents] if place.exists())
        free = shutil.disk_usage(there).free
        held = f", holds {_size(folder) / 1e9:.2f} GB" if name == "store" and folder.exists() else ""
        yield name, f"{folder} ({free / 1e9:.0f} GB free{held})"
        if not os.access(there, os.W_OK):
            problems.append(
                f"{folder} cannot be written; choose another one (SSLMEM_BUILD, SSLMEM_DATA, SSLMEM_STORE)."
            )
        if free < _LEAST_FREE:
            problems.append(f"only {free / 1e9:.1f} GB are free in {folder}; free some space.")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _data() -> Iterator[tuple[str, str]]:
    rows = data.catalogue()
    yield "data found", ", ".join(row["name"] for row in rows if row["found"]) or "none"
    yield "data to download", ", ".join(row["name"] for row in rows if not row["found"]) or "none"
