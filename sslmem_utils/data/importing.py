"""Any folder or zip of images as a dataset."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError, SpecError
from ..specs import DatasetSpec
from . import cache, registry
from .decoding import SUFFIXES, Read, Wanted, decode_all
from .layout import PARTS, Item, arrange, choose, natural

if TYPE_CHECKING:
    from .imageset import ImageSet

_LARGEST = 512 << 20  # bytes of one file: a zip can claim any size
PROGRESS_SECONDS = 10.0
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
    listed: str | os.PathLike[str] | None = None,
    replace: bool = False,
) -> ImageSet:
    """Imports the folder or zip at `path` as dataset `name`; nothing happens when it holds the same images already.

    Class folders give labels, with or without a train/test/val/unlabeled level above them; images outside of any folder
    have label -1. `size` takes the centred square of each image and resizes it, antialiased; without it all images must
    be of one size. `channels` ("grey", "rgb") converts all images; without it they must be alike. `background`
    ("white", "black") puts transparent images on that colour; without it they are refused. `listed` is a text file that
    says which images to take, one a line (see layout.choose). `replace` allows other images to take the place of an
    earlier dataset of that name. SpecError for a wrong argument; DataError for anything wrong with the files, in which
    case the earlier dataset stays as it was.

    Images are decoded by threads and written one batch after the other: 4 ms of a core for a photograph of 500 x 375
    pixels at size 256, and 80 MB of memory with two threads, plus 0.4 KB an image for the paths.
    """
    registry.check_name(name)
    DatasetSpec(name=name, size=size)  # the same bounds
    _check("channels", channels, ("grey", "rgb"))
    _check("background", background, ("white", "black"))
    place = Path(path).expanduser()
    with opened(place) as source:
        if not source.files:
            others = f"; {_OTHER}: {source.skipped[_OTHER]}" if source.skipped[_OTHER] else ""
            raise DataError(f"There are no images in {place}{others}; expected files such as CLASS/name.png or .jpg.")
        items = arrange(source.files, str(place))
        if listed is not None:
            items = choose(items, Path(listed).expanduser())
        with cache.locked(name):
            _store(name, place, items, source, Wanted(size, channels, background), listed, replace)
    from .loading import load

    return load(DatasetSpec(name=name))


def _check(option: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise SpecError(f"{option} must be {' or '.join(choices)}, found {value!r}.")


def _store(
    name: str,
    place: Path,
    items: list[Item],
    source: Source,
    wanted: Wanted,
    listed: str | os.PathLike[str] | None,
    replace: bool,
) -> None:
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

    parts = parts_of([item.part for item in items])
    if not replace and (earlier := _readable(name)) is not None:
        _check_same(earlier, parts, classes, labels, index)
        shape, batches = decode_all(items, source.read, wanted, check, Counter())
        _check_pixels(earlier, index, shape, _progress(batches, f"compare {name}", len(items)))
        print(f"{name} holds these {len(items):,} images already; nothing to do.", file=sys.stderr, flush=True)
        return
    notes = Counter(source.skipped)
    shape, batches = decode_all(items, source.read, wanted, check, notes)
    options = {"size": wanted.size, "channels": wanted.channels, "background": wanted.background}
    if listed is not None:
        options["list"] = Path(listed).name
    given = "".join(f" --{key} {value}" for key, value in options.items() if value is not None)

    def rest() -> dict:
        return {
            "title": entry.title if entry else f"imported from {place.name}",
            "classes": classes,
            "parts": parts,
            "index": "path",
            "source": place.name,
            "licence": "as its source says",
            "import": f"import it again with `sslmem data import {name} {place.name}{given}`",
            "options": options,
            "notes": [f"{count} {what}" for what, count in sorted(notes.items()) if count],
        }

    cache.write(name, shape, labels, index, _progress(batches, f"import {name}", len(items)), rest)


_Cached = tuple[dict, np.ndarray, np.ndarray, np.ndarray]


def _readable(name: str) -> _Cached | None:
    """The dataset that has this name now; None when there is none or it is damaged, so that an import mends it."""
    try:
        return cache.read(name)
    except cache.Damaged:
        return None


def _check_same(
    earlier: _Cached, parts: dict[str, list[int]], classes: list[str], labels: np.ndarray, index: list[str]
) -> None:
    meta, _, old_labels, old_index = earlier
    if len(old_index) != len(index):
        raise _other(meta, f"{len(old_index):,} images, not {len(index):,}")
    old = [str(entry) for entry in old_index]
    if old != index:
        one, other = next((one, other) for one, other in zip(old, index, strict=True) if one != other)
        raise _other(meta, f"{one} where these have {other}")
    if (meta["parts"], meta["classes"]) != (parts, classes) or not np.array_equal(old_labels, labels):
        raise _other(meta, "other classes or parts")


def _check_pixels(earlier: _Cached, index: list[str], shape: tuple[int, ...], batches: Iterator[np.ndarray]) -> None:
    """Compares batch by batch, in the memory of one."""
    meta, images, _, _ = earlier
    if tuple(meta["shape"]) != shape:
        raise _other(meta, f"images of {'x'.join(map(str, meta['shape']))}, not {'x'.join(map(str, shape))}")
    start = 0
    for batch in batches:
        same = (images[start : start + len(batch)] == batch).all((1, 2, 3))
        if not same.all():
            raise _other(meta, f"another image as {index[start + int(same.argmin())]}")
        start += len(batch)


def _other(meta: dict, found: str) -> DataError:
    return DataError(
        f"There is another dataset {meta['name']} already (it has {found}); choose another name, or replace it "
        f"(--replace)."
    )


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


def _progress(batches: Iterator[np.ndarray], what: str, total: int) -> Iterator[np.ndarray]:
    """Shows how far it is: a bar in a terminal, else a line on stderr every ten seconds."""
    from tqdm import tqdm

    began = said = time.monotonic()
    done = 0
    with tqdm(total=total, desc=what, unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
            done += len(batch)
            now = time.monotonic()
            if bar.disable and now - said >= PROGRESS_SECONDS:
                said, rate = now, done / (now - began)
                left = f"{rate:.0f} a second, {(total - done) / rate / 60:.1f} min left"
                print(f"{what}: {done:,} of {total:,} images, {left}", file=sys.stderr, flush=True)


@contextmanager
def opened(place: Path) -> Iterator[Source]:
    """The image files of a folder or zip; DataError when there is none, or it is damaged or not to be trusted."""
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
    if any(map(_is_hidden, path.split("/"))):
        return False
    image = path.rpartition(".")[2].lower() in SUFFIXES
    skipped[_OTHER] += not image
    return image


def _is_hidden(level: str) -> bool:
    return level.startswith(".") or level == "__MACOSX"


def _folder(root: Path) -> Source:
    skipped: Counter = Counter()
    files = []

    folders = [""]
    while folders:
        above = folders.pop()
        try:
            entries = list(os.scandir(root / above))
        except OSError as error:
            where = f"{error.filename} cannot be read ({error.strerror})"
            raise DataError(f"{where}; mend its permissions or move it away.") from None
        for entry in entries:
            if entry.is_symlink() and (entry.is_dir() or not Path(entry.path).resolve().is_relative_to(root)):
                skipped[_LINKS] += 1
            elif entry.is_dir():
                folders += [] if _is_hidden(entry.name) else [f"{above}{entry.name}/"]
            elif entry.is_file() and _is_image(above + entry.name, skipped):
                files.append(above + entry.name)

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
