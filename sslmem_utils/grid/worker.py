"""Do one job of a grid in this process, whatever happens to it; the result is a report. Imports no torch by itself."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from .. import batch
from ..batch.kernel import LEFT_OUT, Killed, Limits, TooLong, Usage, pieces
from ..batch.progress import Progress
from ..errors import SSLMemError, StoreError
from ..runs import tables
from ..store import InUse, Store, explained, write_json
from . import computations
from .jobs import LOG, REPORT, STORED, GridJob, from_json, grid_folder, is_done

LOCK = "jobs"  # kind of the lock that is held while a job is done
LOG_LIMIT = 5_000_000  # characters of a log; beyond, its beginning and its end are kept
_TAIL_SECONDS = 2.0  # the end of a long log reaches the disk so often
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


class Log(Progress):
    """A job's log; once it is long, its middle is left out. A disk that is full costs the log, not the job."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.file: IO[str] = io.StringIO()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("w" if attempt == 1 else "a", encoding="utf-8", errors="replace")
        self.written, self.head_end, self.held, self.flushed = 0, 0, 0, time.monotonic()
        self.tail: deque[str] = deque()
        self.say(f"attempt {attempt} on {socket.gethostname()}, process {os.getpid()}")

    def say(self, line: str) -> None:
        """One line."""
        self.write(line + "\n")

    def write(self, text: str) -> None:
        """A piece of output."""
        over = self.written + len(text) - LOG_LIMIT // 2
        first = max(0, min(len(text), len(text) - over))
        self.written += len(text)
        with contextlib.suppress(OSError):
            if first:
                self.file.write(text[:first])
                self.file.flush()
            if over <= 0:
                return
            if not self.head_end:
                self.file.write(LEFT_OUT)
                self.file.flush()
                self.head_end = self.file.tell()
            self.tail.extend(pieces(text[first:]))
            self.held += len(text) - first
            while self.held > LOG_LIMIT // 2:
                self.held -= len(self.tail.popleft())
            if time.monotonic() - self.flushed > _TAIL_SECONDS:
                self._write_tail()

    def _write_tail(self) -> None:
        self.file.seek(self.head_end)
        self.file.writelines(self.tail)
        self.file.truncate()
        self.file.flush()
        self.flushed = time.monotonic()

    def close(self) -> None:
        """Write what is left."""
        with contextlib.suppress(OSError):
            if self.head_end:
                self._write_tail()
            self.file.close()


class _Memory:
    """Samples this process's memory once a second; `mb` is the most that was seen."""

    def __init__(self) -> None:
        import psutil

        self._process, self._done, self.mb = psutil.Process(), threading.Event(), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            self._look()

    def _look(self) -> None:
        self.mb = max(self.mb, self._process.memory_info().rss / 2**20)

    def stop(self) -> float:
        """The most memory that was seen, now included, in MB."""
        self._done.set()
        self._look()
        return self.mb


def work(text: str, attempt: int, mine: bool = True) -> str:
    """Do the job that `text` stands for (`GridJob.canonical`) unless it is done; its report as JSON.

    The report: id, status, seconds, memory_mb, host, pid, device (CUDA_VISIBLE_DEVICES), message (the error's last
    line), verdicts, files, and `again`: whether another attempt may help. Status is done, cached, failed, or busy when
    another process is at the same job. It is written beside the job's log too. With `mine` the process's output is the
    job's and goes to its log.
    """
    job, store, began = from_json(text), Store(), time.monotonic()
    report: dict[str, Any] = {
        "id": job.id,
        "status": "failed",
        "memory_mb": 0.0,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "message": "",
        "verdicts": {},
        "files": [],
        "again": False,
    }
    try:
        if is_done(job, store):
            report["status"] = "cached"
        else:
            with lock_of(job, store):
                if is_done(job, store):
                    report["status"] = "cached"
                else:
                    _do(job, store, attempt, mine, report)
    except InUse:
        return json.dumps(report | {"status": "busy", "seconds": 0.0})
    except SSLMemError as error:
        report["message"] = str(error)
    if report["status"] != "failed":
        with contextlib.suppress(SSLMemError):
            report["verdicts"] = batch.verdicts(job.as_notebook()) if job.kind == "notebook" else {}
    report |= {"seconds": round(time.monotonic() - began, 2), "files": _files(job, store)}
    if report["status"] != "cached" or not (job.folder / REPORT).is_file():
        with contextlib.suppress(StoreError, OSError):
            write_json(job.folder / REPORT, report)
    return json.dumps(report)


def lock_of(job: GridJob, store: Store) -> AbstractContextManager[None]:
    """The right to do a job, held where its result is kept; InUse when another process has it."""
    place = Store(grid_folder(job.plan)) if job.kind == "notebook" else store
    return place.lock(LOCK, job.id, wait=False)


def _do(job: GridJob, store: Store, attempt: int, mine: bool, report: dict[str, Any]) -> None:
    """Do the job and write into its report what became of it."""
    log = Log(job.folder / LOG, attempt)
    try:
        with _output(log if mine else None), _measured(job, report) as usage:
            if job.kind == "notebook":
                batch.execute(job.as_notebook(), log, Limits(job.minutes), usage)
            else:
                computations.compute(job, store, log.say)
        report["status"] = "done"
    except Exception as error:
        log.say("".join(traceback.format_exception(error)))
        report |= {"message": _sentence(error, job, store), "again": isinstance(error, Killed | TooLong)}
    finally:
        log.close()


@contextlib.contextmanager
def _measured(job: GridJob, report: dict[str, Any]) -> Iterator[Usage]:
    """Write into the report how much memory was used, also of a job that fails: of a notebook by its kernel."""
    usage, memory = Usage(), None if job.kind == "notebook" else _Memory()
    try:
        yield usage
    finally:
        report["memory_mb"] = round(memory.stop() if memory else usage.memory_mb, 1)


@contextlib.contextmanager
def _output(log: Log | None) -> Iterator[None]:
    if log is None:
        yield
        return
    stream = _Stream(log)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


class _Stream(io.TextIOBase):
    """What a job prints, as a file that libraries can ask whether it is a terminal."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def write(self, text: str) -> int:
        self.log.write(text)
        return len(text)


def _sentence(error: Exception, job: GridJob, store: Store) -> str:
    """The error in one line; of a disk that is full or read-only with what to do."""
    if isinstance(error, SSLMemError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        where = job.folder if job.kind == "notebook" else store.root
        try:
            with explained(where):
                raise error
        except StoreError as told:
            return str(told)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"


def _files(job: GridJob, store: Store) -> list[str]:
    """What the job left: of a notebook the folder of its run, else its artifact, as shown to people."""
    folder = job.outputs if job.kind == "notebook" else store.path(STORED[job.kind], job.id)
    return [tables.shown(file) for file in sorted(folder.glob("[!.]*")) if file.is_file()]
