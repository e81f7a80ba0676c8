"""Run a plan: in the order of what needs what, only what is missing, again what died, to the end whatever fails.

    from sslmem_utils.grid import driver, plan
    states = driver.run(plan.read(Path("methods.yaml")), Options("process", jobs=4))

The driver may be killed at any moment and started again, and several may run the same plan on the same store: what is
done is told by results alone, and each job is done under a lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout

from .. import paths, runs
from ..errors import StoreError
from ..runs import display
from ..store import Store
from . import state as states
from .costs import Costs
from .engines import DIED, TIMEOUT, Engine, Process, Serial
from .jobs import STORED, GridJob, grid_folder, is_done
from .options import Options
from .plan import Plan
from .state import DONE, GridState, JobState
from .worker import lock_of

_TICK = 0.5  # seconds between two looks at the clock
_SAVE_SECONDS = 1.0
_BUSY_SECONDS = 2.0  # until a job that another run is at is looked at again
_GRACE_SECONDS = 60.0  # a notebook ends its own kernel when its time is up; its worker is ended so much later
_SHOWN = 200  # jobs that a forecast names
Say = Callable[[str], None]


@runtime_checkable
class View(Protocol):
    """What shows a running grid."""

    def update(self, state: GridState) -> None:
        """Show a state; called about once a second and at the end."""


def run(plan: Plan, options: Options | None = None, say: Say | None = None, view: View | None = None) -> list[JobState]:
    """Run a plan; how each of its jobs ended.

    A job whose worker, kernel or node died or whose time is up is tried again; one that fails by itself is not, and
    what needs it is skipped. `say` hears what happens (default: stderr, which with a `view` is told only what that does
    not show). Raises SpecError for what cannot be started; no failure of a job is raised.
    """
    options = options or Options()
    driver = _Driver(plan, options, say, view)
    driver.skip_done()
    left = [driver.jobs[id] for id in driver.left]
    options.check_devices(left)
    driver.tidy()
    try:
        if left:
            with _engine(options, left) as workers:
                driver.work(workers)
        driver.finish()
    finally:
        driver.unlock()
    return driver.state.jobs


def _engine(options: Options, left: Sequence[GridJob]) -> Engine:
    if options.engine == "serial":
        return Serial()
    if options.engine == "process":
        slots = options.slots(len(left)) or 1
        return Process(slots, max(1, paths.jobs() // slots), any(job.kind != "notebook" for job in left))
    from .ray_engine import Ray

    return Ray(options.jobs, options.gpus_per_job)


def _told(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Driver:
    """The jobs of one run and what is known of them."""

    def __init__(self, plan: Plan, options: Options, say: Say | None = None, view: View | None = None) -> None:
        jobs = [replace(job, minutes=options.timeout) for job in plan.jobs()]
        self.jobs = {job.id: job for job in jobs}
        self.retries, self.timeout, self.view = options.retries, options.timeout, view
        self._warn = say or _told
        self._say = say or ((lambda text: None) if view else _told)
        self.costs, self.began = Costs(), time.monotonic()
        self.of = {job.id: self._state_of(job) for job in jobs}
        began = states.now()
        self.state = GridState(
            plan=plan.name,
            engine=options.engine,
            slots=1,
            started=began,
            updated=began,
            finished=None,
            pid=os.getpid(),
            host=socket.gethostname(),
            command=options.command(plan),
            jobs=list(self.of.values()),
        )
        self.dependents: dict[str, list[str]] = {}
        for job in jobs:
            for need in job.needs:
                self.dependents.setdefault(need, []).append(job.id)
        self.ready: deque[str] = deque()
        self.elsewhere: dict[str, float] = {}  # jobs that another run is at: when to look again (monotonic)
        self.running: dict[str, float] = {}  # since when (monotonic)
        self.killed: set[str] = set()
        self.saved, self.save_seconds, self.trouble = -1e9, 0.0, False
        self.lock: FileLock | None = None

    def _state_of(self, job: GridJob) -> JobState:
        return JobState(
            id=job.id,
            kind=job.kind,
            label=job.label,
            params=job.params,
            needs=list(job.needs),
            folder=str(job.folder),
            expected_seconds=self.costs.expected(job),
        )

    @property
    def left(self) -> list[str]:
        """Jobs that have not ended."""
        return [id for id, state in self.of.items() if state.status not in states.ENDED]

    # ------------------------------------------------------------ before
    def skip_done(self) -> None:
        """Mark what is done, and what nobody needs any more; queue what can begin."""
        store = Store()
        for id, job in self.jobs.items():
            if job.wanted and is_done(job, store):
                self.of[id].status = "cached"
        for id, job in self.jobs.items():
            if not job.wanted:
                asked = any(self.of[one].status != "cached" for one in self.dependents.get(id, ()))
                if not asked or is_done(job, store):
                    self.of[id].status = "cached"
        self.ready.extend(id for id in self.left if self._may_begin(id))

    def tidy(self) -> None:
        """Remove checkpoints of encoders that are stored: a kill may have come between storing and forgetting."""
        store, kind = Store(), STORED["train"]
        for id, job in self.jobs.items():
            if job.kind == "train" and self.of[id].status == "cached" and store.path(kind, id).is_dir():
                store.forget(kind, id)

    def _may_begin(self, id: str) -> bool:
        return all(self.of[need].status in DONE for need in self.jobs[id].needs)

    # ------------------------------------------------------------ while it runs
    def work(self, engine: Engine) -> None:
        """Until no job is left; interrupted, what runs is put back."""
        self.state.slots = engine.slots
        self._save()
        try:
            while self.ready or self.running or self.elsewhere:
                self.state.slots = engine.slots
                self._start(engine)
                if not self.running:
                    time.sleep(_TICK)
                for job, report, reason in engine.ended(_TICK):
                    if report is None:
                        self._lost(job, reason)
                    else:
                        self._reported(job, report)
                self._stop_late(engine)
                self._save(_SAVE_SECONDS)
        except BaseException:
            for id in self.running:
                self.of[id].status = "waiting"
            self._save()
            raise

    def _start(self, engine: Engine) -> None:
        now = time.monotonic()
        again = [id for id, when in self.elsewhere.items() if when <= now and id not in self.running]
        while (self.ready or again) and len(self.running) < engine.slots:
            id = self.ready.popleft() if self.ready else again.pop(0)
            state = self.of[id]
            if id not in self.elsewhere:
                state.status, state.attempts = "running", state.attempts + 1
                state.seconds, state.message, state.device = 0.0, "", ""
            self.running[id] = time.monotonic()
            state.worker = engine.submit(self.jobs[id], max(1, state.attempts))
            if engine.slots == 1:
                self._save(_SAVE_SECONDS)  # the serial engine is back only when the job has ended

    def _reported(self, job: GridJob, report: dict[str, Any]) -> None:
        state, took = self.of[job.id], time.monotonic() - self.running.pop(job.id)
        self.killed.discard(job.id)
        if report["status"] == "busy":
            if job.id not in self.elsewhere:
                state.status, state.attempts = "waiting", state.attempts - 1
                state.message = "another run of the same job is under way"
                self.say(f"{job.label}: {state.message}")
            self.elsewhere[job.id] = time.monotonic() + _BUSY_SECONDS
            return
        self.elsewhere.pop(job.id, None)
        state.seconds, state.memory_mb = report.get("seconds", took), report["memory_mb"]
        state.worker, state.device = f"{report['host']}:{report['pid']}", report["device"]
        state.message, state.verdicts = report["message"], report["verdicts"]
        if report["status"] == "failed":
            if report.get("again") and self._again(job):
                return
            self._failed(job, report["message"])
            return
        state.status, state.attempts = report["status"], max(1, state.attempts)
        if state.status == "done":
            self.costs.add(job, state.seconds)
        elif state.attempts == 1:
            self.say(f"{job.label}: done by another run")
        else:
            state.status = "done"  # by an attempt whose worker died before it could say so
        for one in self.dependents.get(job.id, ()):
            if self.of[one].status == "waiting" and self._may_begin(one):
                self.ready.appendleft(one)  # results come early, and encoders are still in the caches

    def _lost(self, job: GridJob, reason: str) -> None:
        """A job without a report: its worker is gone."""
        state = self.of[job.id]
        state.seconds = time.monotonic() - self.running.pop(job.id)
        self.killed.discard(job.id)
        self.elsewhere.pop(job.id, None)
        state.message = {
            TIMEOUT: f"it took longer than the {self.timeout or 0:g} minutes allowed; raise --timeout.",
            DIED: "its worker was killed; if memory ran out, give fewer --jobs or a smaller profile.",
        }.get(reason, f"{reason}; start the grid again when that is mended.")
        if not self._again(job):
            self._failed(job, state.message)

    def _again(self, job: GridJob) -> bool:
        """Put a job back for another attempt, if it has one left."""
        state = self.of[job.id]
        if state.attempts > self.retries:
            return False
        state.status = "waiting"
        self.ready.append(job.id)
        self.say(f"{job.label}: attempt {state.attempts} ended: {state.message}")
        self._save()  # so that it is seen before the next attempt begins
        return True

    def _failed(self, job: GridJob, message: str) -> None:
        self.of[job.id].status, self.of[job.id].message = "failed", message
        if job.kind == "notebook":  # of one whose worker was killed: as far as it came
            with contextlib.suppress(StoreError, OSError), lock_of(job, Store()):
                os.replace(job.outputs / "executing.ipynb", job.outputs / "failed.ipynb")
        self.say(f"{job.label}: failed: {message}")
        above = [(one, job.label) for one in self.dependents.get(job.id, ())]
        while above:
            one, label = above.pop()
            if self.of[one].status == "waiting":
                self.of[one].status, self.of[one].message = "skipped", f"needs {label}, which failed."
                above += [(next_, self.jobs[one].label) for next_ in self.dependents.get(one, ())]

    def _stop_late(self, engine: Engine) -> None:
        now = time.monotonic()
        for id, since in self.running.items():
            if id not in self.elsewhere:
                self.of[id].seconds = now - since
            if self.timeout is None or id in self.killed:
                continue
            grace = _GRACE_SECONDS if self.jobs[id].kind == "notebook" else 0.0
            if now - since > self.timeout * 60 + grace:
                self.killed.add(id)
                engine.kill(self.jobs[id])

    # ------------------------------------------------------------ what others see
    def say(self, text: str) -> None:
        """Tell, and write it into the driver's own log."""
        self._say(text)
        try:
            with (grid_folder(self.state.plan) / "driver.log").open("a", encoding="utf-8") as file:
                file.write(f"{states.now()} process {self.state.pid}: {text}\n")
        except OSError:
            pass  # `_save` says it

    def _save(self, every: float = 0.0) -> None:
        """Write the state and show it, if the last time is so long ago. A disk that is full does not stop the jobs.

        Of two drivers of one plan the first writes; the other takes over when that one ends.
        """
        began = time.monotonic()
        if every and began - self.saved < max(every, 20 * self.save_seconds):
            return
        self.state.updated, self.state.seconds = states.now(), began - self.began
        for id, state in self.of.items():
            if state.status in ("waiting", "running"):
                state.expected_seconds = self.costs.mean(self.jobs[id]) or state.expected_seconds
        try:
            self.lock = self.lock or states.driver_lock(self.state.plan)
            if not self.lock.is_locked:
                self.lock.acquire(timeout=0.1)  # `sslmem status` may be asking whether it is held
            states.save(self.state)
            self.costs.save()
            self.trouble = False
        except Timeout:
            pass
        except (StoreError, OSError) as error:
            if not self.trouble:
                self._warn(f"the state of the grid cannot be written, the jobs go on: {error}")
            self.trouble = True
        if self.view is not None:
            self.view.update(self.state)
        self.saved = time.monotonic()
        self.save_seconds = self.saved - began

    def finish(self) -> None:
        """Say that it has ended."""
        self.state.finished = states.now()
        self._save()

    def unlock(self) -> None:
        """Let another driver write the state."""
        if self.lock is not None:
            self.lock.release()


