"""What a grid costs beside its jobs: time a job beyond its own, for each engine, and the driver's memory.

Each engine runs the same plan small and large in a fresh process and folder. The difference of the two, less the jobs'
own time shared by the slots, is the overhead; starting (imports, Ray) cancels out and is shown by itself. Asked for by
name only (`--only grid`), because it takes some minutes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from sslmem_utils import paths

from . import table

LINE = "grid"
ENGINES = ("serial", "process", "ray")
TINY, NOTEBOOKS = (20, 500), (2, 30)  # jobs of the small and of the large run
_CELLS = (
    'profile: str = "quick"\nnumber: int = 0',
    'from sslmem_utils import runs\n\nrun = runs.start("90_tiny", globals())',
    'import pandas as pd\n\nrun.table("points", lambda: pd.DataFrame({"x": [number]}), caption="One point")',
)


@dataclass
class Run:
    """One grid: seconds on the wall, own seconds of its jobs, slots, and the driver's MB at a third and at the end."""

    wall: float
    own: float
    jobs: int
    slots: int
    memory: tuple[float, float]


def tasks(effort: table.Effort) -> Iterator[tuple[str, Callable]]:
    """Tiny computations, then notebooks, with every engine that is installed."""
    engines = [engine for engine in ENGINES if engine != "ray" or importlib.util.find_spec("ray")]
    for engine in engines:
        sizes = (TINY[0], TINY[0] + effort.of(TINY[1] - TINY[0]))
        yield f"{LINE} tiny computations, {engine}", partial(overhead, engine, "tiny computations", sizes)
    for engine in engines:
        sizes = (NOTEBOOKS[0], NOTEBOOKS[0] + effort.of(NOTEBOOKS[1] - NOTEBOOKS[0]))
        yield f"{LINE} notebooks, {engine}", partial(overhead, engine, "notebooks", sizes)


def overhead(engine: str, case: str, sizes: tuple[int, int]) -> list[table.Row]:
    """Rows: overhead and own time a job, seconds to start, growth of the driver's memory."""
    plan = computations if case == "tiny computations" else notebooks
    small, large = (run(engine, plan, size) for size in sizes)
    more = large.jobs - small.jobs
    beside = (large.wall - small.wall - (large.own - small.own) / large.slots) / more
    start = small.wall - small.own / small.slots - beside * small.jobs
    about = {"setting": f"{engine}, {large.slots} at a time", "note": f"{large.jobs} jobs"}
    return [
        table.row(LINE, case, "overhead", "ms/job", [1000 * beside], **about),
        table.row(LINE, case, "own time", "ms/job", [1000 * (large.own - small.own) / more], **about),
        table.row(LINE, case, "start", "s", [start], **about),
        table.row(LINE, case, "driver's memory", "MB", [large.memory[1]], **about),
        table.row(LINE, case, "its growth", "MB", [large.memory[1] - large.memory[0]], **about),
    ]


def run(engine: str, plan: Callable[[Path, int], str], size: int) -> Run:
    """Run a plan of so many jobs in a folder of its own. RuntimeError when a job fails."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "plan.yaml").write_text(plan(root, size))
        added = {"ROOT": root, "BUILD": root / "_build", "STORE": root / "store", "DATA": root / "data"}
        known = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        env = known | {f"SSLMEM_{name}": str(place) for name, place in added.items()}
        env["PYTHONPATH"] = str(paths.PACKAGE.parent)
        command = [sys.executable, "-m", "sslmem_utils", "grid", "plan.yaml", "--engine", engine]
        start = time.monotonic()
        with (root / "log.txt").open("wb") as log:
            driver = subprocess.Popen(command, env=env, cwd=root, stdout=log, stderr=log)
            samples = _memory(driver)
        wall = time.monotonic() - start
        if driver.returncode:
            raise RuntimeError(f"the grid failed: {(root / 'log.txt').read_text()[-500:]}")
        state = json.loads((root / "_build" / "grid" / "plan" / "state.json").read_text())
        own = sum(job["seconds"] for job in state["jobs"])
        return Run(wall, own, len(state["jobs"]), state["slots"], (samples[len(samples) // 3], max(samples[-3:])))


def _memory(driver: subprocess.Popen[bytes]) -> list[float]:
    """MB of the driver, twice a second until it ends; the engine's own processes are not counted."""
    process, samples = psutil.Process(driver.pid), [0.0]
    while driver.poll() is None:
        try:
            samples.append(process.memory_info().rss / 2**20)
        except psutil.Error:
            break
        time.sleep(0.5)
    driver.wait()
    return samples


def computations(root: Path, size: int) -> str:
    """A plan of encoders that train for one epoch on a few digits."""
    params = {"dataset": "digits", "shared": 20, "candidate": 20, "external": 10, "epochs": 1, "batch": 20}
    return json.dumps({"jobs": [{"compute": "train", "params": params, "grid": {"seed": list(range(size))}}]})


def notebooks(root: Path, size: int) -> str:
    """A plan of runs of a notebook that makes a table of one row."""
    import nbformat
    import nbformat.v4 as nb

    title = nb.new_markdown_cell("# A tiny notebook")
    cells = [nb.new_code_cell(source) for source in _CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    folder = root / "notebooks" / "profiles" / "90_tiny"
    folder.mkdir(parents=True)
    (folder / "quick.yaml").write_text("# about: 0.1 min, 1 GB\nprofile: quick\n")
    (root / "notebooks" / "90_tiny.ipynb").write_text(nbformat.writes(nb.new_notebook(cells=[title, *cells])))
    grid = {"number": list(range(size))}
    return json.dumps({"jobs": [{"notebook": "90_tiny", "profile": "quick", "grid": grid}]})
