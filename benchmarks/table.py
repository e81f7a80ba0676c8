"""Rows of results: their columns, and the file of this machine that they go into."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sslmem_utils import paths
from sslmem_utils.runs import tables

FOLDER = paths.RESULTS / "bench"
# What was measured: line, case, setting; what the number is: quantity, unit; the number: median and quartiles of n
# repetitions; the target of a ratio (NaN: none); which images; what a reader must know. Then where it comes from.
COLUMNS = ["line", "case", "setting", "quantity", "unit", "median", "low", "high", "n", "target", "images", "note"]
ORIGIN = ["commit", "measured"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How long to measure: repetitions of each comparison, and a factor on the work in each."""

    repeats: int = 5
    scale: float = 1.0

    def of(self, count: int) -> int:
        """`count` images or steps, scaled; at least 1."""
        return max(1, round(count * self.scale))


def row(line: str, case: str, quantity: str, unit: str, values: Sequence[float], **more: Any) -> Row:
    """One row: median and quartiles of `values`. `more`: setting, target, images, note."""
    low, median, high = np.percentile(list(values), [25, 50, 75]) if len(values) else [np.nan] * 3
    empty = {"setting": "", "target": np.nan, "images": "", "note": ""}
    numbers = {"median": float(median), "low": float(low), "high": float(high), "n": len(values)}
    return {"line": line, "case": case, "quantity": quantity, "unit": unit, **numbers, **empty, **more}


def compared(
    line: str, case: str, unit: str, ours: Sequence[float], usual: Sequence[float], target: float = np.nan, **more: Any
) -> list[Row]:
    """Three rows: our rate, the usual pipeline's, and the ratio of the paired repetitions."""
    ratios = [a / b for a, b in zip(ours, usual, strict=True)]
    return [
        row(line, case, "ratio", "x", ratios, target=target, **more),
        row(line, case, "ours", unit, ours, **more),
        row(line, case, "usual", unit, usual, **more),
    ]


def left_out(line: str, case: str, why: str, **more: Any) -> Row:
    """A row without a number that says why it is missing."""
    return row(line, case, "left out", "", [], note=" ".join(why.split())[:200], **more)


def machine() -> str:
    """A name for this kind of machine: its GPU, else its processor, and the cores."""
    about = tables.hardware()
    words = f"{about['gpu'] or about['cpu']} {about['cores']} cores".lower()
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(r\)|\(tm\)|@.*?ghz|processor|cpu", " ", words)).strip("-")


def facts() -> dict[str, Any]:
    """The sidecar: origin (versions, hardware, commit, date) and what decides speed beside it."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    about = {
        "amx": bool(capabilities.get("amx_bf16", False)),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": "1 a process; the usual pipeline's training 2, beside 2 loader workers",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    return {"table": "bench", "caption": "Speeds against the usual pipeline", **tables.origin(), **about}


def save(rows: Sequence[Row], folder: Path = FOLDER) -> Path:
    """Write the rows into this machine's table, in place of the older ones of the same lines; its path."""
    about, name = facts(), machine()
    new = pd.DataFrame(list(rows))[COLUMNS]
    new = new.assign(commit=about["commit"], measured=datetime.now(UTC).date().isoformat())
    if (folder / f"{name}.parquet").is_file():
        old, _ = tables.read(folder, name, "make bench")
        kept = old[~old["line"].isin(new["line"])]
        new = pd.concat([kept, new], ignore_index=True) if len(kept) else new
    tables.write(folder, name, new, about)
    return folder / f"{name}.parquet"
