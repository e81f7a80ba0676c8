"""The report of a grid: one HTML page without script libraries, fonts or files from elsewhere."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..runs import duration, tables
from ..store import write_atomic
from . import view
from .jobs import LOG, grid_folder
from .jobs import REPORT as PAST
from .state import ENDED, STATE, GridState, JobState, is_running, load

REPORT = "report.html"
_TEMPLATE = Path(__file__).with_name("report.jinja")
_LOG_LINES, _ERROR_LINES = 40, 20
_LOG_BYTES, _LINE = 20_000, 400  # of the end of a log, and of one of its lines
_LOGS = 2000  # jobs up to which the logs of those that went well are shown too
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ADVICE = (  # what an error says, and what to do that it does not say itself
    ("which failed", "Mend the job that it needs."),
    ("CUDA out of memory|OutOfMemoryError", "Give it more of a GPU (--gpus-per-job), or smaller batches."),
    ("MemoryError|Cannot allocate memory", "Memory ran out: fewer jobs at a time (--jobs), or smaller ones."),
    ("(?i)no space (is )?left|quota", "`sslmem store prune --dry-run` says what may go."),
    (
        "(?i)checksum|damaged|no readable",
        "`sslmem store verify` names what is damaged, `sslmem store prune` removes it.",
    ),
    ("made no table", "Its executed copy shows which cell it did not reach."),
    ("took longer than [^;]*$", "Raise --timeout, or mend the cell that hangs; failed.ipynb shows which."),
)
_ELSE = "Its last lines say where it stopped; mend the cause."


@dataclass(frozen=True)
class Entry:
    """One job as the page shows it."""

    job: JobState
    time: str
    memory: str
    verdicts: str
    where: str
    needs: list[JobState]
    params: dict[str, str]
    claims: list[tuple[str, str, str]]  # id, verdict, sentence
    log: str
    error: str
    advice: str
    files: list[tuple[str, str]]  # name and link


def renew(name: str) -> Path:
    """Write the page about a grid as its files tell it now, unless it has finished and the page says so; the page.

    RunError when the grid was never run here, StoreError when its state is damaged or the page cannot be written.
    """
    folder, state = grid_folder(name), load(name)
    page = folder / REPORT
    written = page.stat().st_mtime_ns if page.is_file() else 0
    if state.finished is None or written <= (folder / STATE).stat().st_mtime_ns:
        write_report(state, page)
    return page


def write_report(state: GridState, path: Path) -> None:
    """Write the page about a grid, finished or not, atomically. Links are relative to the page."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = template.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(**_facts(state, path.parent))
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def _facts(state: GridState, here: Path) -> dict[str, Any]:
    by_id, counts = {job.id: job for job in state.jobs}, state.counts()
    entries = [_entry(state, job, by_id, here) for job in state.jobs]
    return {
        "state": state,
        "entries": entries,
        "failed": [entry for entry in entries if entry.job.status == "failed"],
        "counts": [(status, counts[status]) for status in view.ORDER if status in counts],
        "ended": sum(job.status in ENDED for job in state.jobs),
        "standing": "finished" if state.finished else "running" if is_running(state) else "stopped",
        "started": view.clock(state.started),
        "elapsed": duration(state.seconds),
        "worked": duration(sum((job.seconds for job in state.jobs), 0.0)),
        "memory": view.memory(max((job.memory_mb for job in state.jobs), default=0.0)),
        "devices": sorted({job.device for job in state.jobs if job.device}),
        "workers": len({job.worker for job in state.jobs if job.worker}),
    }


def _entry(state: GridState, job: JobState, by_id: dict[str, JobState], here: Path) -> Entry:
    folder = grid_folder(state.plan) / "jobs" / job.id
    bad, job = job.status in ("failed", "skipped"), _with_past(job, folder)
    files = [folder / name for name in ("run/executed.ipynb", "run/failed.ipynb", f"run/{tables.CLAIMS}", LOG)]
    params, claims = _claims(folder / "run" / tables.CLAIMS)
    return Entry(
        job=job,
        time=duration(job.seconds) if job.seconds else "",
        memory=view.memory(job.memory_mb),
        verdicts=view.verdicts(job),
        where=f"{job.worker}{f', GPU {job.device}' if job.device else ''}",
        needs=[by_id[id] for id in job.needs if id in by_id],
        params={name: json.dumps(value, ensure_ascii=False) for name, value in (job.params | params).items()},
        claims=claims,
        log=tail(folder / LOG) if bad or len(by_id) <= _LOGS else "",
        error=_traceback(folder / "run" / "failed.ipynb") if job.status == "failed" else "",
        advice=advice(job.message) if bad else "",
        files=[(tables.shown(file), Path(os.path.relpath(file, here)).as_posix()) for file in files if file.is_file()],
    )


def _with_past(job: JobState, folder: Path) -> JobState:
    """A job that was done before, with what its report said then."""
    try:
        then = tables.read_json(folder / PAST) if job.status == "cached" else {}
        where = {"worker": f"{then['host']}:{then['pid']}", "device": then["device"]} if then else {}
        return replace(job, **where, **{name: then[name] for name in ("seconds", "memory_mb", "verdicts") if then})
    except (OSError, StoreError, KeyError, TypeError):
        return job


def _claims(file: Path) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """All parameters of a notebook that has run, its defaults included, and id, verdict and sentence of its claims."""
    try:
        facts, claims = tables.read_claims(file)
        return dict(facts["params"]), [(one["id"], one["verdict"], one["sentence"]) for one in claims]
    except (OSError, StoreError, KeyError, TypeError, ValueError):
        return {}, []


def advice(message: str) -> str:
    """What to do about an error, from its last line; empty when that says all, behind a semicolon."""
    found = next((told for pattern, told in _ADVICE if re.search(pattern, message)), "")
    return found or ("" if "; " in message else _ELSE)


def tail(log: Path) -> str:
    """The last lines of a log; of a line that was rewritten in place, its last state."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in _ANSI.sub("", text).split("\n")]
    return "\n".join(line[:_LINE] for line in [line for line in lines if line][-_LOG_LINES:])


def _traceback(notebook: Path) -> str:
    """The end of the traceback that a failed notebook holds."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        found = ["\n".join(output["traceback"]) for output in outputs if output.get("output_type") == "error"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    lines = [line.rstrip() for line in _ANSI.sub("", found[-1]).split("\n") if line.strip()] if found else []
    return "\n".join(line[:_LINE] for line in lines[-_ERROR_LINES:])
