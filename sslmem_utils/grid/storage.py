"""Results across machines that do not share a disk: they travel as bytes and land in one step, checked.

A worker is told which files its driver has just written beside its store and its runs. It works in the driver's folders
when it sees them; else in its own, and what the driver needs of a job goes back with the report.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths
from ..batch.planning import package_source
from ..errors import StoreError
from ..store import MANIFEST, Store, explained, write_atomic
from .jobs import REPORT, STORED, GridJob, from_json

Files = dict[str, bytes]  # content by file name, relative to a folder


@dataclass(frozen=True)
class Tokens:
    """Files by which a worker sees whether it shares the driver's folders: their paths and what is in them."""

    files: tuple[Path, ...]
    text: str

    @classmethod
    def write(cls) -> Tokens:
        """New tokens in the store and beside the runs of this machine."""
        text = secrets.token_hex(16)
        tokens = cls(tuple(folder.resolve() / f".seen-{text}" for folder in (Store().root, paths.BUILD)), text)
        for file in tokens.files:
            write_atomic(file, lambda temporary: temporary.write_text(text))
        return tokens

    def remove(self) -> None:
        """Take them away."""
        for file in self.files:
            file.unlink(missing_ok=True)


def variables() -> dict[str, str]:
    """The environment in which a worker that sees this machine's folders works in them."""
    folders = {"ROOT": paths.ROOT, "BUILD": paths.BUILD, "STORE": paths.store_dir(), "DATA": paths.data_dir()}
    return {f"SSLMEM_{name}": str(folder.resolve()) for name, folder in folders.items()}


def source() -> str:
    """Hash of this package's source: driver and workers must run the same."""
    return package_source()


def artifact(store: Store, kind: str, key: str) -> Files:
    """The files of a stored artifact with its manifest, every checksum verified. StoreError when it is not there."""
    folder = store.get(kind, key)
    if folder is None:
        raise StoreError(f"the store has no {kind}/{key}; run the grid again to compute it.")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def put_artifact(store: Store, kind: str, key: str, files: Files) -> None:
    """Store an artifact that has travelled; one that is there and intact is kept. StoreError when bytes were lost."""
    try:
        manifest = json.loads(files[MANIFEST])
        found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != MANIFEST}
        whole = found == manifest["files"]
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise StoreError(f"{kind}/{key} was damaged on its way from another machine; run the grid again.")

    def write(folder: Path) -> None:
        for name in found:
            (folder / name).write_bytes(files[name])

    store.drop_damaged(kind, key)
    store.compute(kind, key, write, manifest["meta"])


def needed(job: GridJob, store: Store | None = None) -> dict[str, Files]:
    """The artifacts that a job builds on, by kind/key, as far as they are in the store."""
    store = store or Store()
    places = [(kind, key) for key in job.needs for kind in STORED.values() if store.path(kind, key).is_dir()]
    return {f"{kind}/{key}": artifact(store, kind, key) for kind, key in places}


def lacking(job: GridJob, store: Store | None = None) -> bool:
    """Whether an artifact that the job builds on is missing here."""
    store = store or Store()
    return any(not any(store.path(kind, key).is_dir() for kind in STORED.values()) for key in job.needs)


def folder_of(job: GridJob) -> dict[str, tuple[str, bytes]]:
    """Everything in a job's folder, with checksums; the report comes last."""
    found = [file for file in job.folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    files = sorted(found, key=lambda file: (file.name == REPORT, file))
    contents = {file.relative_to(job.folder).as_posix(): file.read_bytes() for file in files}
    return {name: (hashlib.sha256(content).hexdigest(), content) for name, content in contents.items()}


def put_folder(job: GridJob, files: dict[str, tuple[str, bytes]]) -> None:
    """Write what another machine had in the job's folder into the one here, each file in one step."""
    for name, (sha256, content) in files.items():
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StoreError(f"{name} of {job.label} was damaged on its way from another machine; run the grid again.")
        write_atomic(job.folder / name, lambda temporary, content=content: temporary.write_bytes(content))


def work_here(text: str, attempt: int, brought: dict[str, Files]) -> dict[str, Any]:
    """Do a job in the driver's folders; only the report is sent."""
    from .worker import work

    return {"report": work(text, attempt)}


def work_apart(text: str, attempt: int, brought: dict[str, Files]) -> dict[str, Any]:
    """Do a job on a machine with folders of its own: its report, artifact and folder.

    Nothing when an artifact that it builds on is missing: it wants to be called again with all of them in `brought`.
    """
    from .worker import work

    job, store = from_json(text), Store()
    for place, files in brought.items():
        put_artifact(store, *place.split("/"), files)
    if lacking(job, store):
        return {}
    report = work(text, attempt)
    kind = STORED.get(job.kind)
    kept = kind is not None and store.path(kind, job.id).is_dir()
    return {
        "report": report,
        "artifact": artifact(store, kind, job.id) if kept else {},
        "folder": folder_of(job),
    }


def receive(job: GridJob, answer: dict[str, Any], store: Store | None = None) -> None:
    """Put what `work_apart` sent where it would be had the job run here."""
    if answer["artifact"]:
        put_artifact(store or Store(), STORED[job.kind], job.id, answer["artifact"])
    with explained(job.folder):
        put_folder(job, answer["folder"])
