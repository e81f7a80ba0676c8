"""What people see of a grid: a table that moves in a terminal, one line per event elsewhere, and a text at any time."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from ..runs import display, duration
from .state import ENDED, GridState, JobState, eta_seconds

ORDER = ("done", "cached", "running", "waiting", "failed", "skipped")  # in which statuses are told
COLOURS = {"done": "green", "cached": "cyan", "running": "yellow", "failed": "red", "skipped": "magenta"}
_RUNNING, _FAILED = 12, 6  # jobs shown by name at most


class Live(AbstractContextManager):
    """Shows a grid while it runs: call `update` with each new state. A context manager, so that the table is closed."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream or sys.stderr
        self._seen: dict[str, tuple[str, int]] | None = None
        self._console, self._table = _console(self.stream), None
        self._state: GridState | None = None
        self._when = 0.0
        self._finished = False

    def update(self, state: GridState) -> None:
        """Show a state; the first one also says what was there before."""
        if self._finished:
            return
        self._finished = state.finished is not None
        if self._console is not None:
            self._draw(state)
        else:
            for line in self._events(state):
                print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the last table on the screen."""
        if self._table is not None:
            self._table.stop()
            self._table = None

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _draw(self, state: GridState) -> None:
        self._state, self._when = state, time.monotonic()
        if self._table is None:
            from rich.live import Live as Rich

            self._table = Rich(get_renderable=self._now, console=self._console, refresh_per_second=2)
            self._table.start(refresh=True)
        if self._finished:
            self.close()

    def _now(self) -> Any:
        """The table, its clocks going on since the state was told: an engine that works itself tells none meanwhile."""
        since = 0.0 if self._finished else time.monotonic() - self._when
        return table(self._state, since) if self._state is not None else ""

    def _events(self, state: GridState) -> list[str]:
        """One line for each job that has another status or attempt than at the last call."""
        now = {job.id: (job.status, job.attempts) for job in state.jobs}
        ended = sum(status in ENDED for status, _ in now.values())
        if self._seen is None:
            self._seen = {id: ("waiting", 0) for id in now}
            self._seen |= {id: was for id, was in now.items() if was[0] == "cached"}
            lines = [f"grid {state.plan}: {counted(state)}; {state.engine}, {state.slots} at a time"]
        else:
            lines = []
        changed = [job for job in state.jobs if now[job.id] != self._seen.get(job.id)]
        lines += [f"[{ended}/{len(now)}] {job.label}: {_event(job)}" for job in changed]
        if changed and not self._finished and (left := eta_seconds(state)):
            lines[-1] += f" ({duration(left)} left)"
        if self._finished:
            lines.append(f"grid {state.plan}: {counted(state)} in {duration(state.seconds)}")
        self._seen = now
        return lines


def _console(stream: Any) -> Any:
    """What draws on a terminal; None elsewhere, and on a terminal that cannot move its cursor."""
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream)
    return None if console.is_dumb_terminal else console


def _event(job: JobState) -> str:
    if job.status == "running":
        where = f" on {job.worker}" if job.worker else ""
        return f"started{where}" if job.attempts < 2 else f"attempt {job.attempts} started{where}"
    if job.status == "waiting":
        return f"waits for another attempt: {job.message}" if job.message else "waiting"
    took = f" in {duration(job.seconds)}" if job.seconds else ""
    told = job.message if job.status in ("failed", "skipped") else verdicts(job)
    return f"{job.status}{took}{f': {told}' if told else ''}"


def table(state: GridState, since: float = 0.0) -> Any:
    """The state, told `since` seconds ago, as a rich table: a bar, the running jobs, those that failed last."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = sum(job.status in ENDED for job in state.jobs)
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"grid {state.plan}", style="bold"),
        ProgressBar(total=max(1, len(state.jobs)), completed=ended, width=24),
        f"{ended}/{len(state.jobs)}",
        _when(state, since),
    )
    counts = [Text(f"{number} {status}", COLOURS.get(status, "")) for status, number in _counts(state)]
    parts: list[Any] = [head, Text("  ").join(counts)]
    running = [job for job in state.jobs if job.status == "running"]
    if running:
        rows = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
        rows.add_column(
            f"running, {state.slots} at a time ({state.engine})", ratio=1, no_wrap=True, overflow="ellipsis"
        )
        for name in ("time", "of about", "worker", "try"):
            rows.add_column(name, justify="right" if name != "worker" else "left", no_wrap=True)
        for job in running[:_RUNNING]:
            expected = "" if job.expected_seconds is None else duration(job.expected_seconds)
            where = f"{job.worker} {f'GPU {job.device}' if job.device else ''}".strip()
            rows.add_row(Text(job.label), duration(job.seconds + since), expected, Text(where), str(job.attempts))
        parts.append(rows)
        if len(running) > _RUNNING:
            parts.append(Text(f"and {len(running) - _RUNNING} more", style="dim"))
    for job in [job for job in state.jobs if job.status == "failed"][-_FAILED:]:
        told = Text(f"failed: {job.label}: {job.message}", style="red", no_wrap=True, overflow="ellipsis")
        parts.append(told)
    return Group(*parts)


