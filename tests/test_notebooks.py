"""The notebooks themselves: every one runs from end to end, in any order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from sslmem_utils.paths import NOTEBOOKS, ROOT

BOOKS = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
SHARING = ["04_cifar_scoring", "06_methods_and_architectures", "07_consistency"]  # encoders in common
MEASURED = ("seconds", "images_per_second")  # columns that tell a time


def run(folder: Path, names: Sequence[str], jobs: int = 1) -> dict[str, pd.DataFrame]:
    """Run notebooks in this order, `jobs` at a time, with stores of their own; their tables by notebook and name."""
    places = {f"SSLMEM_{name}": str(folder / name.lower()) for name in ("BUILD", "STORE", "DATA")}
    code = "import sys; from sslmem_utils.cli import main; sys.exit(main())"
    for some in [names] if jobs > 1 else [[name] for name in names]:  # a command keeps the order of the numbers
        command = [sys.executable, "-c", code, "run", *some, "--profile", "smoke", "--jobs", str(jobs)]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | places, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    tables = sorted((folder / "build").glob("runs/smoke/*/*.parquet"))
    assert {path.parent.name for path in tables} == set(names)
    return {f"{path.parent.name}/{path.stem}": pd.read_parquet(path) for path in tables}


@pytest.mark.grid
def test_every_notebook_runs_from_end_to_end(tmp_path: Path) -> None:
    run(tmp_path, [name for name in BOOKS if name not in SHARING], jobs=2)


@pytest.mark.grid
def test_results_do_not_depend_on_the_order_of_the_notebooks(tmp_path: Path) -> None:
    one, other = run(tmp_path / "one", SHARING), run(tmp_path / "other", SHARING[::-1])
    assert one.keys() == other.keys()
    for name, table in one.items():
        kept = [column for column in table if column not in MEASURED]
        pd.testing.assert_frame_equal(table[kept], other[name][kept], check_exact=True, obj=name)
