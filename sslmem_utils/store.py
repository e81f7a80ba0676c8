"""Content-addressed artifacts: atomic, locked, checksummed, resumable.

An artifact is a folder `<root>/<kind>/<key>` of files beside a `manifest.json` with their SHA-256. It appears by one
rename, so that a process killed at any moment leaves either the whole artifact or nothing. The store does not know
what it holds; the key must say everything that the content depends on.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from . import paths
from .errors import StoreError

MANIFEST = "manifest.json"
_REASONS = {
    errno.ENOSPC: "no space is left on the device; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file size limit is reached; raise the limit",
    errno.EROFS: "the file system is read-only; make it writable",
    errno.EACCES: "permission is denied; make it writable",
    errno.EPERM: "permission is denied; make it writable",
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError raised while writing under `path` into a StoreError of one sentence."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno, (error.strerror or str(error)).lower())
        raise StoreError(
            f"cannot write to {path}: {reason}, or choose another folder (SSLMEM_STORE, SSLMEM_DATA, SSLMEM_BUILD), "
            "and run again: finished work is kept."
        ) from error


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one step."""
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            _sync(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, lambda file: file.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n"))


class Store:
    """The artifacts under one root folder (default `paths.store_dir()`)."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = Path(root) if root is not None else paths.store_dir()

    def path(self, kind: str, key: str) -> Path:
        """Where the artifact stands once it is complete."""
        return self.root / kind / key

    def get(self, kind: str, key: str) -> Path | None:
        """The artifact's folder, or None when it was never stored. Every file is checked against its SHA-256.

        Raises StoreError when a file is missing or differs: a damaged artifact is never used.
        """
        folder = self.path(kind, key)
        if not folder.is_dir():
            return None
        again = f"delete the folder {folder} and run again to compute it anew"
        try:
            files = json.loads((folder / MANIFEST).read_text())["files"]
        except (OSError, ValueError, KeyError):
            raise StoreError(f"{folder} has no readable {MANIFEST}; {again}.") from None
        for name, expected in files.items():
            file = folder / name
            found = sha256(file) if file.is_file() else "no such file"
            if found != expected:
                raise StoreError(f"{file} should have checksum {expected[:12]}, found {found[:12]}; {again}.")
        return folder

    def meta(self, kind: str, key: str) -> dict[str, Any]:
        """What was written beside the artifact when it was stored."""
        return json.loads((self.path(kind, key) / MANIFEST).read_text())["meta"]

    def put(self, kind: str, key: str, write: Callable[[Path], None], meta: dict[str, Any]) -> Path:
        """Let `write` fill a folder, then store it in one step; an artifact already there is kept."""
        final = self.path(kind, key)
        with explained(self.root):
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=self._unfinished(), prefix=f"{kind}-{key}."))
            try:
                write(temporary)
                files = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
                manifest = {"meta": meta, "files": files, "created": datetime.now(UTC).isoformat(timespec="seconds")}
                (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
                for file in temporary.iterdir():
                    _sync(file)
                if not final.exists():
                    temporary.rename(final)
                    _sync(final.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return final

    def compute(self, kind: str, key: str, write: Callable[[Path], None], meta: dict[str, Any]) -> Path:
        """The stored artifact, computed first when it is missing; two processes never compute the same one."""
        if (found := self.get(kind, key)) is not None:
            return found
        with self.lock(kind, key):
            return self.get(kind, key) or self.put(kind, key, write, meta)

    @contextlib.contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold the right to compute one artifact; the operating system frees it when its holder dies."""
        with explained(self.root):
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / f"{kind}-{key}.lock", mode=0o644)
            lock.acquire()
        try:
            for left in self._unfinished().glob(f"{kind}-{key}.*"):  # of a holder that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            lock.release()

    def checkpoint(self, kind: str, key: str) -> Path:
        """The file in which a computation under way keeps its state, in a folder of its own that `forget` removes."""
        return self.root / "checkpoints" / f"{kind}-{key}" / "state.safetensors"

    def forget(self, kind: str, key: str) -> None:
        """Remove the checkpoint of a computation that is finished, with what a killed process left beside it."""
        shutil.rmtree(self.checkpoint(kind, key).parent, ignore_errors=True)

    def remove(self, kind: str, key: str) -> None:
        """Remove an artifact that is not needed any more; by one rename first, so that no half of it is ever seen."""
        with self.lock(kind, key), explained(self.root):
            folder = self.path(kind, key)
            if folder.is_dir():
                gone = Path(tempfile.mkdtemp(dir=self._unfinished(), prefix=f"{kind}-{key}."))
                folder.rename(gone / "removed")
                shutil.rmtree(gone, ignore_errors=True)

    def _unfinished(self) -> Path:
        folder = self.root / "unfinished"
        with explained(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder
