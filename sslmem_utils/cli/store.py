"""`sslmem store`: what is kept under content addresses, whether it is whole, and what may go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SpecError, StoreError
from ..store import STORED, InUse, Piece, Store

Kind = Annotated[str, typer.Option(metavar="KIND", help="only these: encoders, alignments, ...")]


def store_list(kind: Kind = "") -> None:
    """List artifacts, checkpoints and leftovers with sizes and ages."""
    from ..runs.display import aligned

    pieces = _pieces(kind)
    rows = [("kind", "key", "state", "size", "age", "what"), *((*_row(piece), _what(piece)) for piece in pieces)]
    print(aligned(rows) if pieces else "The store is empty.")
    if pieces:
        print("\n" + "\n".join(_totals(pieces)))


def store_show(key: Annotated[str, typer.Argument(help="key, KIND/KEY, or the beginning of a key")]) -> None:
    """Show one artifact: its files, what it was made from, whether it is whole."""
    from ..runs.display import aligned

    store, piece = Store(), _one(key)
    damage = store.damage(piece)
    rows = [("kind:", piece.kind), ("key:", piece.key), ("folder:", str(piece.path)), ("stored:", f"{_age(piece)} ago")]
    rows += [(f"{file.name}:", _size(file.stat().st_size)) for file in sorted(piece.path.iterdir())]
    print(aligned([*rows, ("checksums:", "wrong" if damage else "right")]))
    if damage:
        raise StoreError(damage)
    print(json.dumps(store.meta(piece.kind, piece.key), indent=2))


def store_verify(kind: Kind = "") -> None:
    """Compare every file with its checksum."""
    store = Store()
    pieces = _pieces(kind)
    stored = [piece for piece in pieces if piece.state == STORED]
    damaged = 0
    for piece in stored:
        if damage := store.damage(piece):
            damaged += 1
            print(f"damaged: {damage}", flush=True)
    left = len(pieces) - len(stored)
    print(
        f"{_count(len(stored), 'artifact')}, {_size(sum(piece.bytes for piece in stored))}: {damaged or 'none'} damaged"
        + (f"; {_count(left, 'checkpoint or leftover', 'checkpoints and leftovers')} beside them" if left else "")
    )
    if damaged:
        raise StoreError(
            f"{damaged} of {_count(len(stored), 'artifact')} in {store.root} "
            f"{'is' if damaged == 1 else 'are'} damaged; `sslmem store prune` removes what is, to be computed again."
        )


def store_prune(
    older: Annotated[float | None, typer.Option(min=0, metavar="DAYS", help="also whole ones stored before")] = None,
    kind: Kind = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
) -> None:
    """Remove what is damaged, unfinished or old; never what a running process holds."""
    store, gone, freed = Store(), 0, 0
    for piece in _pieces(kind):
        reason, held = store.surplus(piece, older), False
        if not reason:
            continue
        try:
            held = store.in_use(piece.kind, piece.key)
            if not (held or dry_run):
                reason = store.prune(piece, older)
        except InUse:  # taken since
            held = True
        if not reason:  # computed anew since
            continue
        gone, freed = gone + (not held), freed + piece.bytes * (not held)
        print("  ".join([*_row(piece), reason + ", kept: a running process holds it" * held]), flush=True)
    print(f"{_count(gone, 'piece')}, {_size(freed)} {'would be ' * dry_run}removed")


def store_export(
    file: Annotated[Path, typer.Argument(help="write an archive, .zip or .tar.gz")], kind: Kind = ""
) -> None:
    """Pack the store into one file, for those who are not to train again."""
    from .. import sharing

    print("\n".join(sharing.export_store(file, kind)))


def store_import(file: Annotated[Path, typer.Argument(help="archive that `sslmem store export` made")]) -> None:
    """Unpack artifacts into the store, after checking every name and checksum."""
    from .. import sharing

    lines = sharing.import_results(file, sharing.STORE)
    held = sum(line.endswith(sharing.HELD) for line in lines)
    print(f"{_count(len(lines) - held, 'artifact')} stored in {Store().root}, {held:,} were there")


def _pieces(kind: str) -> list[Piece]:
    """Pieces of one kind or all; SpecError for a kind of which there is none."""
    from ..runs.parameters import unknown

    pieces = Store().pieces()
    known = sorted({piece.kind for piece in pieces})
    if kind and kind not in known:
        raise SpecError(unknown("kind", kind, known) if known else f"the store holds nothing of kind {kind!r}.")
    return [piece for piece in pieces if kind in ("", piece.kind)]


def _one(key: str) -> Piece:
    """The artifact that a key or its beginning names."""
    kind, _, start = key.rpartition("/")
    pieces = [piece for piece in Store().pieces(kind) if piece.state == STORED and piece.key.startswith(start)]
    exact = [piece for piece in pieces if piece.key == start]
    if len(exact) == 1 or len(pieces) == 1:
        return (exact or pieces)[0]
    found = ", ".join(f"{piece.kind}/{piece.key}" for piece in pieces[:3])
    raise SpecError(
        f"{key!r} names {len(pieces)} artifacts ({found}, ...); write more of the key."
        if pieces
        else f"there is no artifact {key!r} in {Store().root}; `sslmem store list` names all."
    )


def _row(piece: Piece) -> tuple[str, ...]:
    return piece.kind, piece.key, piece.state, _size(piece.bytes), _age(piece)


def _what(piece: Piece) -> str:
    """A few words on what an artifact was made from; empty where nothing tells."""
    try:
        meta = Store().meta(piece.kind, piece.key)
        if "label" in meta:
            return str(meta["label"])
        if "encoder" in meta:
            return f"of encoder {meta['encoder']}"
        spec = meta["spec"]
        names = (spec["dataset"]["name"], spec["method"]["name"], spec["encoder"]["name"])
        return " ".join(names) + f" seed={spec['seed']}"
    except (StoreError, KeyError, TypeError):
        return ""


def _totals(pieces: list[Piece]) -> list[str]:
    """One line per kind, then all."""
    kinds = {piece.kind: [one for one in pieces if one.kind == piece.kind] for piece in pieces}
    lines = [f"{kind}: {len(some)}, {_size(sum(one.bytes for one in some))}" for kind, some in kinds.items()]
    return [*lines, f"in all: {len(pieces)}, {_size(sum(piece.bytes for piece in pieces))} in {Store().root}"]


def _size(number: int) -> str:
    """Bytes in the unit that reads best."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= bytes_:
            return f"{number / bytes_:.1f} {unit}"
    return f"{number} B"


def _age(piece: Piece) -> str:
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60)):
        if piece.age >= seconds:
            return f"{piece.age / seconds:.0f} {unit}"
    return f"{piece.age:.0f} s"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
