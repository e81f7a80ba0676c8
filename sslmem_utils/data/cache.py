"""The on-disk form of a dataset: memory-mapped arrays, and a sidecar whose replacement is the commit.

    NAME.json              the sidecar: shape, classes, parts, fingerprint, and which folder is current
    NAME.0123abcd/         images.npy (n, c, h, w) uint8, labels.npy (n,) int64, index.npy int64 or index.json str,
                           checked.json: when the checksums of files above 1 GiB were last found right

A new version is written to a new folder and synced before the sidecar is replaced, so a kill at any moment leaves the
old version whole; the next writer removes what a killed one left behind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from .. import paths
from ..errors import DataError
from ..specs import digest

FORMAT = 1
LARGE = 1 << 30  # bytes from which a file is read in full once, not once in every process
CHECKED = "checked.json"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_verified: dict[Path, list[int]] = {}


class Damaged(DataError):
    """A cached dataset that is not what was written: an import under its name mends it."""


@contextmanager
def reporting() -> Iterator[None]:
    """Turns errors of writing into one sentence: a full, read-only or impossible data folder."""
    try:
        yield
    except OSError as error:
        raise refusal(error) from None


def refusal(error: OSError) -> DataError:
    """What to say when the data folder cannot be written to."""
    folder = paths.data_dir()
    if error.errno in FULL:
        return DataError(f"No space left in {folder} ({error.strerror}); free some or set SSLMEM_DATA.")
    return DataError(f"The data folder {folder} cannot be written to ({error.strerror}); mend it or set SSLMEM_DATA.")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One writer of `name` at a time, over all processes of this machine; the lock falls when its process dies."""
    from filelock import FileLock

    with reporting():
        paths.data_dir().mkdir(parents=True, exist_ok=True)
        lock = FileLock(paths.data_dir() / f".{name}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def names() -> list[str]:
    """Datasets that have a sidecar here."""
    folder = paths.data_dir()
    return sorted(file.stem for file in folder.glob("[a-z0-9]*.json")) if folder.is_dir() else []


def describe(name: str) -> dict | None:
    """The sidecar of `name`, None when there is none; DataError when it is damaged or of another format."""
    file = paths.data_dir() / f"{name}.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        sums = [meta["files"][part]["sha256"] for part in sorted(meta["files"])]
        if meta["format"] == FORMAT and meta["fingerprint"] == _fingerprint(meta["shape"], sums):
            return meta
        found = f"it has format {meta['format']}" if meta["format"] != FORMAT else "its fingerprint does not fit"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise _unreadable(error) from None
    except (ValueError, KeyError, TypeError):
        found = "it is not what was written"
    raise Damaged(f"The dataset file {file} is damaged ({found}); delete it, then import or load {name} again.")


def _unreadable(error: OSError) -> DataError:
    return DataError(f"{error.filename} cannot be read ({error.strerror}); mend its permissions or set SSLMEM_DATA.")


def _fingerprint(shape: Iterable[int], sums: list[str]) -> str:
    return digest("images", list(shape), sums)


def read(name: str) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray] | None:
    """Sidecar, images (n, c, h, w) memory-mapped, labels (n,) and index (n,) of `name`; None when not cached.

    Checks every size, and every checksum once per process, of large files once after they were written or copied;
    DataError says how to get the dataset back.
    """
    meta = describe(name)
    if meta is None:
        return None
    try:
        return _open(meta)
    except FileNotFoundError:  # replaced by an import between the two reads, or really gone
        again = describe(name)
        if again is None or again["folder"] == meta["folder"]:
            raise _damaged(meta, "its folder is incomplete") from None
        return _open(again)


def _open(meta: dict) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    folder = paths.data_dir() / meta["folder"]
    try:
        for file, expected in meta["files"].items():
            _verify(folder / file, expected, meta)
        images = _map(folder / "images.npy")
        labels = np.load(folder / "labels.npy")
        if "index.npy" in meta["files"]:
            index = np.load(folder / "index.npy")
        else:
            index = np.array(json.loads((folder / "index.json").read_text(encoding="utf-8")), dtype=np.str_)
    except ValueError:
        raise _damaged(meta, "an array has no valid header") from None
    except PermissionError as error:
        raise _unreadable(error) from None
    if images.shape != (meta["images"], *meta["shape"]) or images.dtype != np.uint8:
        raise _damaged(meta, f"images.npy holds {images.dtype} {images.shape}")
    return meta, images, labels, index


def _map(file: Path) -> np.ndarray:
    """A private, writable map, so that torch takes it without a copy and writes never reach the file.

    A file larger than the memory that the system lets a process promise to itself is mapped for reading only.
    """
    try:
        return np.load(file, mmap_mode="c")
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
    return np.load(file, mmap_mode="r")


def _verify(file: Path, expected: dict, meta: dict) -> None:
    stamp = _stamp(file)
    if stamp[1] != expected["bytes"]:
        raise _damaged(meta, f"{file.name} has {stamp[1]} bytes instead of {expected['bytes']}")
    if _verified.get(file) != stamp and (stamp[1] < LARGE or _checked(file.parent).get(file.name) != stamp):
        if _checksum(file) != expected["sha256"]:
            raise _damaged(meta, f"{file.name} has a wrong checksum")
        _note_checked([file])
    _verified[file] = stamp


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_mtime_ns, status.st_size]


