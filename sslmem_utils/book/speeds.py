"""What `make bench` measured on every machine, as tables and rooflines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import figures, paths, runs
from ..runs import display, tables
from ..store import write_atomic
from .verdicts import cell

_COMPARED = {"ratio", "ours", "usual", "bound"}  # one row of the first table; all other quantities have their own
_FOLDED = {"peak", "achieved", "operations", "time"}


@dataclass(frozen=True)
class Machine:
    """What `make bench` measured on one machine (benchmarks/table.py has the columns)."""

    name: str
    about: dict[str, Any]
    rows: pd.DataFrame

    def text(self) -> str:
        """Where, then the ratios and the other numbers, as MyST tables."""
        of, about = self.rows, self.about
        what = ["line", "case", "setting"]
        found = of.pivot_table(index=what, columns="quantity", values="median", sort=False)
        head = ["line", "what", "ours", "usual", "**ratio** [quartiles]", "at the peak", "target", "met", "images"]
        lines = [head, ["---"] * len(head)]
        for row in of[of["quantity"] == "ratio"].to_dict("records"):
            numbers = found.loc[tuple(row[name] for name in what)]
            rates = [f"{_number(numbers[side])} {row['unit_of_rate']}" for side in ("ours", "usual")]
            ratio = f"**{_number(row['median'])}** [{_number(row['low'])}, {_number(row['high'])}]"
            bound = _number(numbers.get("bound", np.nan))
            aim = "" if pd.isna(row["target"]) else f"≥ {row['target']:g}"
            met = aim and ("yes" if row["median"] >= row["target"] else "no")
            text = _join(row["case"], row["setting"], row["note"])
            lines.append([row["line"], text, *rates, ratio, bound, aim, met, row["images"]])
        parts = [_table(lines)] if len(lines) > 2 else []
        rest = of[~of["quantity"].isin(_COMPARED)]
        for fold in (False, True):
            others: dict[tuple[str, str], list[str]] = {}
            for row in rest[rest["quantity"].isin(_FOLDED) == fold].to_dict("records"):
                spread = f" [{_number(row['low'])}, {_number(row['high'])}]" if row["n"] > 1 else ""
                value = f"{row['quantity']} {_number(row['median'])}{spread} {row['unit']}".replace("  ", " ").strip()
                text = _join(row["case"], row["setting"], row["note"], row["images"])
                others.setdefault((row["line"], text), []).append(value)
            if others:
                head = [["line", "what", "measured [quartiles]"], ["---"] * 3]
                shown = _table([*head, *([*key, "; ".join(values)] for key, values in others.items())])
                parts.append(f"::::{{dropdown}} More numbers\n{shown}\n::::" if fold else shown)
        where = f"{runs.machine(about)}, {about['instructions']}, {'' if about['amx'] else 'no '}AMX"
        days = (f"{day}, commit {', '.join(sorted(set(part)))}" for day, part in of.groupby("measured")["commit"])
        made = f"torch {about['versions']['torch']}; {'; '.join(days)}"
        return "\n\n".join([f"**{where}** ({made})", *parts, ""])


def machines(folder: Path | None = None) -> list[Machine]:
    """What was measured on every machine, by name; from `results/bench` unless another folder is named."""
    folder, found = folder or paths.RESULTS / "bench", []
    for path in sorted(folder.glob("*.parquet")):
        rows, about = tables.read(folder, path.stem, "make bench")
        rates = rows[rows["quantity"] == "ours"].set_index(["line", "case", "setting"])["unit"]
        keys = zip(rows["line"], rows["case"], rows["setting"], strict=True)
        found.append(Machine(path.stem, about, rows.assign(unit_of_rate=[rates.get(key, "") for key in keys])))
    return found


def benchmarks(found: Sequence[Machine], folder: Path, seen_from: Path) -> str:
    """The tables of every machine and its roofline, drawn into `folder`, as MyST for a page in `seen_from`."""
    parts = []
    for one in found:
        parts.append(one.text())
        rows = one.rows[one.rows["quantity"].isin(["peak", "achieved"])]
        if rows.groupby(rows["setting"].str.split(", ").str[-1])["quantity"].nunique().eq(2).any():
            figure = figures.roofline(rows)
            path = folder / f"{one.name}.svg"
            write_atomic(path, lambda file, figure=figure: file.write_text(figures.to_svg(figure), encoding="utf-8"))
            options = f":name: fig-roofline-{one.name}\n:alt: {figures.alt(figure)}\n:class: {display.DARK_LIGHT}"
            chip = one.about["hardware"]["gpu"] or one.about["hardware"]["cpu"]
            caption = f"{chip}: measured peaks of matrix products, and what training reaches of them."
            parts.append(f"```{{figure}} {os.path.relpath(path, seen_from)}\n{options}\n\n{caption}\n```\n")
    return "\n".join(parts) or "Nothing was measured yet: run `make bench`."


def _number(value: float) -> str:
    """Three significant digits, thousands apart; nothing for NaN."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _join(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _table(lines: Sequence[Sequence[str]]) -> str:
    rows = "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
    return f":::{{div}} sslmem-scroll sslmem-scorecard\n{rows}\n:::"
