"""Registry datasets: where their files are, how they are downloaded and how they become arrays.

Rows are in the official order, train before test (before unlabeled); the index of an image is its row, so image i of
the test part has index i + the number of training images.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import socket
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .. import paths
from ..errors import DataError
from . import cache
from .registry import Entry

Part = tuple[np.ndarray, np.ndarray]  # images (n, c, h, w) uint8, labels (n,), -1 for none
_STEP = 4096
_TIMEOUT = 30.0  # seconds without an answer; torchvision sets none and waits for minutes behind a firewall


def found(entry: Entry) -> str:
    """Where the files of a registry dataset are on this machine; "" when they must be downloaded. Reads no content."""
    if entry.reader == "digits":
        return "embedded in scikit-learn"
    for place in places(entry):
        if all(_either(place, file) for file in entry.files):
            return f"files in {place}"
    return ""


def places(entry: Entry) -> list[Path]:
    """Folders that may hold the files of `entry`: torchvision's layout in the data folder, then system packages."""
    return [paths.data_dir() / entry.folder, *map(Path, entry.system)]


def _either(place: Path, file: str) -> Path | None:
    """The file, or the unpacked one without .gz."""
    return next((path for path in (place / file, place / file.removesuffix(".gz")) if path.is_file()), None)


def build(entry: Entry) -> None:
    """Reads a registry dataset (downloading it first where needed) and caches it; the caller holds the lock.

    DataError when it cannot be found or downloaded, or is not what the registry says.
    """
    readers = {"digits": _digits, "idx": _idx, "cifar": _cifar, "svhn": _svhn, "stl10": _stl10}
    parts = readers[entry.reader](entry)
    counts = [len(images) for images, _ in parts]
    expected = list(entry.parts.values()) or [entry.images]
    if counts != expected or counts != [len(labels) for _, labels in parts]:
        raise DataError(f"{entry.name} has {counts} images instead of {expected}; {_again(entry)}.")
    ends = list(accumulate(counts))
    named = {part: [end - count, end] for part, count, end in zip(entry.parts, counts, ends, strict=False)}

    def rest() -> dict:
        return {
            "title": entry.title,
            "classes": list(entry.classes),
            "parts": named,
            "index": "official",
            "source": entry.source,
            "licence": entry.licence,
            "import": "",
            "notes": [],
        }

    batches = (
        np.ascontiguousarray(images[start : start + _STEP])
        for images, _ in parts
        for start in range(0, len(images), _STEP)
    )
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    if labels.min() < -1 or labels.max() >= len(entry.classes):
        raise DataError(f"{entry.name} has labels {labels.min()} to {labels.max()}; {_again(entry)}.")
    meta = cache.write(entry.name, entry.shape, labels, np.arange(ends[-1]), batches, rest)
    if entry.fingerprint and meta["fingerprint"] != entry.fingerprint:
        (paths.data_dir() / f"{entry.name}.json").unlink()
        raise DataError(f"{entry.name} is not the dataset that the registry describes; {_again(entry)}.")


def _again(entry: Entry) -> str:
    return f"remove its files from {places(entry)[0]} and load it again, or run `sslmem data import {entry.name} PATH`"


def _digits(entry: Entry) -> list[Part]:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # counts of ink from 0 to 16
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return [(images[:, None], bunch.target)]


def _idx(entry: Entry) -> list[Part]:
    try:
        return _read_idx(entry)
    except FileNotFoundError:
        with _downloading(entry):
            _torchvision(entry, train=True, download=True)
        try:
            return _read_idx(entry)
        except FileNotFoundError as error:
            raise DataError(f"{entry.name} has no valid file {error} after its download; {_again(entry)}.") from None


def _read_idx(entry: Entry) -> list[Part]:
    """The four files of MNIST and its kin; FileNotFoundError when no place has them all, undamaged."""
    missing = ""
    for number, place in enumerate(places(entry)):
        files = {file: _valid(place, file, md5 if number == 0 else "") for file, md5 in entry.files.items()}
        if all(files.values()):
            one, two, three, four = (_idx_array(path) for path in files.values())
            return [(one[:, None], two), (three[:, None], four)]
        missing = missing or next(file for file, path in files.items() if not path)
    raise FileNotFoundError(missing)


def _valid(place: Path, file: str, md5: str) -> Path | None:
    """The packed file if it is there and has the checksum ("" for any), else the unpacked one, which has none."""
    packed, plain = place / file, place / file.removesuffix(".gz")
    if packed.is_file() and (not md5 or _md5(packed) == md5):
        return packed
    return plain if plain.is_file() else None


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _idx_array(file: Path) -> np.ndarray:
    """A uint8 array from an idx file: two zero bytes, type 8, number of dimensions, big-endian sizes, values."""
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
            content = stream.read()
        kind, dimensions = struct.unpack_from(">HxB", content)[0], content[3]
        sizes = struct.unpack_from(f">{dimensions}I", content, 4)
        if kind != 0 or content[2] != 8:
            raise ValueError("not an idx file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(sizes)
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        raise DataError(f"{file} is damaged ({error}); remove it and load again.") from None


def _torchvision(entry: Entry, **options: Any) -> Any:
    import torchvision.datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns about the pickles of 2009
        return getattr(torchvision.datasets, entry.torchvision)(str(paths.data_dir()), **options)


def _load(entry: Entry, **options: Any) -> Any:
    """A torchvision dataset from files that are there with the right checksums, else after a download."""
    try:
        return _torchvision(entry, **options)
    except RuntimeError:  # torchvision's answer when a file is missing or has a wrong checksum
        with _downloading(entry):
            return _torchvision(entry, download=True, **options)


@contextmanager
def _downloading(entry: Entry) -> Iterator[None]:
    """Says what is downloaded and, when it fails, what was tried and what else can be done, in one sentence."""
    with cache.reporting():
        paths.data_dir().mkdir(parents=True, exist_ok=True)
    print(f"Downloading {entry.name} ({entry.download} MB, licence: {entry.licence}) ...", file=sys.stderr, flush=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    except (RuntimeError, OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in cache.FULL:
            raise cache.refusal(error) from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
        raise DataError(
            f"{entry.name} is not on this machine and could not be downloaded (tried {entry.source}: {reason}); put "
            f"its files into {places(entry)[0]}, or run `sslmem data import {entry.name} PATH` with its images."
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def _cifar(entry: Entry) -> list[Part]:
    sets = [_load(entry, train=train) for train in (True, False)]
    return [(one.data.transpose(0, 3, 1, 2), np.asarray(one.targets)) for one in sets]


def _svhn(entry: Entry) -> list[Part]:
    sets = [_load(entry, split=split) for split in entry.parts]
    return [(one.data, np.asarray(one.labels)) for one in sets]


def _stl10(entry: Entry) -> list[Part]:
    """Memory-mapped: the unlabeled part alone is 2.8 GB. torchvision only checks or downloads the files."""
    _load(entry, split="test")
    folder = places(entry)[0]
    parts = []
    for part, count in entry.parts.items():
        columns = np.memmap(folder / f"{part}_X.bin", np.uint8, "r").reshape(-1, *entry.shape)
        labels = folder / f"{part}_y.bin"
        numbers = np.fromfile(labels, np.uint8).astype(np.int64) - 1 if part != "unlabeled" else np.full(count, -1)
        parts.append((columns.transpose(0, 1, 3, 2), numbers))  # stored column by column
    return parts
