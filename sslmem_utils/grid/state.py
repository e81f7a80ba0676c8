"""What a grid's driver knows of its jobs, kept in one file that other processes read. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import paths
from ..errors import RunError, StoreError
from ..runs import parameters, tables
from ..store import explained, write_json
from .jobs import grid_folder

STATE = "state.json"
DONE = ("done", "cached")
ENDED = (*DONE, "failed", "skipped")  # the other statuses are waiting and running


@dataclass
class JobState:
    """One job as its driver sees it.

    `status`: waiting, running, done, cached, failed or skipped. `attempts`: times it was started. `seconds`: it took,
    or has been running so far. `expected_seconds`: as past runs of its family took, None when there are none.
    `worker`: host:pid. `device`: CUDA_VISIBLE_DEVICES of the worker. `message`: the error's last line. `verdicts`: of a
    notebook's claims. `folder`: holds report.json, log.txt and, of a notebook, run/executed.ipynb or run/failed.ipynb.
    """

    id: str
    kind: str
    label: str
    params: dict[str, Any]
    needs: list[str]
    folder: str
    status: str = "waiting"
    attempts: int = 0
    seconds: float = 0.0
    memory_mb: float = 0.0
    worker: str = ""
    device: str = ""
    message: str = ""
    verdicts: dict[str, int] = field(default_factory=dict)
    expected_seconds: float | None = None


@dataclass
class GridState:
    """One grid: who runs it since when, and all its jobs. Times are ISO texts in UTC; `finished` is None until then.

    `seconds` from the start to `updated`, told by a clock that does not jump.
    """

    plan: str
    engine: str
    slots: int
    started: str
    updated: str
    finished: str | None
    pid: int
    host: str
    command: str
    jobs: list[JobState]
    seconds: float = 0.0

    def counts(self) -> dict[str, int]:
        """How many jobs have each status, those that occur."""
        found: dict[str, int] = {}
        for job in self.jobs:
            found[job.status] = found.get(job.status, 0) + 1
        return found


def now() -> str:
    """The time as ISO text, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def driver_lock(plan: str) -> FileLock:
    """Held by the driver that writes the state of a plan."""
    folder = grid_folder(plan)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".driver.lock")


def save(state: GridState) -> None:
    """Write the state where `load` finds it, in one step; to be called under `driver_lock`."""
    folder = grid_folder(state.plan)
    for left in folder.glob(f".{STATE}.*"):  # of a driver that was killed
        left.unlink(missing_ok=True)
    write_json(folder / STATE, asdict(state))


def load(name: str) -> GridState:
    """The last known state of a plan's grid. RunError when it was never run here, StoreError when it is damaged."""
    file = grid_folder(name) / STATE
    if not file.is_file():
        raise RunError(f"{parameters.unknown('grid', name, names())} Start one with `sslmem grid PLAN.yaml`.")
    try:
        values = tables.read_json(file)
        return GridState(**{**values, "jobs": [JobState(**job) for job in values["jobs"]]})
    except (TypeError, KeyError, StoreError):
        raise StoreError(f"{tables.shown(file)} is damaged; `sslmem grid` with the same plan writes it anew.") from None


def names() -> list[str]:
    """Plans that were run here, the newest first."""
    found: list[Path] = [file for file in (paths.BUILD / "grid").glob(f"*/{STATE}") if file.is_file()]
    return [file.parent.name for file in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)]


def latest() -> str:
    """The plan that was run last. RunError when there is none."""
    found = names()
    if not found:
        raise RunError("no grid was run here; start one with `sslmem grid PLAN.yaml`.")
    return found[0]


def is_running(state: GridState) -> bool:
    """Whether the driver that wrote this state is still at work; of a killed one it is not."""
    if state.finished is not None:
        return False
    lock = driver_lock(state.plan)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def eta_seconds(state: GridState) -> float | None:
    """Seconds until the last job ends with all slots busy; None while nothing tells how long those left take."""
    left, longest = 0.0, 0.0
    for job in state.jobs:
        if job.status in ENDED:
            continue
        expected = job.expected_seconds
        if expected is None:
            known = [one.seconds for one in state.jobs if one.status == "done" and one.kind == job.kind]
            if not known:
                return None
            expected = sum(known) / len(known)
        rest = max(0.0, expected - (job.seconds if job.status == "running" else 0.0))
        left, longest = left + rest, max(longest, rest)
    return max(longest, left / max(1, state.slots))
