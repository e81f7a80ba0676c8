"""Copy finished runs into `results/`, ready to be committed: small, consistent, free of pictures that are not ours."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import paths, runs
from .. import versions as result_versions
from ..errors import RunError, SpecError
from ..runs import tables
from ..store import explained, write_json
from . import Job, plan, record

FILE_LIMIT, TOTAL_LIMIT = 2_000_000, 20_000_000  # bytes; tables are summaries, not raw scores of every view
_FREE = ("MIT", "BSD", "CC0", "CC BY", "public domain")  # licences under which pictures may be published with the book
_NOT_FREE = ("NC", "ND", "non-commercial")
_BLANK = 128  # grey level of a picture that is left out


def export(profile: str, names: list[str], without_pictures: bool = False) -> list[str]:
    """Copy tables, sidecars and claims of finished runs; returns one line per notebook.

    Raises RunError for a run that is missing, older than the code or too large, SpecError for one with other
    parameters than its profile or with pictures that may not be redistributed (`without_pictures` blanks these).
    """
    jobs = [job for job in plan(names, profile) if names or record(job)]
    if not jobs:
        raise RunError(f"no notebook was run here with profile {profile}; run `sslmem run --profile {profile}` first.")
    for job in jobs:
        _check(job)
    return [_export(job, without_pictures) for job in jobs]


def _check(job: Job) -> None:
    found, again = record(job), f"sslmem run {job.notebook[:2]} --profile {job.profile}"
    if found is None:
        raise RunError(f"notebook {job.notebook} was not run here with profile {job.profile}; run `{again}` first.")
    if found["params"] != job.params:
        raise SpecError(
            f"the last run of {job.notebook} had other parameters than profile {job.profile}; run `{again}`."
        )
    for name, sidecar in tables.sidecars(job.folder).items():
        tables.verified(job.folder / f"{name}.parquet")
        if result_versions.is_older(sidecar["result_version"]):
            raise RunError(f"table {name!r} of {job.notebook} is older than the code; run `{again} --force`.")


def _export(job: Job, without_pictures: bool) -> str:
    target = runs.results_of(job.notebook, job.profile)
    with explained(paths.RESULTS):
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{job.profile}."))
        try:
            for name, sidecar in tables.sidecars(job.folder).items():
                _table(job, name, sidecar, new, without_pictures)
            if (job.folder / tables.CLAIMS).is_file():
                shutil.copy(job.folder / tables.CLAIMS, new / tables.CLAIMS)
            total = _check_size(new, target)
            shutil.rmtree(target, ignore_errors=True)
            new.chmod(0o755)
            new.rename(target)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return f"{tables.shown(target)}: {len(list(target.glob('*.parquet')))} tables, {total / 1000:.0f} kB"


def _table(job: Job, name: str, sidecar: dict[str, Any], new: Path, without_pictures: bool) -> None:
    path = job.folder / f"{name}.parquet"
    if sidecar["pictures"] and not redistributable(sidecar["pictures_of"]):
        if not without_pictures:
            raise SpecError(
                f"table {name!r} of {job.notebook} holds pictures of {sidecar['pictures_of']}, which may not be "
                "redistributed; pass --without-pictures to blank them."
            )
        frame = pd.read_parquet(path)
        for column in sidecar["pictures"]:
            frame[column] = [blank(value) for value in frame[column]]
        tables.write(new, name, frame, {**sidecar, "withheld": sidecar["pictures"]})
        return
    shutil.copy(path, new / path.name)
    write_json(new / f"{name}{tables.SIDECAR}", sidecar)


def redistributable(dataset: str) -> bool:
    """Whether the dataset's licence allows its pictures in the repository; an imported set's licence is unknown."""
    from .. import data

    licence = next((row["licence"] for row in data.catalogue() if row["name"] == dataset), "")
    return licence.startswith(_FREE) and not any(word in licence for word in _NOT_FREE)


def blank(value: Any) -> Any:
    """A picture of the same shape, all grey."""
    if isinstance(value, bytes):
        return bytes([_BLANK]) * len(value)
    array = np.asarray(value)
    return [blank(part) for part in array] if array.dtype == object else np.full_like(array, _BLANK)


def _check_size(new: Path, target: Path) -> int:
    sizes = {path.name: path.stat().st_size for path in new.iterdir()}
    name = max(sizes, key=lambda name: sizes[name])
    if sizes[name] > FILE_LIMIT:
        raise RunError(
            f"{name} has {sizes[name] / 1e6:.1f} MB, more than the {FILE_LIMIT / 1e6:g} MB allowed; summarise it."
        )
    others = [path for path in paths.RESULTS.rglob("*") if path.is_file() and new not in path.parents]
    total = sum(sizes.values()) + sum(path.stat().st_size for path in others if target not in path.parents)
    if total > TOTAL_LIMIT:
        raise RunError(
            f"results/ would grow to {total / 1e6:.0f} MB, more than {TOTAL_LIMIT / 1e6:g} MB; summarise tables."
        )
    return sum(sizes.values())
