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
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import paths
from .errors import StoreError

MANIFEST = "manifest.json"
STORED, CHECKPOINT, UNFINISHED = "stored", "checkpoint", "unfinished"  # states of a piece
_LOCKS, _CHECKPOINTS, _UNFINISHED = "locks", "checkpoints", "unfinished"  # folders that hold no artifacts
_KEY = re.compile(r"[0-9a-f]{16,}")  # of a digest: an artifact's folder, even when its manifest is gone
_DAY = 86400.0
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


class InUse(StoreError):
    """A running process holds the lock of what was asked for."""


@dataclass(frozen=True)
class Piece:
    """One folder of a store: an artifact, the checkpoint of a computation, or what a stopped process left.

    `bytes` is the size of its files, `age` the seconds since it was stored or last written.
    """

    kind: str
    key: str
    state: str
    path: Path
    bytes: int
    age: float


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
        for name, expected in self._manifest(kind, key)["files"].items():
            file = folder / name
            found = sha256(file) if file.is_file() else "no such file"
            if found != expected:
                raise StoreError(f"{file} should have checksum {expected[:12]}, found {found[:12]}; {again}.")
        return folder

    def meta(self, kind: str, key: str) -> dict[str, Any]:
        """What was written beside the artifact when it was stored."""
        return self._manifest(kind, key)["meta"]

    def _manifest(self, kind: str, key: str) -> dict[str, Any]:
        folder = self.path(kind, key)
        try:
            found = json.loads((folder / MANIFEST).read_text())
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in ("files", "meta")):
            again = f"delete the folder {folder} and run again to compute it anew"
            raise StoreError(f"{folder} has no readable {MANIFEST}; {again}.")
        return found

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
    def lock(self, kind: str, key: str, wait: bool = True) -> Iterator[None]:
        """Hold the right to compute one artifact; the operating system frees it when its holder dies.

        Without `wait` a lock that another process holds raises InUse.
        """
        with explained(self.root):
            file = self._lock_file(kind, key)
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file, mode=0o644)
            try:
                lock.acquire(blocking=wait)
            except Timeout:
                raise InUse(f"{kind}/{key} is in use by a running process; wait until it has ended.") from None
        try:
            for left in self._unfinished().glob(f"{kind}-{key}.*"):  # of a holder that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            lock.release()

    def is_locked(self, kind: str, key: str) -> bool:
        """Whether somebody computes this artifact just now."""
        try:
            with self.lock(kind, key, wait=False):
                return False
        except InUse:
            return True

    def drop_damaged(self, kind: str, key: str) -> str:
        """Remove an artifact whose checksums are wrong, as it stands in the way of a good one; what was wrong."""
        try:
            self.get(kind, key)
        except StoreError as error:
            self.remove(kind, key)
            return str(error)
        return ""

    def checkpoint(self, kind: str, key: str) -> Path:
        """The file in which a computation under way keeps its state, in a folder of its own that `forget` removes."""
        return self.root / _CHECKPOINTS / f"{kind}-{key}" / "state.safetensors"

    def forget(self, kind: str, key: str) -> None:
        """Remove the checkpoint of a computation that is finished, with what a killed process left beside it."""
        shutil.rmtree(self.checkpoint(kind, key).parent, ignore_errors=True)

    def remove(self, kind: str, key: str) -> None:
        """Remove an artifact that is not needed any more; by one rename first, so that no half of it is ever seen."""
        with self.lock(kind, key):
            self._remove(kind, key)

    def _remove(self, kind: str, key: str) -> None:
        with explained(self.root):
            folder = self.path(kind, key)
            if folder.is_dir():
                gone = Path(tempfile.mkdtemp(dir=self._unfinished(), prefix=f"{kind}-{key}."))
                folder.rename(gone / "removed")
                shutil.rmtree(gone, ignore_errors=True)

    def pieces(self, kind: str = "") -> list[Piece]:
        """Everything that takes space here, of one kind or all: artifacts, checkpoints and what stopped processes left.

        Ordered by kind, then the oldest first. Nothing is checked; `damage` does that.
        """
        found = []
        for folder in self.root.glob("*/*"):
            place, name = folder.parent.name, folder.name
            if place == _LOCKS or not folder.is_dir():
                continue
            if place in (_CHECKPOINTS, _UNFINISHED):
                state = CHECKPOINT if place == _CHECKPOINTS else UNFINISHED
                of, _, key = (name if state == CHECKPOINT else name.rpartition(".")[0]).partition("-")
            elif _KEY.fullmatch(name) or (folder / MANIFEST).is_file():
                state, of, key = STORED, place, name
            else:
                continue  # a folder of somebody else
            if kind in ("", of) and key and (piece := _piece(of, key, state, folder)) is not None:
                found.append(piece)
        return sorted(found, key=lambda piece: (piece.kind, -piece.age, piece.key))

    def damage(self, piece: Piece) -> str:
        """What is wrong with an artifact as one sentence, after reading every file; empty when nothing is."""
        try:
            self.get(piece.kind, piece.key)
        except StoreError as error:
            return str(error) if piece.path.is_dir() else ""  # another process may have removed it meanwhile
        return ""

    def in_use(self, kind: str, key: str) -> bool:
        """Whether a running process holds the lock of an artifact; writes nothing."""
        file = self._lock_file(kind, key)
        if not file.is_file():
            return False
        try:
            with FileLock(file, blocking=False):
                return False
        except Timeout:
            return True

    def surplus(self, piece: Piece, older: float | None = None) -> str:
        """Why a piece may go, in a few words; empty for what is to stay.

        Artifacts go when they are damaged or older than so many days, checkpoints when their computation is finished
        or they are that old, and what a stopped process left goes always.
        """
        if piece.state == UNFINISHED:
            return "left by a process that was stopped"
        if piece.state == CHECKPOINT and (not piece.bytes or self.path(piece.kind, piece.key).is_dir()):
            return "its computation is finished"
        if older is not None and piece.age > older * _DAY:
            return f"older than {older:g} days"
        return "damaged" if piece.state == STORED and self.damage(piece) else ""

    def prune(self, piece: Piece, older: float | None = None) -> str:
        """Remove a piece if it may go, and say why it did; empty when it stays.

        Raises InUse when a running process holds its lock. What may go is asked again under the lock: another process
        may have computed it anew.
        """
        with self.lock(piece.kind, piece.key, wait=False):  # taking it removes what is unfinished
            if piece.state == UNFINISHED:
                return self.surplus(piece)
            now = _piece(piece.kind, piece.key, piece.state, piece.path)
            reason = self.surplus(now, older) if now is not None else ""
            if reason and piece.state == STORED:
                self._remove(piece.kind, piece.key)
            elif reason:
                self.forget(piece.kind, piece.key)
            return reason

    def _lock_file(self, kind: str, key: str) -> Path:
        return self.root / _LOCKS / f"{kind}-{key}.lock"

    def _unfinished(self) -> Path:
        folder = self.root / _UNFINISHED
        with explained(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder


def _piece(kind: str, key: str, state: str, folder: Path) -> Piece | None:
    """A piece with size and age; None when it is gone. An age is never negative, whatever the clock did."""
    try:
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        written = max([folder.stat().st_mtime, *(file.st_mtime for file in files)])
    except OSError:  # removed while it was looked at
        return None
    if state == STORED:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            written = datetime.fromisoformat(json.loads((folder / MANIFEST).read_text())["created"]).timestamp()
    age = max(0.0, datetime.now(UTC).timestamp() - written)
    return Piece(kind, key, state, folder, sum(file.st_size for file in files), age)