def forecast(plan: Plan, options: Options | None = None) -> str:
    """What such a run would do: each job, whether it is done, how long it takes; nothing is started."""
    options = options or Options()
    driver = _Driver(plan, options)
    driver.skip_done()
    options.check_devices(driver.jobs[id] for id in driver.left)
    rows = [("job", "state", "about")]
    for state in driver.state.jobs[:_SHOWN]:
        done, about = state.status == "cached", state.expected_seconds
        told = "" if done else "?" if about is None else runs.duration(about)
        rows.append((state.label, "done before" if done else "to do", told))
    more = len(driver.state.jobs) - _SHOWN
    text = display.aligned(rows) + (f"\nand {more:,} more" if more > 0 else "")
    left = [driver.of[id] for id in driver.left]
    done = len(driver.state.jobs) - len(left)
    total = _total(driver.state, left, options.slots(len(left))) if left else "nothing to do"
    return f"{text}\n\n{len(driver.state.jobs):,} jobs, {done:,} done before, {len(left):,} to do: {total}"


def _total(state: GridState, left: list[JobState], slots: int | None) -> str:
    """How long jobs take that are left, in words."""
    many = f"{slots} at a time" if slots else "if one at a time; how many Ray has room for is seen when it starts"
    known = [job for job in left if job.expected_seconds is not None]
    seconds = states.eta_seconds(replace(state, slots=slots or 1, jobs=known))
    if not known or seconds is None:
        return f"nobody knows how long, {many}"
    unknown = f", and {len(left) - len(known):,} jobs that nothing is known of" if len(known) < len(left) else ""
    return f"about {runs.duration(seconds)}, {many}{unknown}"
