"""`python -m benchmarks`: measure, print, write the table of this machine."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

import torch

from sslmem_utils import book
from sslmem_utils.errors import SSLMemError
from sslmem_utils.runs import tables

from . import gpu, grid, learning, precision, roofline, scoring, table, training, views

SPEED = (views, roofline, training, scoring, precision, gpu)
LINES = {module.LINE: module for module in (*SPEED, learning, grid)}
BRIEF = table.Effort(repeats=2, scale=0.5)


def measured(line: str, effort: table.Effort) -> tuple[list[table.Row], bool]:
    """The rows of a line, and whether all of it could be measured; what fails is left out and says why."""
    rows, whole = [], True
    for name, work in LINES[line].tasks(effort):
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            rows += work()
        except Exception as error:  # the lines after it are still worth their time
            if not isinstance(error, SSLMemError):
                traceback.print_exc()
            case = name.removeprefix(f"{line} ")
            rows.append(table.left_out(line, case, f"{type(error).__name__}: {error}"))
            whole = False
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return rows, whole


def main() -> int:
    """Exit code: 0, or 1 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=LINES, default=[one.LINE for one in SPEED], metavar="LINE", help=", ".join(LINES)
    )
    parser.add_argument("--brief", action="store_true", help="two repetitions of half the work: does it run?")
    parser.add_argument("--output", type=Path, default=table.FOLDER, help="folder of the table (results/bench)")
    options = parser.parse_args()
    effort = BRIEF if options.brief else table.Effort()
    torch.set_num_threads(1)
    whole, start = True, time.monotonic()
    for line in options.only:
        if line == gpu.LINE and not torch.cuda.is_available():
            print("gpu: left out, there is no CUDA device", file=sys.stderr)
            continue
        rows, fine = measured(line, effort)
        whole = whole and fine
        table.save(rows, options.output)
    print(f"{time.monotonic() - start:.0f} s in all", file=sys.stderr)
    for one in book.machines(options.output):
        if one.name == table.machine():
            print(f"{one.text()}\nin {tables.shown(options.output.resolve())}: {one.name}.parquet")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
