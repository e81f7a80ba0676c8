"""Any folder or zip of images as a dataset."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, SpecError
from ..specs import DatasetSpec
from . import cache, registry
from .decoding import SUFFIXES, Read, Wanted, decode_all
from .layout import PARTS, Item, arrange, natural

if TYPE_CHECKING:
    from .imageset import ImageSet

_LARGEST = 512 << 20  # bytes of one file: a zip can claim any size
_OTHER = "files that are not images skipped"
_LINKS = "links out of the folder or to folders skipped"


@dataclass(frozen=True)
class Source:
    """Image files of a folder or zip: their paths, how to read one, and how many others there were."""

    files: list[str]
    read: Read
    skipped: Counter


def import_images(
    name: str,
    path: str | os.PathLike[str],
    size: int | None = None,
    channels: str | None = None,
    background: str | None = None,
) -> ImageSet:
    """Imports the folder or zip at `path` as dataset `name`, replacing an earlier import of that name.

    Class folders give labels, with or without a train/test/val/unlabeled level above them; images outside of any folder
    have label -1. `size` takes the centred square of each image and resizes it, antialiased; without it all images must
    be of one size. `channels` ("grey", "rgb") converts all images; without it they must be alike. `background`
    ("white", "black") puts transparent images on that colour; without it they are refused. SpecError for a wrong
    argument; DataError for anything wrong with the files, in which case the earlier import stays as it was.
    """
    registry.check_name(name)
    DatasetSpec(name=name, size=size)  # the same bounds
    _check("channels", channels, ("grey", "rgb"))
    _check("background", background, ("white", "black"))
    place = Path(path).expanduser()
    with _open(place) as source:
        if not source.files:
            others = f"; {_OTHER}: {source.skipped[_OTHER]}" if source.skipped[_OTHER] else ""
            raise DataError(f"There are no images in {place}{others}; expected files such as CLASS/name.png or .jpg.")
        items = arrange(source.files, str(place))
        with cache.locked(name):
            _store(name, place, items, source, Wanted(size, channels, background))
    from .loading import load

    return load(DatasetSpec(name=name))


def _check(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise SpecError(f"{option} must be {' or '.join(choices)}, found {value!r}.")


def _store(name: str, place: Path, items: list[Item], source: Source, wanted: Wanted) -> None:
    entry = registry.entries().get(name)
    classes, labels = _labels(items, entry)
    index = [_text(item.path) for item in items]
    if len(set(index)) < len(index):
        twice = Counter(index).most_common(1)[0][0]
        raise DataError(f"{place} holds {twice} more than once; make it again without the copy.")

    def check(shape: tuple[int, int, int]) -> None:
        if entry and shape != entry.shape:
            raise SpecError(
                f"{name} is a known dataset of {'x'.join(map(str, entry.shape))} images (c, h, w) and these are "
                f"{'x'.join(map(str, shape))}; choose another name."
            )

    notes = Counter(source.skipped)
    shape, batches = decode_all(items, source.read, wanted, check, notes)
    options = {"size": wanted.size, "channels": wanted.channels, "background": wanted.background}
    given = "".join(f" --{key} {value}" for key, value in options.items() if value is not None)

    def rest() -> dict:
        return {
            "title": entry.title if entry else f"imported from {place.name}",
            "classes": classes,
            "parts": parts_of([item.part for item in items]),
            "index": "path",
            "source": place.name,
            "licence": "as its source says",
            "import": f"import it again with `sslmem data import {name} {place.name}{given}`",
            "options": options,
            "notes": [f"{count} {what}" for what, count in sorted(notes.items()) if count],
        }

    cache.write(name, shape, labels, index, _progress(batches, name, len(items)), rest)


def parts_of(names: list[str]) -> dict[str, list[int]]:
    """First and last-but-one row of each part, given the part of each row; rows of a part are consecutive."""
    return {part: [names.index(part), names.index(part) + names.count(part)] for part in PARTS if part in names}


def _labels(items: list[Item], entry: registry.Entry | None) -> tuple[list[str], np.ndarray]:
    """Class names and the label of each item; under a registry name the registry's classes in its order."""
    found = sorted({item.label for item in items} - {""}, key=lambda label: (natural(label), label))
    names = {label: _text(label) for label in found}
    classes = list(dict.fromkeys(names.values()))
    numbers = {label: classes.index(names[label]) for label in found}
    if entry and found:
        classes = list(entry.classes)
        official = {name: number for number, name in enumerate(classes)}
        official = {**{str(number): number for number in official.values()}, **official}
        if strange := [label for label in found if label not in official]:
            raise SpecError(
                f"{entry.name} is a known dataset without a class {strange[0]!r}; choose another name, or name the "
                f"folders {', '.join(classes[:3])} ... or 0 to {len(classes) - 1}."
            )
        numbers = {label: official[label] for label in found}
    return classes, np.array([numbers.get(item.label, -1) for item in items], np.int64)


