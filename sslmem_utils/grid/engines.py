"""Where the jobs of a grid are worked on: in this process or in several; the third engine is in `ray_engine`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from multiprocessing import get_all_start_methods, get_context, parent_process
from types import FrameType
from typing import Any

from ..batch.kernel import TooLong
from .jobs import GridJob
from .worker import work

Ended = list[tuple[GridJob, dict[str, Any] | None, str]]
TIMEOUT, DIED = "timeout", "worker died"


class Engine(contextlib.AbstractContextManager):
    """Works on at most `slots` jobs at a time; a context manager.

    `submit` starts a job. `ended` waits for at most `timeout` seconds and returns what has ended since: the job, its
    report (what `worker.work` returned, parsed; None when its worker is gone) and, without a report, the reason:
    `TIMEOUT` after `kill`, else words such as `DIED`. Reports come once for each submitted job.
    """

    slots = 1

    @abstractmethod
    def submit(self, job: GridJob, attempt: int) -> str:
        """Start a job, the driver has no more than `slots` under way; its worker's name when that is known."""

    @abstractmethod
    def ended(self, timeout: float) -> Ended:
        """The jobs that have ended since the last call."""

    def kill(self, job: GridJob) -> None:
        """End a job whose time is up, with every process it started."""

    def workers(self) -> list[str]:
        """The workers by name, host:pid."""
        return []

    def close(self) -> None:
        """End all workers."""

    def __exit__(self, *exception: object) -> None:
        self.close()


class Serial(Engine):
    """One job after the other in this process, where a debugger reaches them."""

    def __init__(self) -> None:
        self._given: deque[tuple[GridJob, int]] = deque()

    def submit(self, job: GridJob, attempt: int) -> str:
        """Take a job; `ended` does it."""
        self._given.append((job, attempt))
        return _name(os.getpid())

    def ended(self, timeout: float) -> Ended:
        """Do the jobs that were submitted."""
        found: Ended = []
        while self._given:
            job, attempt = self._given.popleft()
            with _limited(job):
                found.append((job, json.loads(work(job.canonical(), attempt, mine=False)), ""))
        return found

    def workers(self) -> list[str]:
        """This process."""
        return [_name(os.getpid())]


@contextlib.contextmanager
def _limited(job: GridJob) -> Iterator[None]:
    """Interrupt a computation in this process when its time is up (a notebook's kernel is watched anyway)."""
    if job.minutes is None or job.kind == "notebook" or not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"it took longer than the {job.minutes:g} minutes allowed.")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, job.minutes * 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Slot:
    """One worker process, which imports once and does many jobs; made anew when it has died."""

    def __init__(self, context: Any, share: int) -> None:
        self.pool = ProcessPoolExecutor(1, context, begin_worker, (share,))
        self.pid: Future[int] = self.pool.submit(os.getpid)
        self.job: GridJob | None = None
        self.late = False

    @property
    def name(self) -> str:
        """Of the worker, empty until it has begun."""
        return _name(self.pid.result()) if self.pid.done() and self.pid.exception() is None else ""

    def end(self) -> None:
        """Kill the worker with all that it started; also one that only seems dead because the fork server is."""
        with contextlib.suppress(BrokenExecutor, CancelledError, TimeoutError):
            end_process(self.pid.result(timeout=0))
        self.pool.shutdown(wait=False, cancel_futures=True)


class Process(Engine):
    """Worker processes that are started once, each with its own pool of one: a dead one costs one job.

    A fork server imports torch once for all of them (`computing`); where the system has none, each imports it itself.
    """

    def __init__(self, slots: int, share: int, computing: bool) -> None:
        server = "forkserver" in get_all_start_methods()
        self.slots, self._share = slots, share
        self._context = get_context("forkserver" if server else "spawn")
        if server:
            torch = ["sslmem_utils.pairs", "sslmem_utils.recipes"] if computing else []
            self._context.set_forkserver_preload(["sslmem_utils.grid.worker", *torch])
        self._idle: list[_Slot] = []
        self._busy: dict[Future[str], _Slot] = {}

    def submit(self, job: GridJob, attempt: int) -> str:
        """Give a job to an idle worker, or to a new one."""
        while self._idle:
            slot = self._idle.pop()
            try:
                return self._give(slot, slot.pool.submit(work, job.canonical(), attempt), job)
            except BrokenExecutor:  # killed while it had nothing to do
                slot.end()
        slot = _Slot(self._context, self._share)
        try:
            slot.pid.result()  # waits while it imports, which is not the job's time
            future = slot.pool.submit(work, job.canonical(), attempt)
        except BrokenExecutor as error:
            future = Future()
            future.set_exception(error)
        return self._give(slot, future, job)

    def _give(self, slot: _Slot, future: Future[str], job: GridJob) -> str:
        slot.job = job
        self._busy[future] = slot
        return slot.name

    def ended(self, timeout: float) -> Ended:
        """The jobs whose worker has answered or died."""
        found: Ended = []
        for future in wait(self._busy, timeout, FIRST_COMPLETED).done:
            slot = self._busy.pop(future)
            job, slot.job = slot.job, None
            try:
                found.append((job, json.loads(future.result()), ""))
                self._idle.append(slot)
            except (BrokenExecutor, CancelledError):
                slot.end()
                found.append((job, None, TIMEOUT if slot.late else DIED))
        return found

    def kill(self, job: GridJob) -> None:
        """End the worker of a job."""
        for slot in self._busy.values():
            if slot.job is not None and slot.job.id == job.id:
                slot.late = True
                slot.end()

    def workers(self) -> list[str]:
        """The worker processes that have begun."""
        return [slot.name for slot in [*self._busy.values(), *self._idle] if slot.name]

    def close(self) -> None:
        """End all workers, busy or not."""
        for slot in [*self._busy.values(), *self._idle]:
            slot.end()
        self._busy, self._idle = {}, []


def begin_worker(share: int) -> None:
    """Give this worker its share of the cores; end it with all it started when the driver is gone or interrupted."""
    os.environ["SSLMEM_JOBS"] = str(share)
    parent = parent_process()

    def end(*_: object) -> None:
        end_process(os.getpid())

    signal.signal(signal.SIGINT, end)

    def watch() -> None:
        parent.join()  # the driver; the fork server between is not told of its end
        end()

    threading.Thread(target=watch, daemon=True).start()


def end_process(pid: int) -> None:
    """Kill a process and all that it started."""
    import psutil

    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.Error):
                one.kill()


def _name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"
