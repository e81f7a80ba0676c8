"""`sslmem grid`: all notebooks and computations of a plan, on one core or many machines."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RunError, SSLMemError, StoreError

if TYPE_CHECKING:
    from ..grid.state import GridState
    from ..grid.view import Live

_PAGE_SECONDS = 60.0  # between two pages about a grid that runs


def grid(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.yaml", help="what to compute (see the chapter on grids)")],
    engine: Annotated[str, typer.Option(help="serial, process (several on this machine) or ray (many machines)")] = (
        "process"
    ),
    jobs: Annotated[int | None, typer.Option(help="jobs at a time (default: one a core)")] = None,
    gpus_per_job: Annotated[float, typer.Option(help="with ray: GPUs of each job, or a share such as 0.25")] = 0.0,
    retries: Annotated[int, typer.Option(help="further attempts at a job that was killed or took too long")] = 2,
    timeout: Annotated[float | None, typer.Option(help="minutes allowed to each job")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the jobs, what is done, and how long")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="also more than 10,000 jobs")] = False,
) -> None:
    """Run a plan of notebooks and computations; what is done is left alone."""
    from .. import grid as grids

    wanted = grids.read(plan, yes)
    options = grids.Options(engine, jobs, gpus_per_job, retries, timeout)
    if dry_run:
        print(grids.forecast(wanted, options))
        return
    from ..grid.view import Live

    try:
        with Live() as live:
            states = grids.run(wanted, options, view=_Shown(live))
    finally:
        _report(wanted.name)
    failed = [state for state in states if state.status in ("failed", "skipped")]
    if failed:
        first = next(state for state in failed if state.status == "failed")
        raise RunError(
            f"{len(failed)} of {len(states)} jobs failed or were skipped, the first of them {first.label!r}: "
            f"{first.message.rstrip('.')}; all others are done and kept, the same command tries only these again."
        )


class _Shown:
    """Shows a grid and writes its page now and then, so that a killed driver leaves one too."""

    def __init__(self, live: Live) -> None:
        self._live, self._next = live, time.monotonic() + _PAGE_SECONDS

    def update(self, state: GridState) -> None:
        from ..grid import report

        self._live.update(state)
        began = time.monotonic()
        if began >= self._next:
            with contextlib.suppress(SSLMemError, OSError):  # a log may go while it is read
                report.renew(state.plan)
            now = time.monotonic()
            self._next = now + max(_PAGE_SECONDS, 20 * (now - began))


def _report(name: str) -> None:
    """Write the page about the grid as it stands now, and say where it is or why there is none."""
    from ..grid import report
    from ..runs.tables import shown

    try:
        print(f"report: {shown(report.renew(name))}")
    except StoreError as error:
        print(f"no report: {error}", file=sys.stderr)
    except RunError:
        pass  # it did not begin, and why is told already
