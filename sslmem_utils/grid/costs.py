"""How long jobs took: means of families of jobs, from which the time of a grid is told. Imports no torch.

The family of a computation is named KIND/DATASET/ENCODER/DEVICE/METHOD/AMOUNT; those that differ in the method and in
the amount of work only are its kin.
"""

from __future__ import annotations

import math
from typing import Any

from .. import batch, paths
from ..errors import StoreError
from ..runs import tables
from ..store import write_json
from .jobs import GridJob

_ALIKE = 10.0  # amounts of work that differ by more tell nothing of each other: what each start takes counts too


class Costs:
    """Mean seconds of past jobs by family, kept in one small file; lost additions of a second driver do no harm."""

    def __init__(self) -> None:
        self.file = paths.BUILD / "grid" / "history.json"
        self.known = self._read()
        self.new: dict[str, list[Any]] = {}
        self.kin: dict[str, list[tuple[int, float]]] = {}  # amounts of work, mean seconds
        for family, (count, total) in self.known.items():
            kin, amount = _kin(family)
            if amount:
                self.kin.setdefault(kin, []).append((amount, total / count))

    def _read(self) -> dict[str, list[Any]]:
        try:
            found = tables.read_json(self.file) if self.file.is_file() else {}
        except (StoreError, OSError):
            return {}
        known = found.items() if isinstance(found, dict) else ()
        return {family: one for family, one in known if isinstance(one, list) and len(one) == 2 and one[0]}

    def add(self, job: GridJob, seconds: float) -> None:
        """One more job of a family took so long."""
        for costs in (self.new, self.known):
            count, total = costs.get(job.family, (0, 0.0))
            costs[job.family] = [count + 1, total + seconds]

    def mean(self, job: GridJob) -> float | None:
        """Mean seconds of the job's family; None: unknown."""
        count, total = self.known.get(job.family, (0, 0.0))
        return total / count if count else None

    def expected(self, job: GridJob) -> float | None:
        """Seconds of the family's mean; else of a notebook as its profile says, of a computation as of its nearest kin.

        None: unknown.
        """
        if (mean := self.mean(job)) is not None:
            return mean
        if job.kind == "notebook":
            minutes = batch.estimate(job.as_notebook()).minutes
            return None if minutes is None else 60 * minutes
        kin, amount = _kin(job.family)
        ratios = [(amount / known, seconds) for known, seconds in self.kin.get(kin, ())]
        ratio, seconds = min(ratios, key=lambda one: abs(math.log(one[0])), default=(math.inf, 0.0))
        return ratio * seconds if 1 / _ALIKE <= ratio <= _ALIKE else None

    def save(self) -> None:
        """Add what is new to the file."""
        if not self.new:
            return
        found = self._read()
        for family, (count, total) in self.new.items():
            before = found.get(family, (0, 0.0))
            found[family] = [before[0] + count, before[1] + total]
        write_json(self.file, found)
        self.known, self.new = found, {}


def _kin(family: str) -> tuple[str, int]:
    """What a family shares with its kin, and its amount of work; 0: it is not told, as of a notebook."""
    *kin, _, amount = ["", *family.split("/")]
    return "/".join(kin), int(amount) if len(kin) == 5 and amount.isdigit() else 0
