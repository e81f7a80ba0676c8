"""A grid on a Ray cluster of two nodes on this machine, in which nodes, the head and the driver are killed.

    python tests/scripts/two_nodes.py

Takes some minutes. Every scene runs the same plan and compares what was computed with the serial engine's. A node that
is "apart" runs in a mount namespace in which the driver's folder is empty (root on Linux; left out elsewhere).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from projects import TOY, write_notebook  # noqa: E402
from ray_nodes import MARK, Node, free_port, nodes  # noqa: E402

from sslmem_utils import paths  # noqa: E402
from sslmem_utils.store import Store, sha256  # noqa: E402

PARAMS = {"dataset": "digits", "shared": 100, "candidate": 100, "external": 100, "epochs": 12, "batch": 100}
METHODS, SEEDS = ["simclr", "vicreg"], [0, 1, 2]
JOBS = 3 * len(METHODS) * len(SEEDS) + 6  # a score needs two encoders; 6 notebooks
TOKENS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "one-token-for-all-nodes-of-this-script"}
OPTIONS = ("--num-cpus=1", f"--object-store-memory={100 * 2**20}")
began = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


class Scene:
    """A project folder in which the plan is run, from a driver in a process of its own."""

    def __init__(self, top: Path, name: str) -> None:
        self.root = top / name
        write_notebook(self.root, "91_toy", TOY)
        grid = {"method": METHODS, "seed": SEEDS}
        jobs = [{"compute": "score", "params": PARAMS, "grid": grid}]
        jobs += [{"notebook": "91_toy", "profile": "quick", "grid": {"n": list(range(1, 7))}}]
        (self.root / "plan.yaml").write_text(json.dumps({"jobs": jobs}))

    def variables(self, root: Path | None = None) -> dict[str, str]:
        root = root or self.root
        places = {"ROOT": root, "BUILD": root / "_build", "STORE": root / "store", "DATA": root / "data"}
        return {f"SSLMEM_{name}": str(place) for name, place in places.items()}

    def start(self, *options: str, **variables: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        env = kept | self.variables() | {"PYTHONPATH": str(paths.PACKAGE.parent)} | variables
        command = [sys.executable, "-m", "sslmem_utils", "grid", "plan.yaml", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=env, cwd=self.root, **pipes)

    def state(self) -> dict:
        file = self.root / "_build" / "grid" / "plan" / "state.json"
        return json.loads(file.read_text()) if file.is_file() else {"jobs": []}

    def counts(self) -> Counter:
        return Counter(job["status"] for job in self.state()["jobs"])

    def until_done(self, number: int, driver: subprocess.Popen[str]) -> None:
        """Wait until so many jobs are done."""
        while self.counts()["done"] < number:
            assert driver.poll() is None, driver.communicate()[0]
            time.sleep(0.2)

    def tables(self) -> dict[str, dict[str, str]]:
        """Checksums of all results, every one of them verified."""
        store, found = Store(self.root / "store"), {}
        for job in self.state()["jobs"]:
            if job["kind"] == "notebook":
                files = (Path(job["folder"]) / "run").glob("*.parquet")
                found[job["id"]] = {file.name: sha256(file) for file in files}
            else:
                kind = {"train": "encoders", "score": "scores"}[job["kind"]]
                found[job["id"]] = json.loads((store.get(kind, job["id"]) / "manifest.json").read_text())["files"]
        return found


def sentence(text: str) -> str:
    """What the command line said of its error."""
    return next((line for line in text.splitlines() if line.startswith("error: ")), text)


def finished(scene: Scene, driver: subprocess.Popen[str], expected: dict) -> None:
    """The driver ends well, with all jobs, and what they computed is what was expected."""
    text, _ = driver.communicate(timeout=400)
    assert driver.returncode == 0, text
    assert scene.tables() == expected, "other tables"
    attempts = Counter(job["attempts"] for job in scene.state()["jobs"])
    say(f"  exit code 0, {dict(scene.counts())}, attempts {dict(attempts)}, all tables as from the serial engine")


def cluster(started: list[Node], scene: Scene, port: int, apart: Path | None = None) -> str:
    """A head and a second node with one core each; the second one works in `apart` when that is given."""
    address = f"127.0.0.1:{port}"
    started.append(Node(address, True, *OPTIONS, **scene.variables()))
    started[-1].ready()
    own = {"hide": scene.root, **scene.variables(apart)} if apart else scene.variables()
    started.append(Node(address, False, *OPTIONS, **own))
    started[-1].ready()
    return address


def node_is_killed(top: Path, expected: dict, apart: bool) -> None:
    scene = Scene(top, "apart" if apart else "shared")
    other = Scene(top, "second-disk") if apart else None
    with nodes() as started:
        address = cluster(started, scene, free_port(), other.root if other else None)
        say(f"cluster of two nodes at {address}, {'a disk each' if apart else 'a shared folder'}")
        driver = scene.start("--engine", "ray", RAY_ADDRESS=address)
        scene.until_done(4, driver)
        while not ((there := done_by(started[1], scene)) and (lost := busy(started[1]))):
            assert driver.poll() is None, "the second node was to have done a job and to be at the next"
            time.sleep(0.05)
        started[1].kill()
        say(f"  killed the second node, which had done {there} jobs and was at {lost}")
        finished(scene, driver, expected)
    if other:
        own = sorted(path.name for path in (other.root / "store" / "encoders").iterdir())
        say(f"  on the second node's own disk: {len(own)} encoders, their copies are in the driver's store")


def done_by(node: Node, scene: Scene) -> int:
    """Jobs that a node has done."""
    pids = {process.pid for process in node.processes()}
    return sum(bool(job["worker"]) and int(job["worker"].split(":")[1]) in pids for job in scene.state()["jobs"])


def busy(node: Node) -> list[str]:
    """Jobs that a node is at: Ray names processes after their tasks."""
    found = []
    for process in node.processes():
        with contextlib.suppress(psutil.Error, IndexError):
            title = process.cmdline()[0]
            if title.startswith("ray::") and "IDLE" not in title:
                found.append(title.removeprefix("ray::"))
    return found


def head_is_killed(top: Path, expected: dict) -> None:
    scene, port = Scene(top, "head"), free_port()
    with nodes() as started:
        address = cluster(started, scene, port)
        driver = scene.start("--engine", "ray", RAY_ADDRESS=address)
        scene.until_done(5, driver)
        started[0].kill()
        say(f"killed the head, {dict(scene.counts())}")
        text, _ = driver.communicate(timeout=120)
        say(f"  exit code {driver.returncode}: {sentence(text)}")
        assert driver.returncode == 1 and "Traceback" not in text, text
        assert "start it and run the same command again" in text
    with nodes() as started:
        address = cluster(started, scene, port)
        driver = scene.start("--engine", "ray", RAY_ADDRESS=address)
        finished(scene, driver, expected)
        assert scene.counts()["cached"] >= 5
        say("  with a new head the same command did what was missing")


def token_differs(top: Path) -> None:
    scene = Scene(top, "token")
    with nodes() as started:
        address = f"127.0.0.1:{free_port()}"
        started.append(Node(address, True, *OPTIONS, **scene.variables()))
        started[-1].ready()
        for name, variables in {"another": {"RAY_AUTH_TOKEN": "another"}, "no": {"RAY_AUTH_MODE": "disabled"}}.items():
            driver = scene.start("--engine", "ray", RAY_ADDRESS=address, **variables)
            text, _ = driver.communicate(timeout=200)
            say(f"{name} token, exit code {driver.returncode}: {sentence(text)}")
            assert driver.returncode == 1 and "Traceback" not in text and "RAY_AUTH_TOKEN" in text, text


def driver_is_killed(top: Path, expected: dict) -> None:
    scene = Scene(top, "driver")
    variables = {MARK: "driver-of-two-nodes"}
    driver = scene.start("--engine", "ray", **variables)
    scene.until_done(5, driver)
    driver.kill()
    driver.wait()
    end = time.monotonic() + 30
    while (left := marked(variables[MARK])) and time.monotonic() < end:
        time.sleep(0.5)
    say(f"killed a driver with Ray inside; of its processes are left: {left}")
    assert not left
    finished(scene, scene.start("--engine", "ray", **variables), expected)
    assert not marked(variables[MARK])


def marked(name: str) -> list[str]:
    """Processes that inherited a mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:80])
    return found


def main() -> None:
    os.environ.update(TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        scene = Scene(top, "serial")
        driver = scene.start("--engine", "serial")
        text, _ = driver.communicate(timeout=400)
        assert driver.returncode == 0, text
        expected = scene.tables()
        assert len(expected) == JOBS
        say(f"serial: {len(expected)} jobs done, {len(set(map(str, expected.values())))} different results")
        scenes: dict[str, Callable[[], None]] = {
            "shared": lambda: node_is_killed(top, expected, apart=False),
            "apart": lambda: node_is_killed(top, expected, apart=True),
            "head": lambda: head_is_killed(top, expected),
            "token": lambda: token_differs(top),
            "driver": lambda: driver_is_killed(top, expected),
        }
        if sys.platform != "linux" or os.geteuid() != 0:
            scenes.pop("apart")
        for name in sys.argv[1:] or scenes:
            scenes[name]()
    say("all scenes went as they should")


if __name__ == "__main__":
    main()
