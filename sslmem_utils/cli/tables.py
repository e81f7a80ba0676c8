"""Tables of scores as files: written beside a sidecar that says what made them, and read again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, SpecError

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".parquet")


def check_ending(path: Path, known: tuple[str, ...] = ENDINGS) -> None:
    """SpecError, before anything is computed, for a file of a kind that is not written."""
    if path.suffix not in known:
        raise SpecError(f"the file is written as {' or '.join(known)}, found {path.name!r}; change the ending.")


def write_scores(table: pd.DataFrame, out: Path) -> None:
    """The table beside a JSON sidecar of its `attrs` (settings, notes) and origin, as `load_scores` reads it."""
    from ..runs import tables
    from ..store import sha256, write_atomic, write_json

    facts = {**tables.origin(), "settings": table.attrs["settings"], "notes": table.attrs["notes"]}
    if out.suffix == ".parquet":
        tables.write(out.parent, out.stem, table, facts)
        return
    write_atomic(out, lambda file: table.to_csv(file, index=False))
    sidecar = {**facts, "rows": len(table), "columns": list(table.columns), "sha256": sha256(out)}
    write_json(out.with_suffix(tables.SIDECAR), sidecar)


def read_scores(path: Path) -> pd.DataFrame:
    """A table of scores with its sidecar, when it has one, as `attrs`; DataError when it cannot be read."""
    import pandas as pd

    from ..runs import tables

    if path.suffix not in ENDINGS:
        raise SpecError(f"scores are read from {' or '.join(ENDINGS)}, found {path.name!r}; write them so.")
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error).strip().splitlines()[0]
        raise DataError(
            f"the scores {path} cannot be read ({reason}); write them with `sslmem score` or `sslmem train`."
        ) from None
    sidecar = path.with_suffix(tables.SIDECAR)
    table.attrs = tables.read_json(sidecar) if sidecar.is_file() else {}
    return table
