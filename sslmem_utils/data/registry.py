"""The datasets known by name: what `data/registry.toml` says about each."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache

from .. import paths
from ..errors import DataError, SpecError


@dataclass(frozen=True)
class Entry:
    """One table of the registry; the fields are described at the top of the file itself."""

    name: str
    title: str
    reader: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    licence: str
    source: str
    citation: str
    download: int
    parts: dict[str, int] = field(default_factory=dict)
    images: int = 0
    torchvision: str = ""
    folder: str = ""
    system: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """All registry entries by name, in the order of the file."""
    places = [root / "data" / "registry.toml" for root in (paths.ROOT, paths.PACKAGE.parent)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(f"There is no dataset registry {places[0]}; run from the project's folder or set SSLMEM_ROOT.")
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: _entry(name, table) for name, table in tables.items()}


def _entry(name: str, table: dict) -> Entry:
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    if "parts" in frozen:
        frozen["images"] = sum(frozen["parts"].values())
    return Entry(name=name, **frozen)


def check_name(name: str) -> str:
    """The name if it can name a dataset (and its files on every file system); SpecError otherwise."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise SpecError(
            f"A dataset name is up to 64 lower-case letters, digits, '-' and '_', starting with a letter or digit; "
            f"found {name!r}."
        )
    return name


def unknown(name: str, imported: list[str]) -> SpecError:
    """The error for a name that is neither in the registry nor imported, with the closest names."""
    known = sorted({*entries(), *imported})
    close = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}."
    return SpecError(f"There is no dataset {name!r} (`sslmem data import {name} PATH` adds one); {hint}")
