"""Results in one file, to hand on: tables with their sidecars, unpacked whole or not at all.

An archive (zip or tar.gz) holds `manifest.json` with the SHA-256 and size of every file, `results/NOTEBOOK/PROFILE/`
and `results/grids/PLAN/JOB/` with tables, sidecars and claims, and `store/KIND/KEY/` with artifacts of the store. Equal
contents make equal archives. Checksums find damage, not lies: take archives from people whose numbers you
would believe.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock

from . import batch, paths
from . import versions as result_versions
from .batch import export as publishing
from .errors import DataError, SpecError, StoreError
from .grid import jobs as grid_jobs
from .grid import state as grid_state
from .runs import parameters, tables
from .store import MANIFEST, STORED, Piece, Store, explained, sha256, write_atomic

RESULTS, STORE = "results", "store"
HELD = "in the store already"
GRIDS = "grids"  # folder below results/ of tables that grids made
_FORMAT = 1
_ENDINGS = (".zip", ".tar.gz")
_SAFE = re.compile(
    r"(results/[a-z0-9][a-z0-9_]*/[a-z0-9][a-z0-9_]*|results/grids/\w[\w-]*/[0-9a-f]{20}|store/[a-z]+/[0-9a-f]{16,64})"
    r"/[A-Za-z0-9]\w*\.(parquet|json|safetensors)",
    re.ASCII,
)
_MANIFEST_LIMIT, _PIECE = 2**26, 2**20  # bytes
_BROKEN = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, struct.error, EOFError),
    *(ValueError, RuntimeError, OverflowError, IndexError, OSError),
)


# ---------------------------------------------------------------- packing
def export(
    file: Path | None,
    profile: str,
    notebooks: list[str],
    grid: str = "",
    weights: bool = False,
    without_pictures: bool = False,
) -> list[str]:
    """Pack finished runs of a profile, or the finished jobs of a grid, into `file`; without one, put them in results/.

    Returns lines that say what was packed. `weights` adds the encoders that a grid trained. Raises SpecError for
    options that do not fit together, else as `batch.export` does.
    """
    if file is not None:
        _check_ending(file)
    if weights and (not grid or file is None):
        raise SpecError("weights go into a file with the grid that trained them; name both, FILE and --grid PLAN.")
    artifacts: list[Path] = []
    left = 0
    if grid:
        runs, artifacts, left = _of_grid(grid, weights)
    else:
        runs = publishing.finished(profile, notebooks)
    if file is None and not runs:
        raise SpecError(f"grid {grid} ran no notebooks, and results/ holds tables of notebooks only; name a FILE.")
    with publishing.staged(runs, without_pictures) as folders:
        if file is None:
            return publishing.publish(folders)
        packed = {"/".join((RESULTS, *place)): folder for place, folder in folders.items()}
        packed |= {f"{STORE}/{folder.parent.name}/{folder.name}": folder for folder in artifacts}
        pack(file, packed)
        lines = [f"{name}: {len(list(folder.iterdir()))} files" for name, folder in packed.items()]
    told = [f"{left} jobs of the grid have no result to pack; `sslmem status {grid}` says why"] if left else []
    return [*lines, *told, f"{file}: {len(packed)} folders, {file.stat().st_size / 1e6:.2f} MB"]


def export_store(file: Path, kind: str = "") -> list[str]:
    """Pack all whole artifacts of the store, or those of one kind, into `file`; what was packed, in lines by kind.

    Raises SpecError where there are none, StoreError for a damaged one.
    """
    _check_ending(file)
    store = Store()
    pieces = [piece for piece in store.pieces(kind) if piece.state == STORED]
    if not pieces:
        raise SpecError(f"there is nothing {f'of kind {kind!r} ' * bool(kind)}to pack in {store.root}; run a notebook.")
    for piece in pieces:
        if damage := store.damage(piece):
            raise StoreError(damage)
    pack(file, {f"{STORE}/{piece.kind}/{piece.key}": piece.path for piece in pieces})
    counts = Counter(piece.kind for piece in pieces)
    lines = [f"{name}: {number:,}" for name, number in sorted(counts.items())]
    return [*lines, f"{file}: {file.stat().st_size / 1e6:.2f} MB"]


def _check_ending(file: Path) -> None:
    if not file.name.endswith(_ENDINGS):
        raise SpecError(
            f"an archive is named {' or '.join('*' + end for end in _ENDINGS)}, found {file.name}; rename it."
        )


def _of_grid(name: str, weights: bool) -> tuple[dict[publishing.Place, batch.Job], list[Path], int]:
    """What the finished jobs of a grid left: runs of notebooks, folders of artifacts, every checksum right.

    And how many jobs have nothing to pack; encoders that were left out are none of these.
    """
    state, store = grid_state.load(name), Store()
    runs: dict[publishing.Place, batch.Job] = {}
    artifacts: list[Path] = []
    left = 0
    for job in state.jobs:
        if job.kind == "train" and not weights:
            continue
        record = grid_jobs.grid_folder(name) / "jobs" / job.id / "run" / batch.RECORD
        if job.kind == "notebook" and job.status in grid_state.DONE and record.is_file():
            facts = tables.read_json(record)
            source = paths.NOTEBOOKS / f"{facts['notebook']}.ipynb"
            run = batch.Job(facts["notebook"], source, facts["profile"], facts["params"], record.parent)
            runs[GRIDS, name, job.id] = run
        elif job.kind != "notebook" and (folder := store.get(grid_jobs.STORED[job.kind], job.id)) is not None:
            artifacts.append(folder)
        else:
            left += job.kind != "train"
    if not runs and not artifacts:
        raise SpecError(f"grid {name} has no finished tables to pack; run `{state.command}` first.")
    return runs, artifacts, left


def pack(file: Path, folders: Mapping[str, Path]) -> None:
    """Write the files of some folders into an archive, each folder under its name there; atomically."""
    found = {f"{name}/{path.name}": path for name, folder in folders.items() for path in folder.iterdir()}
    found = {name: found[name] for name in sorted(found)}
    listed = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in found.items()}
    head = (json.dumps({"format": _FORMAT, "files": listed}, indent=1, sort_keys=True) + "\n").encode()
    write = _write_zip if file.name.endswith(".zip") else _write_tar
    write_atomic(file, lambda temporary: write(temporary, head, found))


def _write_zip(file: Path, head: bytes, found: Mapping[str, Path]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_zip_info(MANIFEST), head)
        for name, path in found.items():
            with archive.open(_zip_info(name), "w", force_zip64=True) as target, path.open("rb") as source:
                shutil.copyfileobj(source, target, _PIECE)


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # of 1980, so that equal contents make equal archives
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return info


def _write_tar(file: Path, head: bytes, found: Mapping[str, Path]) -> None:
    def add(name: str, size: int, source: io.BufferedIOBase) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        archive.addfile(info, source)

    with (
        file.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        add(MANIFEST, len(head), io.BytesIO(head))
        for name, path in found.items():
            with path.open("rb") as source:
                add(name, path.stat().st_size, source)


# ---------------------------------------------------------------- unpacking
def import_results(file: Path, into: str = "") -> list[str]:
    """Put the contents of an archive where they belong: tables into results/, artifacts into the store.

    `into` takes only one of the two. Everything is unpacked and checked first: DataError for a file that is damaged,
    not listed, or named as nothing here is, and then nothing was changed. Results that were there are replaced,
    artifacts that were there are kept. Killed on the way, every folder is either as before or whole, and the same
    command goes on. Returns one line per folder.
    """
    if into not in ("", RESULTS, STORE):
        raise SpecError(f"results are imported into {RESULTS} or {STORE}, found {into!r}; choose one of them.")
    if not file.is_file():
        raise SpecError(
            f"there is no file {file}; name an archive that `sslmem results export` or `sslmem store export` made."
        )
    with _unpacked(file) as top:
        published = {_place(folder, top): folder for folder in _folders(top / RESULTS)} if into != STORE else {}
        given = Store(top / STORE)
        artifacts = {piece: _held(piece) for piece in given.pieces()} if into != RESULTS else {}
        if not published and not artifacts:
            raise SpecError(f"{file.name} holds nothing for {into or 'this project'}; leave out --into.")
        for place, folder in published.items():
            _check_tables(file, place, folder)
        for piece in artifacts:
            if damage := given.damage(piece):
                raise _refused(file, f"{piece.kind}/{piece.key} does not fit its own manifest ({damage.split(';')[0]})")
        stored = [_stored(piece, given, held) for piece, held in artifacts.items()]
        return [*_published(published), *stored]


def _held(piece: Piece) -> bool:
    """Whether the store has an artifact already. StoreError when it is damaged there."""
    return Store().get(piece.kind, piece.key) is not None


def _published(folders: Mapping[publishing.Place, Path]) -> list[str]:
    older = [
        any(result_versions.is_older(car["result_version"]) for car in tables.sidecars(folder).values())
        for folder in folders.values()
    ]
    lines = publishing.publish(folders) if folders else []
    return [line + ", older than the code" * old for line, old in zip(lines, older, strict=True)]


def _stored(piece: Piece, given: Store, held: bool) -> str:
    name = f"{piece.kind}/{piece.key}"
    if held:
        return f"{name}: {HELD}"

    def copy(folder: Path) -> None:
        for path in piece.path.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, folder / path.name)

    Store().compute(piece.kind, piece.key, copy, given.meta(piece.kind, piece.key))
    return f"{name}: stored, {piece.bytes / 1e6:.2f} MB"


def _folders(top: Path) -> list[Path]:
    """Folders that hold files, in order."""
    return sorted({path.parent for path in top.rglob("*") if path.is_file()})


def _place(folder: Path, top: Path) -> publishing.Place:
    return folder.relative_to(top / RESULTS).parts


def _check_tables(file: Path, place: publishing.Place, folder: Path) -> None:
    """Refuse tables without a sidecar that fits them, and files beside them that are none."""
    if place[0] != GRIDS and place[0] not in (known := batch.notebooks()):
        raise SpecError(f"{file.name} cannot be imported: {parameters.unknown('notebook', place[0], known)}")
    names = {path.stem for path in folder.glob("*.parquet")}
    where = "/".join((RESULTS, *place))
    if odd := [path.name for path in folder.iterdir() if path.stem not in names and path.name != tables.CLAIMS]:
        raise _refused(file, f"{where}/{odd[0]} belongs to no table")
    try:
        for name in names:
            car = tables.verified(folder / f"{name}.parquet")
            kinds = {"notebook": str, "profile": str, "result_version": str, "pictures": list, "params": dict}
            if not all(isinstance(car.get(key), kind) for key, kind in kinds.items()):
                raise KeyError
            if place[0] != GRIDS and (car["notebook"], car["profile"]) != place:
                raise KeyError
        if (folder / tables.CLAIMS).is_file():
            tables.read_claims(folder / tables.CLAIMS)
    except (OSError, StoreError, KeyError, TypeError, AttributeError):
        raise _refused(file, f"the tables in {where} do not fit their sidecars") from None


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """A folder with the contents of an archive, every name and checksum right. One import at a time unpacks."""
    top, lock = paths.BUILD / "importing", paths.BUILD / "locks" / "import.lock"
    with explained(paths.BUILD):
        lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        shutil.rmtree(top, ignore_errors=True)  # of an import that was killed
        try:
            with explained(top):
                top.mkdir()
            _unpack(file, top)
            yield top
        finally:
            shutil.rmtree(top, ignore_errors=True)


def _unpack(file: Path, top: Path) -> None:
    with _members(file) as members:
        names = [name for name, _ in members]
        if not names or names[0] != MANIFEST:
            raise _refused(file, f"it does not begin with {MANIFEST}")
        listed = _listed(file, members[0][1])
        if sorted(names[1:]) != sorted(listed):
            odd = sorted(set(names[1:]) ^ set(listed)) or ["a file that is there twice"]
            raise _refused(file, f"its files are not those that its manifest lists ({odd[0][:80]!r})")
        need, free = sum(size for size, _ in listed.values()), shutil.disk_usage(top).free
        if need > free:
            raise StoreError(
                f"{file.name} takes {need / 1e9:.1f} GB unpacked, and {top.parent} has {free / 1e9:.1f} GB free; "
                "make room or choose another folder (SSLMEM_BUILD)."
            )
        for name, opened in members[1:]:
            size, expected = listed[name]
            target = top.joinpath(*name.split("/"))
            with explained(top):
                target.parent.mkdir(parents=True, exist_ok=True)
            if _copy(file, opened, target, size) != expected:
                raise _refused(file, f"{name} does not match its checksum")


def _copy(file: Path, opened: Callable[[], io.BufferedIOBase], target: Path, size: int) -> str:
    """Copy at most a byte more than `size`; the SHA-256 of what was copied."""
    total, left = hashlib.sha256(), size + 1
    with _reading(file):
        source = opened()
    with explained(target.parent), target.open("wb") as out:
        while left:
            with _reading(file):
                piece = source.read(min(_PIECE, left))
            if not piece:
                break
            total.update(piece)
            out.write(piece)
            left -= len(piece)
    return total.hexdigest()


def _listed(file: Path, opened: Callable[[], io.BufferedIOBase]) -> dict[str, tuple[int, str]]:
    """Size and checksum of each file by its name, as the manifest says; every name is safe to write to."""
    with _reading(file):
        text = opened().read(_MANIFEST_LIMIT)
    try:
        found = json.loads(text)
        kind = found["format"]
        listed = {name: (int(one["bytes"]), str(one["sha256"])) for name, one in found["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise _refused(file, f"its {MANIFEST} cannot be read") from None
    if kind != _FORMAT:
        raise DataError(f"{file.name} has format {kind!r}, and this version reads {_FORMAT}; update the project.")
    for name, (size, _) in listed.items():
        if not _SAFE.fullmatch(name) or size < 0:
            raise _refused(file, f"{name[:80]!r} is no name of a table or artifact")
    return listed


@contextmanager
def _members(file: Path) -> Iterator[list[tuple[str, Callable[[], io.BufferedIOBase]]]]:
    """Names of the files in an archive and how to open each; folders are left out, links refused."""
    with ExitStack() as stack:
        with _reading(file):
            if zipfile.is_zipfile(file):
                zipped = stack.enter_context(zipfile.ZipFile(file))
                found = [(one.filename, partial(zipped.open, one)) for one in zipped.infolist() if not one.is_dir()]
            else:
                tar = stack.enter_context(tarfile.open(file, "r:gz"))
                members = [one for one in tar.getmembers() if not one.isdir()]
                if any(not one.isreg() for one in members):
                    raise ValueError("it holds a link or a device")
                found = [(one.name, partial(tar.extractfile, one)) for one in members]
        yield found


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Turn whatever a broken archive makes its reader raise into a DataError of one sentence."""
    try:
        yield
    except _BROKEN as error:
        words = (str(error).splitlines() or [""])[0].rstrip(".")[:100]
        raise _refused(file, words or type(error).__name__) from None


def _refused(file: Path, reason: str) -> DataError:
    return DataError(
        f"{file.name} is damaged or no archive of results: {reason}; nothing was imported, get the file once more."
    )
