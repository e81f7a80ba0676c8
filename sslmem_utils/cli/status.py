"""`sslmem status`: how a grid gets on, from any shell."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RunError, SSLMemError

if TYPE_CHECKING:
    from ..grid.state import GridState

_SECONDS = 1.0  # between two looks
_YOUNG = 60.0  # seconds after which a driver on another machine should have written again


def status(
    plan: Annotated[str, typer.Argument(metavar="[PLAN]", help="its name or file (default: the latest)")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="everything that is known, for programs")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="keep showing it until it has ended")] = False,
) -> None:
    """Show how a grid gets on: what is done, what runs, what failed, and whether its driver lives."""
    from ..grid import report, view
    from ..grid import state as states
    from ..runs import tables

    if as_json and watch:
        raise typer.BadParameter("choose one of --json and --watch")
    name = named(plan) if plan else states.latest()
    state, running = _look(name)
    if watch:
        with view.Live() as live:
            live.update(state)
            while running:
                time.sleep(_SECONDS)
                state, running = _look(name)
                live.update(state)
    page = None
    if not running:  # a driver that was killed has not written it
        with contextlib.suppress(SSLMemError):
            page = report.renew(name)
    if as_json:
        print(json.dumps(asdict(state) | {"running": running, "eta_seconds": states.eta_seconds(state)}))
    else:
        print(view.status_text(state, running) + (f"\nreport: {tables.shown(page)}" if page else ""))
    if state.finished is None and not running:
        left = sum(job.status not in states.ENDED for job in state.jobs)
        raise RunError(
            f"the driver of grid {name} is gone, {left} job{'s are' if left != 1 else ' is'} left; "
            f"run `{state.command}` to go on."
        )


def _look(name: str) -> tuple[GridState, bool]:
    """The state of a grid and whether its driver is at work."""
    from ..grid import state as states

    if states.is_running(state := states.load(name)):
        return state, True
    state = states.load(name)  # it may have written its last state in between
    if state.finished is not None or state.host == socket.gethostname():
        return state, False
    # Not every shared file system shows the locks of another machine; there a state that is young tells
    age = (datetime.now(UTC) - datetime.fromisoformat(state.updated)).total_seconds()
    return state, age < _YOUNG


def named(plan: str) -> str:
    """The name of a grid, given that or the file of its plan."""
    if plan.endswith((".yaml", ".yml")):
        from ..grid import plan as plans

        return plans.read(Path(plan), yes=True).name
    return plan
