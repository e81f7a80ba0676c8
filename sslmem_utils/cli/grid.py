"""`sslmem grid`: all notebooks and computations of a plan, on one core or many machines."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RunError


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
    if dry_run:
        print(grids.forecast(wanted, engine, jobs))
        return
    from ..grid.view import Live

    try:
        with Live() as view:
            states = grids.run(wanted, engine, jobs, gpus_per_job, retries, timeout, view=view)
    finally:
        _report(wanted.name)
    failed = [state for state in states if state.status in ("failed", "skipped")]
    if failed:
        first = next(state for state in failed if state.status == "failed")
        raise RunError(
            f"{len(failed)} of {len(states)} jobs failed or were skipped, the first of them {first.label!r}: "
            f"{first.message.rstrip('.')}; all others are done and kept, the same command tries only these again."
        )


def _report(name: str) -> None:
    """Write the page about the grid as it stands now; a disk that is full is not said twice."""
    from ..errors import SSLMemError
    from ..grid import report
    from ..grid.jobs import grid_folder
    from ..grid.state import load
    from ..runs.tables import shown

    page = grid_folder(name) / report.REPORT
    with contextlib.suppress(SSLMemError):
        report.write_report(load(name), page)
        print(f"report: {shown(page)}")
