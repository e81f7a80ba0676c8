"""Published score tables: `results/scores/DATASET/NAME.parquet`, each beside a JSON sidecar with its checksum."""

from __future__ import annotations

import json
from difflib import get_close_matches

import pandas as pd

from .. import paths
from ..errors import DataError, SpecError
from ..scoring import COLUMNS
from ..store import sha256


def load_scores(name: str) -> pd.DataFrame:
    """A published table by its short name, `cifar10/simclr-cnn` say, with the official indices of its dataset.

    Columns of a score table, or `index, label, set, align, se_views` of one encoder's alignments; `attrs` holds the
    sidecar (setting, versions, what the encoders are). SpecError for an unknown name, DataError for a damaged table.
    """
    root = paths.RESULTS / "scores"
    known = sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/[!.]*.parquet"))
    if name not in known:
        close = get_close_matches(name, known, n=3, cutoff=0.4) or known
        there = f"there are {', '.join(close)}" if known else f"there are none in {root}"
        raise SpecError(
            f"no scores are published as {name!r}; {there} (`sslmem score --out` writes such a table with its sidecar)."
        )
    path = root / f"{name}.parquet"
    try:
        sidecar = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        expected = sidecar["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path} has no readable sidecar .json; restore both from version control.") from None
    if sha256(path) != expected:
        raise DataError(f"{path} does not match the checksum in its sidecar; restore both from version control.")
    table = pd.read_parquet(path)
    if missing := [column for column in _needed(table) if column not in table]:
        raise DataError(f"{path} lacks the columns {', '.join(missing)} of a table of scores; write it again.")
    table.attrs = sidecar
    return table


def _needed(table: pd.DataFrame) -> list[str]:
    return ["index", "label", "set", "align", "se_views"] if "align" in table else COLUMNS