def _text(path: str) -> str:
    """One spelling of accented letters: macOS writes them decomposed."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(f"The file name {path!r} is not valid text; rename it.") from None
    return unicodedata.normalize("NFC", path)


def _progress(batches: Iterator[np.ndarray], name: str, total: int) -> Iterator[np.ndarray]:
    from tqdm import tqdm

    with tqdm(total=total, desc=f"import {name}", unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


@contextmanager
def _open(place: Path) -> Iterator[Source]:
    if place.is_dir():
        yield _folder(place.resolve())
    elif not place.is_file():
        raise DataError(f"There is no folder or zip {place}; check the path.")
    else:
        try:
            archive = zipfile.ZipFile(place)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise DataError(f"{place} is not a complete zip ({error}); copy or download it again.") from None
        with archive:
            yield _zip(place, archive)


def _is_image(path: str, skipped: Counter) -> bool:
    """False for hidden and macOS files, which do not count, and for other files, which `skipped` counts."""
    levels = path.split("/")
    if any(level.startswith(".") or level == "__MACOSX" for level in levels):
        return False
    image = PurePosixPath(path).suffix[1:].lower() in SUFFIXES
    skipped[_OTHER] += not image
    return image


def _folder(root: Path) -> Source:
    skipped: Counter = Counter()
    files = []

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); mend its permissions or move it away.")

    for folder, below, here in os.walk(root, onerror=unreadable):
        skipped[_LINKS] += sum(os.path.islink(os.path.join(folder, one)) for one in below)
        for file in here:
            full = Path(folder, file)
            if full.is_symlink() and not full.resolve().is_relative_to(root):
                skipped[_LINKS] += 1
            elif full.is_file() and _is_image(relative := full.relative_to(root).as_posix(), skipped):
                files.append(relative)

    def read(file: str) -> bytes:
        try:
            return (root / file).read_bytes()
        except OSError as error:
            raise DataError(f"{file} cannot be read ({error.strerror}); mend its permissions or remove it.") from None

    return Source(files, read, skipped)


def _zip(place: Path, archive: zipfile.ZipFile) -> Source:
    skipped: Counter = Counter()
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        file = entry.filename.replace("\\", "/")  # zips made on Windows
        levels = file.split("/")
        if ".." in levels or file.startswith("/") or re.match("[A-Za-z]:", file):
            raise DataError(f"{place} holds the entry {entry.filename!r}, which lies outside of it; do not trust it.")
        if entry.is_dir() or file.endswith("/"):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            skipped[_LINKS] += 1
        elif _is_image(file, skipped):
            if file in entries:
                raise DataError(f"{place} holds {file} more than once; make it again without the copy.")
            if entry.file_size > _LARGEST:
                raise DataError(f"{file} in {place} is {entry.file_size / 1e9:.1f} GB; expected images; remove it.")
            entries[file] = entry

    def read(file: str) -> bytes:
        try:
            return archive.read(entries[file])
        except Exception as error:  # zlib, CRC, password, compression: zipfile has no common base for them
            raise DataError(f"{file} in {place} cannot be read ({error}); copy or download the zip again.") from None

    return Source(list(entries), read, skipped)
