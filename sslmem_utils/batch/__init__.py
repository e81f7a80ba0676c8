"""Batch runs: execute notebooks through papermill, resume finished ones, render pages from committed results.

    from sslmem_utils import batch
    outcomes = batch.run(batch.plan(["03"], "quick", ["seeds=1,2,3"]))
    page = batch.render("03_four_sets", "quick")

A computed notebook becomes `_build/runs/PROFILE/NOTEBOOK/executed.ipynb` beside its tables and claims. It is executed
again unless everything it depends on (its source, parameters, this package, the main libraries) is as it was and its
outputs are intact. Committed results are never served in its place.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import paths, runs
from ..errors import RunError, SSLMemError
from ..runs import display, tables
from ..store import explained, write_json
from . import kernel
from .planning import (
    BEST_FIRST,
    Estimate,
    Job,
    canonical,
    committed_profiles,
    cost_key,
    estimate,
    history,
    history_file,
    notebooks,
    plan,
    profiles,
    rendering_digest,
    rendering_job,
    run_digest,
    select,
)
from .progress import Progress, following

__all__ = [
    "BEST_FIRST",
    "Estimate",
    "Job",
    "Outcome",
    "committed_profiles",
    "estimate",
    "execute",
    "executed",
    "forecast",
    "notebooks",
    "plan",
    "profiles",
    "render",
    "render_all",
    "run",
    "select",
    "summary",
]

RECORD = "run.json"
EXECUTED = "executed.ipynb"


@dataclass
class Outcome:
    """What became of a job: `ok`, `cached` or `failed`, with time, memory, verdicts and the error's last line."""

    job: Job
    status: str
    seconds: float = 0.0
    memory_mb: float = 0.0
    verdicts: dict[str, int] = field(default_factory=dict)
    message: str = ""


