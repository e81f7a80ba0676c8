"""Copy finished runs into `results/`, ready to be committed: small, consistent, free of pictures that are not ours."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from .. import paths
from .. import versions as result_versions
from ..errors import RunError, SpecError
from ..runs import tables
from ..store import explained, write_json
from . import Job, plan, record

Place = tuple[str, ...]  # folders below results/: notebook and profile
FILE_LIMIT, TOTAL_LIMIT = 2_000_000, 20_000_000  # bytes; tables are summaries, not raw scores of every view
_MADE_HERE = ("rendered",)  # scenes that the package draws itself
_FREE = ("MIT", "BSD", "CC0", "CC BY", "public domain")  # licences under which pictures may be published with the book
_NOT_FREE = ("NC", "ND", "non-commercial")
_BLANK = 128  # grey level of a picture that is left out


def export(profile: str, names: list[str], without_pictures: bool = False) -> list[str]:
    """Copy tables, sidecars and claims of finished runs into results/; returns one line per notebook.

    Raises as `finished` and `publish` do; then nothing was changed.
    """
    with staged(finished(profile, names), without_pictures) as folders:
        return publish(folders)


def finished(profile: str, names: list[str]) -> dict[Place, Job]:
    """Runs on this machine that may be published, by their place in results/.

    Raises RunError for a run that is missing or older than the code, SpecError for one with other parameters than its
    profile.
    """
    jobs = [job for job in plan(names, profile) if names or record(job)]
    if not jobs:
        raise RunError(f"no notebook was run here with profile {profile}; run `sslmem run --profile {profile}` first.")
    for job in jobs:
        _check(job)
    return {(job.notebook, job.profile): job for job in jobs}


def _check(job: Job) -> None:
    found, again = record(job), f"sslmem run {job.notebook[:2]} --profile {job.profile}"
    if found is None:
        raise RunError(f"notebook {job.notebook} was not run here with profile {job.profile}; run `{again}` first.")
    if found["params"] != job.params:
        raise SpecError(
            f"the last run of {job.notebook} had other parameters than profile {job.profile}; run `{again}`."
        )
    for name, sidecar in tables.sidecars(job.folder).items():
        if result_versions.is_older(sidecar["result_version"]):
            raise RunError(f"table {name!r} of {job.notebook} is older than the code; run `{again} --force`.")


@contextmanager
def staged(jobs: Mapping[Place, Job], without_pictures: bool) -> Iterator[dict[Place, Path]]:
    """What may leave this machine of each run, in temporary folders: tables checked, sidecars, claims.

    Raises StoreError for a damaged table, SpecError for pictures that may not be redistributed (`without_pictures`
    blanks these).
    """
    with explained(paths.BUILD):
        paths.BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.BUILD, prefix="staged-") as top:
        folders = {place: Path(top) / str(number) for number, place in enumerate(jobs)}
        with explained(paths.BUILD):
            for place, job in jobs.items():
                _stage(job, folders[place], without_pictures)
        yield folders


def _stage(job: Job, folder: Path, without_pictures: bool) -> None:
    folder.mkdir()
    for name in tables.sidecars(job.folder):
        sidecar = tables.verified(job.folder / f"{name}.parquet")
        _table(job, name, sidecar, folder, without_pictures)
    if (job.folder / tables.CLAIMS).is_file():
        shutil.copy(job.folder / tables.CLAIMS, folder / tables.CLAIMS)


def publish(folders: Mapping[Place, Path]) -> list[str]:
    """Put folders of tables into results/ in the place of what was there; returns one line for each.

    Each folder is exchanged whole; a process killed on the way leaves it as it was or as it becomes, and the next
    call clears what it left. Raises RunError when a file or all of results/ would be too large; nothing is changed.
    """
    lock = paths.BUILD / "locks" / "results.lock"
    with explained(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock), explained(paths.RESULTS):
        _clear_up()
        _check_size(folders)
        new = {}
        try:
            for place, folder in folders.items():
                target = paths.RESULTS.joinpath(*place)
                target.parent.mkdir(parents=True, exist_ok=True)
                new[place] = target.with_name(f".{target.name}.new")
                shutil.copytree(folder, new[place])
            for place, folder in new.items():
                _exchange(folder, paths.RESULTS.joinpath(*place))
        finally:
            _clear_up()
    return [_line(place) for place in folders]


def _exchange(new: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if target.is_dir():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _clear_up() -> None:
    """Finish what a killed process left between two steps of an exchange."""
    for old in paths.RESULTS.rglob(".*.old"):
        target = old.with_name(old.name[1:].removesuffix(".old"))
        if target.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)
    for new in paths.RESULTS.rglob(".*.new"):
        shutil.rmtree(new, ignore_errors=True)


def _line(place: Place) -> str:
    folder = paths.RESULTS.joinpath(*place)
    total = sum(path.stat().st_size for path in folder.iterdir())
    return f"{tables.shown(folder)}: {len(list(folder.glob('*.parquet')))} tables, {total / 1000:.0f} kB"


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
    if dataset in _MADE_HERE:
        return True
    from .. import data

    licence = next((row["licence"] for row in data.catalogue() if row["name"] == dataset), "")
    return licence.startswith(_FREE) and not any(word in licence for word in _NOT_FREE)


def blank(value: Any) -> Any:
    """A picture of the same shape, all grey."""
    if isinstance(value, bytes):
        return bytes([_BLANK]) * len(value)
    array = np.asarray(value)
    return [blank(part) for part in array] if array.dtype == object else np.full_like(array, _BLANK)


def _check_size(folders: Mapping[Place, Path]) -> None:
    sizes = {path: path.stat().st_size for folder in folders.values() for path in folder.iterdir()}
    path = max(sizes, key=lambda path: sizes[path])
    if sizes[path] > FILE_LIMIT:
        raise RunError(
            f"{path.name} has {sizes[path] / 1e6:.1f} MB, more than the {FILE_LIMIT / 1e6:g} MB allowed; summarise it."
        )
    replaced = {paths.RESULTS.joinpath(*place) for place in folders}
    others = [path for path in paths.RESULTS.rglob("*") if path.is_file() and path.parent not in replaced]
    total = sum(sizes.values()) + sum(path.stat().st_size for path in others)
    if total > TOTAL_LIMIT:
        raise RunError(
            f"results/ would grow to {total / 1e6:.0f} MB, more than {TOTAL_LIMIT / 1e6:g} MB; summarise tables."
        )
