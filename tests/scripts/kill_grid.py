"""Kill kernels, workers and drivers of one grid at random moments; at the end it must be as if nothing had happened.

    python tests/scripts/kill_grid.py --kills 20

24 jobs on the digits (12 encoders, 6 scores, 6 notebooks) are first done undisturbed, then in another store while
processes are killed with SIGKILL. A driver that was killed is started again; when the grid is done before all kills
were made, results of some jobs are removed, so that it goes on. Then: the same tables, checksums right, nothing
half-written, no process left. Takes some minutes on two cores; exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from projects import TOY, environment, write_notebook  # noqa: E402

from sslmem_utils.store import STORED, Store  # noqa: E402

SIZES = {"dataset": "digits", "shared": 60, "candidate": 60, "external": 120, "device": "cpu"}
PLAN = [
    {
        "compute": "score",
        "params": SIZES | {"epochs": 60, "views": 8},
        "grid": {"method": ["simclr", "vicreg"], "seed": [0, 1, 2]},
    },
    {"notebook": 1, "grid": {"seeds": [[0], [1], [2]], "n": [20, 40]}},
]
TABLE = """from sslmem_utils import pairs, recipes
from sslmem_utils.specs import ScoreSpec

def compute():
    base = recipes.recipe("digits", candidate=40, shared=40, external=80, epochs=2 * n)
    return pairs.scores(base, seeds, [ScoreSpec(views=6)])

scores = run.table("scores", compute, caption="Scores")"""
KINDS = ("kernel", "worker", "driver")


def prepare(root: Path) -> None:
    write_notebook(root, "01_scores", {"parameters": TOY["parameters"], "start": TOY["start"], "table": TABLE})
    (root / "kills.yaml").write_text(yaml.safe_dump({"jobs": PLAN}))


def start(root: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from sslmem_utils.cli import main; sys.exit(main())"
    options = ["--engine", "process", "--jobs", "2", "--retries", "99"]
    variables = environment(root) | {"SSLMEM_STORE": str(root / "store"), "SSLMEM_DATA": str(root / "data")}
    with (root / "driver.txt").open("ab") as log:
        command = [sys.executable, "-c", code, "grid", "kills.yaml", *options]
        return subprocess.Popen(command, env=variables, cwd=root, stdout=log, stderr=log)


def processes(driver: int) -> dict[str, list[psutil.Process]]:
    """The processes of a grid by what they are."""
    found: dict[str, list[psutil.Process]] = {"driver": [psutil.Process(driver)], "worker": [], "kernel": []}
    for one in psutil.Process(driver).children(recursive=True):
        try:
            words = " ".join(one.cmdline())
            if "ipykernel_launcher" in words:
                found["kernel"].append(one)
                found["worker"].append(one.parent())
            elif "forkserver" in words and one.parent().pid != driver:
                found["worker"].append(one)
        except (psutil.Error, AttributeError):
            continue
    return found


def disturb(root: Path, kills: int, chance: random.Random) -> tuple[Counter[str], int, set[int]]:
    """Kill until it is enough; how often each kind was, how often the grid was done before, and who was seen."""
    made: Counter[str] = Counter()
    wanted = [KINDS[number % 3] for number in range(kills)]
    chance.shuffle(wanted)
    again, seen, driver = 0, set(), start(root)
    while wanted:
        time.sleep(chance.uniform(0.2, 3.0))
        if driver.poll() is not None:
            if driver.returncode == 0:
                again += 1
                undo(root, chance)
            driver = start(root)
            continue
        try:
            found = processes(driver.pid)
            seen |= {one.pid for some in found.values() for one in some}
            kind = next((kind for kind in wanted if found[kind]), None)
            if kind is None or (kind == "driver" and not found["worker"] and chance.random() < 0.9):
                continue  # mostly while something is under way
            victim = chance.choice(found[kind])
            victim.kill()
        except psutil.Error:
            continue
        wanted.remove(kind)
        made[kind] += 1
        print(f"{time.strftime('%H:%M:%S')} killed a {kind} ({victim.pid}), {len(wanted)} kills left", flush=True)
        if kind == "driver":
            driver.wait()
    while driver.poll() is None or driver.returncode != 0:
        if driver.poll() is not None:
            if driver.returncode > 0:
                raise SystemExit(f"the grid failed:\n{(root / 'driver.txt').read_text()[-3000:]}")
            driver = start(root)
        time.sleep(0.2)
    return made, again, seen


def undo(root: Path, chance: random.Random) -> None:
    """Remove a third of all results, as if they had never been computed."""
    store = Store(root / "store")
    for piece in store.pieces():
        if piece.state == STORED and chance.random() < 1 / 3:
            store.remove(piece.kind, piece.key)
    for folder in (root / "_build/grid/kills/jobs").glob("*/run"):
        if chance.random() < 1 / 3:
            shutil.rmtree(folder)


def results(root: Path) -> tuple[dict[str, dict[str, str]], dict[str, pd.DataFrame]]:
    """Checksums of all artifacts, and the notebooks' tables."""
    import json

    store = Store(root / "store")
    pieces = [piece for piece in store.pieces() if piece.state == STORED]
    sums = {f"{piece.kind}/{piece.key}": json.loads((piece.path / "manifest.json").read_text()) for piece in pieces}
    frames = {str(file.relative_to(root)): pd.read_parquet(file) for file in root.glob("_build/grid/**/*.parquet")}
    return {name: manifest["files"] for name, manifest in sums.items()}, frames