def run(
    jobs: Sequence[Job],
    force: bool = False,
    minutes: float | None = None,
    say: Callable[[str], None] | None = None,
    together: int = 1,
) -> list[Outcome]:
    """Execute jobs, `together` at a time; a failure does not stop the others.

    Each trains with its share of the cores. Of several at a time the longest start first, so that none is left to run
    alone at the end. `force` executes finished ones too; `minutes` is the time allowed to each.
    """
    say = say or (lambda text: print(text, file=sys.stderr, flush=True))
    limits = kernel.Limits(minutes, max(1, paths.jobs() // together) if together > 1 else None)
    usages = [kernel.Usage() for _ in jobs]

    def one(number: int, job: Job, usage: kernel.Usage) -> Outcome:
        where = f"[{number}/{len(jobs)}] {job.notebook}"
        if not force and is_finished(job):
            say(f"{where}: done before, nothing has changed")
            return Outcome(job, "cached", verdicts=verdicts(job))
        say(f"{where} ({job.profile}) ...")
        outcome = _run_one(job, True, limits, usage)
        say(f"{where}: {outcome.status} in {runs.duration(outcome.seconds)} {outcome.message}".rstrip())
        return outcome

    with ThreadPoolExecutor(together) as pool:
        futures = {at: pool.submit(one, at + 1, jobs[at], usages[at]) for at in _order(jobs, together)}
        try:
            return [futures[at].result() for at in range(len(jobs))]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for usage in usages:
                usage.stop()
            raise


def _order(jobs: Sequence[Job], together: int) -> list[int]:
    """In which order jobs start: as given one at a time, else the longest first."""
    if together == 1:
        return list(range(len(jobs)))
    return sorted(range(len(jobs)), key=lambda at: -(estimate(jobs[at]).minutes or 0))


def _run_one(job: Job, forked: bool, limits: kernel.Limits, usage: kernel.Usage) -> Outcome:
    began = time.monotonic()
    try:
        return execute(job, following(job.notebook), limits, usage, forked)
    except SSLMemError as error:
        return Outcome(job, "failed", time.monotonic() - began, message=str(error))


def execute(
    job: Job,
    progress: Progress,
    limits: kernel.Limits | None = None,
    usage: kernel.Usage | None = None,
    forked: bool = False,
) -> Outcome:
    """Execute one job, finished or not. RunError when it fails: `kernel.Killed`, `kernel.TooLong` or another.

    `usage` tells what it used, also when it fails. With `forked` its kernel comes from a process, kept for others, that
    has imported what it needs.
    """
    began, usage = time.monotonic(), usage or kernel.Usage()
    digest = run_digest(job)  # before it runs: a source edited meanwhile must not pass as executed
    with _alone(job), _earlier_kept(job), progress:
        limited = {"limits": limits, "usage": usage, "forked": forked}
        kernel.execute(job.path, job.folder / EXECUTED, job.params, progress, **limited)
        _check_outputs(job)
        seconds = time.monotonic() - began
        _record(job, digest, seconds, usage.memory_mb)
    return Outcome(job, "ok", seconds, usage.memory_mb, verdicts(job))


@contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Hold the right to write a job's folder."""
    with explained(job.lock.parent):
        job.lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"another run of {job.notebook} with profile {job.profile} is under way; wait for it.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _earlier_kept(job: Job) -> Iterator[None]:
    """Run in an empty folder; the finished run that was there comes back when this one fails, beside `failed.ipynb`."""
    kept = job.kept
    with explained(job.folder):
        if kept.is_dir() and record(job) is None:  # a run was killed here
            shutil.rmtree(job.folder, ignore_errors=True)
            kept.rename(job.folder)
        if record(job) is not None:
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            job.folder.rename(kept)
        else:
            shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        if kept.is_dir():
            for name in ("failed.ipynb", "kernel.log"):
                if (job.folder / name).is_file():
                    os.replace(job.folder / name, kept / name)
            shutil.rmtree(job.folder, ignore_errors=True)
            kept.rename(job.folder)
        raise
    shutil.rmtree(kept, ignore_errors=True)


def _check_outputs(job: Job) -> None:
    if not list(job.folder.glob("*.parquet")):
        raise RunError(
            f"it made no table in {tables.shown(job.folder)}; does it say "
            f'runs.start("{job.notebook}", globals()) and make its tables with run.table?'
        )


def _record(job: Job, digest: str, seconds: float, memory_mb: float) -> None:
    record = {
        "notebook": job.notebook,
        "profile": job.profile,
        "params": job.params,
        "digest": digest,
        "seconds": round(seconds, 1),
        "memory_mb": round(memory_mb),
        "data": data_of(job),  # after the run: a dataset has a fingerprint once it was loaded
        "files": {name: tables.sha256(job.folder / name) for name in _outputs(job)},
        "tables": {name: car["sha256"] for name, car in tables.sidecars(job.folder).items()},
    }
    write_json(job.folder / RECORD, record)
    costs, name = history(), cost_key(job)
    if seconds >= costs.get(name, {}).get("seconds", 0):  # a resumed run is short; the longest tells the whole cost
        write_json(history_file(), {**costs, name: {key: record[key] for key in ("seconds", "memory_mb")}})


def record(job: Job) -> dict[str, Any] | None:
    """What was written down when the job's last execution finished; None when there is no finished one."""
    file = job.folder / RECORD
    return tables.read_json(file) if file.is_file() and (job.folder / EXECUTED).is_file() else None


def is_finished(job: Job) -> bool:
    """Whether a finished run of exactly this job has its outputs intact."""
    found = record(job)
    if found is None or found["digest"] != run_digest(job) or found.get("data") != data_of(job):
        return False
    files = {job.folder / name: sha256 for name, sha256 in found.get("files", {EXECUTED: ""}).items()}
    if any(not file.is_file() or tables.sha256(file) != sha256 for file, sha256 in files.items()):
        return False
    return all(_intact(job.folder / f"{name}.parquet", sha256) for name, sha256 in found["tables"].items())


def _outputs(job: Job) -> list[str]:
    """What a run leaves beside its tables."""
    return [name for name in (EXECUTED, tables.CLAIMS) if (job.folder / name).is_file()]


def data_of(job: Job) -> dict[str, str]:
    """Fingerprints of the datasets that a job's parameters `dataset` and `datasets` name."""
    from .. import data

    one, several = job.params.get("dataset"), job.params.get("datasets")
    names = {name for name in (one, *(several or [])) if isinstance(name, str)}
    return {row["name"]: row["fingerprint"] for row in data.catalogue() if row["name"] in names} if names else {}


def _intact(path: Path, sha256: str) -> bool:
    return path.is_file() and path.with_suffix(tables.SIDECAR).is_file() and tables.sha256(path) == sha256


def executed(notebook: str, profile: str) -> Path | None:
    """The executed copy of a finished run on this machine, if there is one."""
    job = Job(notebook, paths.NOTEBOOKS / f"{notebook}.ipynb", profile, {})
    return job.folder / EXECUTED if record(job) else None


def verdicts(job: Job) -> dict[str, int]:
    """How many claims of a run have each verdict."""
    file = job.folder / tables.CLAIMS
    counts: dict[str, int] = {}
    for claim in tables.read_claims(file)[1] if file.is_file() else []:
        counts[claim["verdict"]] = counts.get(claim["verdict"], 0) + 1
    return counts


def summary(outcomes: Sequence[Outcome]) -> str:
    """The table printed at the end: notebook, result, time, memory, verdicts or the error."""
    rows = [("notebook", "result", "time", "memory", "claims")]
    for outcome in outcomes:
        claims = ", ".join(f"{count} {verdict}" for verdict, count in sorted(outcome.verdicts.items()))
        time_ = "" if outcome.status == "cached" else runs.duration(outcome.seconds)
        memory = f"{outcome.memory_mb / 1024:.1f} GB" if outcome.status == "ok" else ""
        rows.append((outcome.job.notebook, outcome.status, time_, memory, outcome.message or claims))
    return display.aligned(rows)


def forecast(jobs: Sequence[Job], force: bool = False, together: int = 1) -> str:
    """What a run would take: minutes and memory per notebook and in all, before anything starts."""
    rows: dict[int, tuple[str, ...]] = {-1: ("notebook", "profile", "minutes", "memory", "from", "parameters")}
    ends, most = [0.0] * together, []
    for at in _order(jobs, together):
        job = jobs[at]
        if not force and is_finished(job):
            rows[at] = (job.notebook, job.profile, "0", "", "done before", canonical(job.params))
            continue
        cost = estimate(job)
        ends[ends.index(min(ends))] += cost.minutes or 0
        most.append(cost.gigabytes or 0)
        minutes, memory = (f"{value:.1f}" if value is not None else "?" for value in (cost.minutes, cost.gigabytes))
        rows[at] = (job.notebook, job.profile, minutes, f"{memory} GB", cost.basis, canonical(job.params))
    unknown = ", and those marked ?" if any(row[2] == "?" for row in rows.values()) else ""
    memory = sum(sorted(most)[-together:])
    all_ = f"in all about {max(ends):.1f} minutes{unknown} and at most {memory:.1f} GB of memory at a time"
    return f"{display.aligned([rows[at] for at in sorted(rows)])}\n\n{all_}"


# ---------------------------------------------------------------- pages from committed results
def render(notebook: str, profile: str) -> Path:
    """A notebook executed with committed results instead of computing; cached under all it depends on.

    Raises RunError when the results are missing, damaged or do not fit the notebook.
    """
    job = rendering_job(notebook, profile)
    output = paths.BUILD / "rendered" / notebook / profile / EXECUTED
    digest = rendering_digest(job)
    with explained(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(output.with_name(".lock")):
        mark = output.with_name("digest")
        if output.is_file() and mark.is_file() and mark.read_text() == digest:
            return output
        try:
            limits = kernel.Limits(minutes=10.0)
            kernel.execute(job.path, output, job.params, Progress(), render=True, forked=True, limits=limits)
        except RunError as error:
            where = f"the page of {notebook} cannot be made from results/{notebook}/{profile}"
            raise RunError(f"{where}: {error}") from None
        mark.write_text(digest)
    return output


def render_all(pages: Sequence[tuple[str, str]]) -> list[Path]:
    """`render` for several (notebook, profile) at once; the work is done in their kernels, so threads do.

    No thread changes the working directory: papermill does so only when it is told one, and it is not.
    """
    with ThreadPoolExecutor(max_workers=max(1, min(len(pages), os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda page: render(*page), pages))
