"""Small projects in temporary folders for the tests of runs, batches and the book."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslmem_utils import paths

TOY = {
    "parameters": """profile: str = "quick"  # which parameters
n: int = 4  # rows
rate: float = 0.5
seeds: list[int] = [0, 1]""",
    "start": 'import sys\n\nfrom sslmem_utils import runs\n\nrun = runs.start("{name}", globals())',
    "table": """import pandas as pd

def compute():
    print("epoch 1 of 1", file=sys.stderr, flush=True)
    return pd.DataFrame({"x": range(n), "y": [rate * i for i in range(n)]})

points = run.table("points", compute, caption="Points on a line")""",
    "figure": """from matplotlib.figure import Figure

figure = Figure(figsize=(3, 2))
figure.subplots().plot(points["x"], points["y"])
run.show(figure, alt="A line <b> & more", caption="A line, $y = x / 2$.", name="fig-line")
run.download("points")""",
    "claim": """from sslmem_utils import claims

endpoint = claims.measure("slope", [0.9 * rate, rate, 1.1 * rate], delta=0.1)
run.claim("{id}", "The line rises.", endpoint)
assert not run.render or "torch" not in sys.modules""",
}


def write_notebook(root: Path, name: str, cells: dict[str, str], prose: str = "", **profiles: str) -> None:
    """A notebook with a title, the given code cells (the first tagged `parameters`), prose, and its profiles."""
    codes = [text.replace("{name}", name).replace("{id}", f"{name[:2]}.1") for text in cells.values()]
    built = [_cell("markdown", f"# Title of {name}", "title")]
    for number, code in enumerate(codes):
        built.append(_cell("code", code, f"c{number}", **({"tags": ["parameters"]} if number == 0 else {})))
    if prose:
        built.append(_cell("markdown", prose, "prose"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder = root / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    notebook = {"cells": built, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
    for profile, text in (profiles or {"quick": ""}).items():
        file = folder / "profiles" / name / f"{profile}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text or f"# about: 0.5 min, 1 GB on 2 cores\nprofile: {profile}\n")


def _cell(kind: str, text: str, identity: str, **metadata: object) -> dict:
    cell = {"cell_type": kind, "id": identity, "metadata": metadata, "source": text}
    return cell if kind == "markdown" else {**cell, "outputs": [], "execution_count": None}


def environment(root: Path) -> dict[str, str]:
    """Variables with which a fresh process works on the project in `root`."""
    added = {"SSLMEM_ROOT": str(root), "SSLMEM_BUILD": str(root / "_build"), "PYTHONPATH": str(paths.PACKAGE.parent)}
    left_out = ("SSLMEM_RENDER", "SSLMEM_BOOK", "SSLMEM_DEBUG")
    return {name: value for name, value in os.environ.items() if name not in left_out} | added


def sslmem(root: Path, *arguments: str, timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh process."""
    code = "import sys; from sslmem_utils.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    env = environment(root) | variables
    return subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=timeout)


def inside(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Work on the project in `root` within this process."""
    for name in ("NOTEBOOKS", "RESULTS"):
        monkeypatch.setattr(paths, name, root / name.lower())
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "PROFILES", root / "notebooks" / "profiles")
    monkeypatch.setattr(paths, "BUILD", root / "_build")
