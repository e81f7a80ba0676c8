"""One job of a grid: what it computes, what it needs, where it leaves its traces. Imports no torch.

The result of a computation is an artifact of the store under the job's id, so that plans, drivers and machines that
share a store share it. A notebook's tables stay in the job's folder. A job is done when its result is there and intact.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import batch, paths
from ..errors import StoreError
from ..store import Store

STORED = {"train": "encoders", "score": "scores", "probe": "probes"}  # kind of artifact that a computation leaves
REPORT, LOG = "report.json", "log.txt"


def grid_folder(plan: str) -> Path:
    """Where the grid of a plan keeps its state, its report and the folders of its jobs."""
    return paths.BUILD / "grid" / plan


@dataclass(frozen=True)
class GridJob:
    """One notebook or one computation with all its parameters; travels to workers as text.

    `id`: 20 hexadecimal digits, hash of what is computed. `kind`: notebook, train, score or probe. `family`: jobs that
    take about equally long (see `costs`). `needs`: ids of jobs that come first. `wanted`: named by the plan, not only
    needed by another job. `minutes`: time allowed (None: any).
    """

    plan: str
    id: str
    kind: str
    label: str
    params: dict[str, Any]
    family: str
    needs: tuple[str, ...] = ()
    notebook: str = ""
    wanted: bool = True
    minutes: float | None = field(default=None, compare=False)

    @property
    def folder(self) -> Path:
        """Holds report.json and log.txt; a notebook's outputs lie in `run` inside it."""
        return grid_folder(self.plan) / "jobs" / self.id

    @property
    def outputs(self) -> Path:
        """Where a notebook leaves executed.ipynb or failed.ipynb, tables and claims."""
        return self.folder / "run"

    def canonical(self) -> str:
        """The job as one line of JSON; `from_json` is the inverse."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    def as_notebook(self) -> batch.Job:
        """The notebook run that this job stands for."""
        path = paths.NOTEBOOKS / f"{self.notebook}.ipynb"
        return batch.Job(self.notebook, path, self.params["profile"], self.params, self.outputs)


def from_json(text: str) -> GridJob:
    """The job that `canonical` wrote."""
    values = json.loads(text)
    return GridJob(**{**values, "needs": tuple(values["needs"])})


def is_done(job: GridJob, store: Store | None = None) -> bool:
    """Whether the job's result is there, with every checksum right; a damaged one is to be computed again."""
    try:
        if job.kind == "notebook":
            return batch.is_finished(job.as_notebook())
        return (store or Store()).get(STORED[job.kind], job.id) is not None
    except StoreError:
        return False
