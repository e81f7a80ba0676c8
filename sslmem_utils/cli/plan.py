"""`sslmem plan`: from a pilot's scores to the seeds, encoders and minutes that a wanted reliability takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..errors import SpecError
from ..specs import ScoreSpec
from .tables import read_scores


def plan(
    scores: Annotated[Path, typer.Option(help="score table of several seeds (sslmem train --seeds 3 --output FILE)")],
    reliability: Annotated[float, typer.Option(help="Spearman with a repetition of the whole experiment")] = 0.9,
    views: Annotated[
        int | None, typer.Option(min=4, help="views K of the pilot (default: as its sidecar says)")
    ] = None,
    representation: Annotated[str, typer.Option(help="which representation's scores")] = "pooled",
    seconds_per_encoder: Annotated[
        float | None, typer.Option(min=0, help="time of one training (default: of the pilot's own)")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="encoders trained at the same time")] = 1,
) -> None:
    """Say how many seeds, encoders and views a reliable score needs."""
    from .. import stats
    from ..runs.display import aligned

    if not 0 < reliability < 1:
        raise SpecError(f"the reliability to reach must lie between 0 and 1, found {reliability:g}; use 0.9.")
    table = read_scores(scores)
    said = table.attrs.get("settings", {})
    if seconds_per_encoder is None:  # as long as the pilot's own encoders took
        seconds_per_encoder = float(found) if (found := said.get("seconds_per_encoder")) else None
    views = views or said.get("score", said).get("views", ScoreSpec().views)
    if "representation" in table:
        known = list(map(str, table["representation"].unique()))
        table = table[table["representation"] == representation]
        if table.empty:
            raise SpecError(
                f"{scores.name} holds no scores of {representation!r}, but of {', '.join(known)}; name one."
            )
    found = stats.planner(table, views=views)
    shares = [f"{name} {share:.0%}" for name, share in found.shares().items() if not math.isnan(share)]
    print(f"pilot: {found.pairs} pairs of encoders, {found.images:,} images measured more than once, {views} views")
    print(f"variance of one pair's scores: {', '.join(shares)}\n")
    rows = [["views", "one pair", "pilot", "pairs needed", "95 % interval", "encoders"]]
    for row in found.table(reliability).itertuples():
        between = "" if math.isnan(row.low) else f"{_count(row.low)} to {_count(row.high)}"
        between = f"{_count(row.low)} or more" if math.isinf(row.high) else between
        line = [str(row.views), f"{row.one_pair:.2f}", f"{row.pilot:.2f}", _count(row.pairs), between]
        rows.append([*line, _count(row.encoders)])
    if seconds_per_encoder is not None:
        rows[0].append("time")
        for row, encoders in zip(rows[1:], found.table(reliability)["encoders"], strict=True):
            row.append(_time(encoders, seconds_per_encoder, jobs))
    print(aligned(rows) + "\n")
    needed = found.pairs_for(reliability)
    if math.isinf(needed.mean):
        print(f"No number of seeds reaches a reliability of {reliability:g} with {views} views; use more views.")
        return
    more = max(0.0, 2 * (needed.mean - found.pairs))
    encoders = f"{_count(2 * needed.mean)} encoders, {_count(more)} more than the pilot has"
    took = "" if seconds_per_encoder is None else f", which takes {_time(more, seconds_per_encoder, jobs)} here"
    print(f"A reliability of {reliability:g} needs {_count(needed.mean)} seeds with {views} views: {encoders}{took}.")


def _count(number: float) -> str:
    return "never" if math.isinf(number) else f"{number:,.0f}"


def _time(encoders: float, seconds: float, jobs: int) -> str:
    from ..runs import duration

    return "" if math.isinf(encoders) else duration(math.ceil(encoders / jobs) * seconds)
