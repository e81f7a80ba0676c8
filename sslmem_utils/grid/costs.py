"""How long jobs took: means of families of jobs, from which the time of a grid is told. Imports no torch."""

from __future__ import annotations

from typing import Any

from .. import batch, paths
from ..errors import StoreError
from ..runs import tables
from ..store import write_json
from .jobs import GridJob


class Costs:
    """Mean seconds of past jobs by family, kept in one small file; lost additions of a second driver do no harm."""

    def __init__(self) -> None:
        self.file = paths.BUILD / "grid" / "history.json"
        self.known = self._read()
        self.new: dict[str, list[Any]] = {}

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
        """Seconds of the family's mean, else of the same kind's; of a notebook as its profile says; None: unknown."""
        if (mean := self.mean(job)) is not None:
            return mean
        if job.kind == "notebook":
            minutes = batch.estimate(job.as_notebook()).minutes
            return None if minutes is None else 60 * minutes
        kin = [values for family, values in self.known.items() if family.startswith(f"{job.kind}/")]
        return sum(total for _, total in kin) / sum(count for count, _ in kin) if kin else None

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