def _checked(folder: Path) -> dict[str, list[int]]:
    try:
        found = json.loads((folder / CHECKED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note_checked(files: Iterable[Path]) -> None:
    """Remembers, where the folder can be written to, that large files have the right checksums."""
    for file in files:
        if (stamp := _stamp(file))[1] >= LARGE:
            with suppress(OSError):
                _write_text(file.with_name(CHECKED), json.dumps(_checked(file.parent) | {file.name: stamp}))


def _damaged(meta: dict, found: str) -> Damaged:
    mend = meta["import"] or f"delete {paths.data_dir() / meta['name']}.json and load it again"
    return Damaged(f"The cached dataset {meta['name']} is damaged ({found}); {mend}.")


def _checksum(file: Path) -> str:
    """SHA-256 of the content: for .npy without its header, whose padding depends on the version of NumPy."""
    with file.open("rb") as stream:
        if file.suffix == ".npy":
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            reader(stream)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(
    name: str,
    shape: tuple[int, int, int],
    labels: np.ndarray,
    index: np.ndarray | list[str],
    batches: Iterable[np.ndarray],
    describe_rest: Callable[[], dict],
) -> dict:
    """Writes images (n, c, h, w), given in `batches` along n, with labels (n,) and index (n,); the new sidecar.

    `describe_rest` gives the other fields of the sidecar once all batches are read. The caller holds `locked(name)`.
    """
    root = paths.data_dir()
    folder = root / f"{name}.{secrets.token_hex(4)}"
    try:
        with reporting():
            _clean(name)
            _check_space(root, len(labels) * int(np.prod(shape)) + 64 * len(labels))
            folder.mkdir()
        sums = {"images.npy": _write_images(folder / "images.npy", (len(labels), *shape), batches)}
        with reporting():
            _write_small(folder / "labels.npy", labels.astype("<i8"))
            _write_small(folder / ("index.json" if isinstance(index, list) else "index.npy"), index)
            meta = _sidecar(name, shape, len(labels), folder, sums, describe_rest())
            _note_checked(folder / file for file in meta["files"])
            _sync(folder)
            _write_text(root / f"{name}.json", json.dumps(meta, ensure_ascii=False, indent=1))
            _clean(name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return meta


def _sidecar(
    name: str, shape: tuple[int, int, int], count: int, folder: Path, sums: dict[str, str], rest: dict
) -> dict:
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": sums.get(file.name) or _checksum(file)}
        for file in sorted(folder.iterdir())
    }
    return {
        "format": FORMAT,
        "name": name,
        "shape": list(shape),
        "images": count,
        "folder": folder.name,
        "fingerprint": _fingerprint(shape, [files[file]["sha256"] for file in sorted(files)]),
        **rest,
        "files": files,
    }


def _check_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise DataError(
            f"No space left in {root}: {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB free; "
            f"free some or set SSLMEM_DATA."
        )


def _write_images(file: Path, shape: tuple[int, ...], batches: Iterable[np.ndarray]) -> str:
    """Writes the batches one after the other; the checksum of them all."""
    sha256 = hashlib.sha256()
    with reporting():
        stream = file.open("wb")
    with stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        written = 0
        for batch in batches:  # outside of `reporting`: an unreadable source is not a read-only data folder
            if batch.dtype != np.uint8 or batch.shape[1:] != shape[1:]:
                raise TypeError(f"expected uint8 images of shape {shape[1:]}, found {batch.dtype} {batch.shape[1:]}")
            batch = np.ascontiguousarray(batch)
            sha256.update(batch.data)
            with reporting():
                stream.write(batch.data)
            written += len(batch)
        if written != shape[0]:
            raise ValueError(f"expected {shape[0]} images, found {written}")
        with reporting():
            stream.flush()
            os.fsync(stream.fileno())
    return sha256.hexdigest()


def _write_small(file: Path, content: np.ndarray | list[str]) -> None:
    with file.open("wb") as stream:
        if isinstance(content, list):
            stream.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())
        else:
            np.save(stream, content, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())


def _write_text(file: Path, text: str) -> None:
    """All of the file or nothing, also after a power cut."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        _sync(file.parent)
        os.replace(draft, file)
        _sync(file.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Makes renames and new files in `folder` survive a power cut (POSIX only: elsewhere a folder cannot be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _clean(name: str) -> None:
    """Removes folders and drafts of `name` that its sidecar does not point to (earlier versions, killed writers)."""
    try:
        meta = describe(name)
    except DataError:
        return  # nothing is deleted on the word of a sidecar that cannot be read
    keep = meta["folder"] if meta else None
    for path in paths.data_dir().iterdir():
        if re.fullmatch(rf"{name}\.[0-9a-f]{{8}}", path.name) and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch(rf"\.{name}\.json\.[0-9a-f]{{8}}", path.name):
            path.unlink(missing_ok=True)