def _when(state: GridState, since: float = 0.0) -> str:
    if state.finished is not None:
        return f"finished in {duration(state.seconds)}"
    left = eta_seconds(state)
    left = None if left is None else left - since
    told = "no estimate yet" if left is None else f"about {duration(left)} left" if left >= 1 else "nearly done"
    return f"{duration(state.seconds + since)}, {told}"


def status_text(state: GridState, alive: bool) -> str:
    """The state as text: what is done, what runs, what failed and why, and whether its driver is alive."""
    lines = [f"grid {state.plan}: {counted(state)}", standing(state, alive)]
    running = [job for job in state.jobs if job.status == "running"]
    if running:
        rows = [("running", "time", "of about", "attempt", "worker")]
        for job in running[: 2 * _RUNNING]:
            expected = "" if job.expected_seconds is None else duration(job.expected_seconds)
            rows.append((job.label, duration(job.seconds), expected, str(job.attempts), job.worker))
        lines += ["", display.aligned(rows)]
    failed = [job for job in state.jobs if job.status == "failed"]
    if failed:
        lines += ["", *(f"failed: {job.label}: {job.message}" for job in failed[: 2 * _RUNNING])]
    if len(failed) > 2 * _RUNNING:
        lines.append(f"and {len(failed) - 2 * _RUNNING} more; the report names all")
    return "\n".join(lines)


def standing(state: GridState, alive: bool) -> str:
    """Whether the driver of a state is at work, has finished or is gone, as one sentence."""
    if state.finished is not None:
        return f"It finished at {clock(state.finished)}, after {duration(state.seconds)}."
    if not alive:
        return (
            f"Its driver (process {state.pid} on {state.host}) is gone since about {clock(state.updated)}; "
            f"`{state.command}` goes on from there."
        )
    return f"Its driver (process {state.pid} on {state.host}) runs: {_when(state)}."


def counted(state: GridState) -> str:
    """How many jobs have which status, in words."""
    total = f"{len(state.jobs):,} job{'s' * (len(state.jobs) != 1)}"
    return ", ".join([total, *(f"{number:,} {status}" for status, number in _counts(state))])


def _counts(state: GridState) -> list[tuple[str, int]]:
    found = state.counts()
    return [(status, found[status]) for status in ORDER if status in found]


def clock(moment: str) -> str:
    """An ISO time as people write it, in UTC."""
    return f"{moment[:10]} {moment[11:16]} UTC"


def verdicts(job: JobState) -> str:
    """How many claims of a notebook have each verdict, in words."""
    return ", ".join(f"{number} {verdict}" for verdict, number in sorted(job.verdicts.items()))


def memory(megabytes: float) -> str:
    """Megabytes as people write them; empty when nothing was measured."""
    if not megabytes:
        return ""
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