def problems(one: Path, two: Path) -> list[str]:
    """What differs, or is half-written or damaged in the second."""
    found = []
    (sums, frames), (other_sums, other_frames) = results(one), results(two)
    # An encoder or alignment that was removed on purpose and that nobody needs any more is not computed again
    lost = {name for name in sums if name not in other_sums and name.split("/")[0] in ("encoders", "alignments")}
    found += [f"missing: {name}" for name in sorted(sums.keys() - other_sums.keys() - lost)]
    found += [f"only there: {name}" for name in sorted(other_sums.keys() - sums.keys())]
    found += [f"differs: {name}" for name in sums.keys() & other_sums.keys() if sums[name] != other_sums[name]]
    found += [f"notebook tables differ: {frames.keys() ^ other_frames.keys()}"] * (frames.keys() != other_frames.keys())
    found += [
        f"differs: {name}"
        for name in frames.keys() & other_frames.keys()
        if not frames[name].equals(other_frames[name])
    ]
    store = Store(two / "store")
    for piece in store.pieces():
        if piece.state != STORED:
            found.append(f"left over: {piece.path}")
        elif damage := store.damage(piece):
            found.append(damage)
    hidden = [file for file in two.rglob(".*") if file.is_file() and not file.name.endswith(".lock")]
    found += [f"half-written: {file}" for file in hidden if "ipython" not in file.parts]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-grid-") as name:
        calm, wild = Path(name) / "calm", Path(name) / "wild"
        for root in (calm, wild):
            root.mkdir()
            prepare(root)
        began = time.monotonic()
        if start(calm).wait() != 0:
            print((calm / "driver.txt").read_text()[-3000:])
            return 1
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        made, again, seen = disturb(wild, options.kills, random.Random(options.seed))
        print(f"{sum(made.values())} kills: {dict(made)}, {time.monotonic() - began:.0f} s, done {again} times before")
        time.sleep(3)
        left = [pid for pid in seen if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        found = problems(calm, wild) + [f"process left: {pid}" for pid in left if pid != os.getpid()]
        sums, frames = results(wild)
        counted = Counter(name.split("/")[0] for name in sums)
        print(f"{dict(counted)}, {len(frames)} tables of notebooks; {len(found)} problems")
        print("\n".join(found))
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
