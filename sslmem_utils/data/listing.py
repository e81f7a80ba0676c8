"""What datasets there are, without reading one."""

from __future__ import annotations

from ..errors import DataError
from . import cache, registry, sources


def catalogue() -> list[dict]:
    """Registry datasets, then imported ones, each with `found`: whether it loads without a download.

    Keys: name, title, shape [c, h, w], images, parts {name: images}, classes (how many), licence, source, found, where,
    fingerprint ("" before the first load). A damaged one is listed with what is wrong with it in `where`.
    """
    known = registry.entries()
    names = [*known, *(name for name in cache.names() if name not in known)]
    return [_row(name, known.get(name)) for name in names]


def _row(name: str, entry: registry.Entry | None) -> dict:
    try:
        meta = cache.describe(name)
    except DataError as error:
        return _about(name, entry) | {"found": False, "where": str(error)}
    if meta is None:
        where = sources.found(entry) if entry else ""
        return _about(name, entry) | {
            "found": bool(where),
            "where": where or f"{entry.download} MB to download" if entry else "",
        }
    return {
        "name": name,
        "title": meta["title"],
        "shape": meta["shape"],
        "images": meta["images"],
        "parts": {part: stop - start for part, (start, stop) in meta["parts"].items()},
        "classes": len(meta["classes"]),
        "licence": meta["licence"],
        "source": meta["source"],
        "found": True,
        "where": f"imported from {meta['source']}" if meta["import"] else "cached",
        "fingerprint": meta["fingerprint"],
    }


def _about(name: str, entry: registry.Entry | None) -> dict:
    return {
        "name": name,
        "title": entry.title if entry else "",
        "shape": list(entry.shape) if entry else [],
        "images": entry.images if entry else 0,
        "parts": dict(entry.parts) if entry else {},
        "classes": len(entry.classes) if entry else 0,
        "licence": entry.licence if entry else "",
        "source": entry.source if entry else "",
        "fingerprint": "",
    }
