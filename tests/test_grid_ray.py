"""Grids on Ray: a real one-node cluster with two declared GPUs, and one that is embedded in the driver."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from projects import TOY, inside, sslmem, write_notebook
from ray_nodes import Node, free_port, nodes

from sslmem_utils import paths
from sslmem_utils.errors import RunError, SpecError, StoreError
from sslmem_utils.grid import computations, driver, engines, plan, ray_engine, storage
from sslmem_utils.grid.jobs import STORED, GridJob, is_done
from sslmem_utils.grid.options import Options
from sslmem_utils.store import Store, sha256

SMALL = {"dataset": "digits", "shared": 40, "candidate": 40, "external": 80, "epochs": 2, "batch": 40}
REASON = 'needs the package ray (uv pip install "ray>=2.50")'
TOKEN = "a-token-of-the-tests-that-no-other-cluster-has"


def on_ray(test: Callable[..., None]) -> Callable[..., None]:
    """Marks of a test that starts Ray; Ray has warnings of its own."""
    test = pytest.mark.filterwarnings("ignore")(pytest.mark.grid(pytest.mark.slow(test)))
    return pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=REASON)(test)


def jobs_of(kind: str, **params: object) -> list[GridJob]:
    return list(computations.jobs_of(kind, SMALL | params, ("seed",), "plan"))


def artifact_files(store: Store, jobs: list[GridJob]) -> dict[str, dict[str, str]]:
    """Checksums of every artifact's files; the manifests also hold times."""
    found = [(STORED[job.kind], job.id) for job in jobs if job.kind != "notebook"]
    return {key: json.loads((store.get(kind, key) / "manifest.json").read_text())["files"] for kind, key in found}


# ---------------------------------------------------------------- storage, without Ray
def test_an_artifact_travels_whole_or_not_at_all(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    here.put("scores", "0" * 20, lambda folder: (folder / "table.parquet").write_bytes(b"numbers"), {"label": "a"})
    files = storage.artifact(here, "scores", "0" * 20)
    for damage in ({"table.parquet": b"numbed"}, {"more": b""}, {"manifest.json": b"{"}):
        with pytest.raises(StoreError, match="damaged on its way"):
            storage.put_artifact(there, "scores", "0" * 20, files | damage)
        assert there.get("scores", "0" * 20) is None
    storage.put_artifact(there, "scores", "0" * 20, files)
    assert (there.get("scores", "0" * 20) / "table.parquet").read_bytes() == b"numbers"
    assert there.meta("scores", "0" * 20) == {"label": "a"}
    (there.path("scores", "0" * 20) / "table.parquet").write_bytes(b"rotten")
    storage.put_artifact(there, "scores", "0" * 20, files)
    assert there.get("scores", "0" * 20), "a damaged one gives way"


def test_a_folder_travels_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = GridJob("plan", "1" * 20, "notebook", "a notebook", {}, "")
    for place in ("there", "here"):
        inside(monkeypatch, tmp_path / place)
        if place == "there":
            job.outputs.mkdir(parents=True)
            (job.folder / "report.json").write_text("{}")
            (job.outputs / "points.parquet").write_bytes(b"numbers")
            (job.outputs / ".lock").touch()
            files = storage.folder_of(job)
    assert list(files) == ["run/points.parquet", "report.json"]
    with pytest.raises(StoreError, match="points.parquet of a notebook was damaged"):
        storage.put_folder(job, files | {"run/points.parquet": (files["run/points.parquet"][0], b"")})
    storage.put_folder(job, files)
    assert (job.outputs / "points.parquet").read_bytes() == b"numbers"


def test_what_cannot_be_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, error, words in (
        ("ray://host:10001", SpecError, "HOST:PORT of the head"),
        ("host", SpecError, "HOST:PORT of the head"),
        (f"127.0.0.1:{free_port()}", RunError, "RAY_AUTH_TOKEN"),
    ):
        with pytest.raises(error, match=words):
            ray_engine._reachable(address)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match="needs the package ray"):
        ray_engine.Ray()


# ---------------------------------------------------------------- a cluster of one node with two declared GPUs
@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a cluster and the folder in which its node works when it does not see the driver's."""
    root = tmp_path_factory.mktemp("node")
    write_notebook(root, "91_toy", TOY)
    places = {"ROOT": root, "BUILD": root / "_build", "STORE": root / "store", "DATA": root / "data"}
    with pytest.MonkeyPatch.context() as patch, nodes() as started:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        patch.setenv("PYTHONPATH", str(paths.PACKAGE.parent))
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
        variables = {f"SSLMEM_{name}": str(place) for name, place in places.items()}
        options = ("--num-cpus=2", "--num-gpus=2", f"--object-store-memory={100 * 2**20}")
        started.append(Node(os.environ["RAY_ADDRESS"], True, *options, **variables))
        started[-1].ready()
        yield os.environ["RAY_ADDRESS"], root


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one notebook and a plan of it and of two scores; this process works in it."""
    write_notebook(tmp_path, "91_toy", TOY)
    inside(monkeypatch, tmp_path)
    jobs = [
        {"compute": "score", "params": SMALL, "grid": {"seed": [0, 1]}},
        {"notebook": "91_toy", "profile": "quick", "grid": {"n": [3, 5]}},
    ]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"jobs": jobs}))
    return tmp_path


def finish(engine: engines.Engine, jobs: list[GridJob], seconds: float = 120) -> dict[str, tuple[dict | None, str]]:
    """Submit jobs and wait for them; report and reason of each."""
    for job in jobs:
        engine.submit(job, 1)
    found, end = {}, time.monotonic() + seconds
    while len(found) < len(jobs):
        assert time.monotonic() < end, f"{len(found)} of {len(jobs)} ended"
        found |= {job.id: (report, reason) for job, report, reason in engine.ended(1.0)}
    return found


def tables(root: Path, jobs: list[GridJob]) -> dict[str, object]:
    """Everything that jobs computed: checksums of artifacts and of notebooks' tables."""
    found: dict[str, object] = dict(artifact_files(Store(), jobs))
    for job in jobs:
        if job.kind == "notebook":
            assert is_done(job)
            found[job.id] = {file.name: sha256(file) for file in sorted(job.outputs.glob("*.parquet"))}
    return found


@on_ray
def test_tables_are_those_of_the_serial_engine_with_a_shared_disk_and_without(
    cluster: tuple[str, Path], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = plan.read(project / "plan.yaml")
    found = {}
    for name in ("serial", "ray", "apart"):
        monkeypatch.setenv("SSLMEM_STORE", str(project / name))
        monkeypatch.setattr(paths, "BUILD", project / f"_build-{name}")
        if name == "apart":
            hidden = partial(storage.Tokens, (project / "nothing",), "seen by nobody")
            monkeypatch.setattr(storage.Tokens, "write", hidden)
        states = driver.run(checked, Options("serial" if name == "serial" else "ray"))
        assert {state.status for state in states} == {"done"}, [state.message for state in states]
        found[name] = tables(project, checked.jobs())
    assert found["serial"] == found["ray"] == found["apart"]
    assert len(found["serial"]) == 2 * 3 + 2
    assert len(list((cluster[1] / "store" / "scores").iterdir())) == 2, "these were computed on the node's own disk"


@on_ray
def test_gpus_are_bound_in_turn_and_their_workers_end_with_the_job(cluster: tuple[str, Path], project: Path) -> None:
    jobs = [job for seed in range(4) for job in jobs_of("train", seed=seed)]
    with ray_engine.Ray(gpus_per_job=1.0) as engine:
        assert engine.slots == 2
        reports = [report for report, _ in finish(engine, jobs).values()]
    assert {report["status"] for report in reports} == {"done"}
    assert {report["device"] for report in reports} == {"0", "1"}
    assert len({report["pid"] for report in reports}) == 4, "a fresh process for each"


@on_ray
def test_shares_of_a_gpu_and_room(cluster: tuple[str, Path], project: Path) -> None:
    with ray_engine.Ray(gpus_per_job=0.5) as engine:
        assert engine.slots == 2, "four by GPUs, two by cores"
    with ray_engine.Ray(jobs=1) as engine:
        assert engine.slots == 1
        assert len(engine.workers()) == 1
    with pytest.raises(SpecError, match="3 GPUs .it has 2 GPUs in all.; lower --gpus-per-job"):
        ray_engine.Ray(gpus_per_job=3.0)


def worker_of(job: GridJob, seconds: float = 60) -> psutil.Process:
    """The process that works on a job: Ray names it after the task, the job's log says that it has begun."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        log = job.folder / "log.txt"
        if log.is_file() and "epoch" in log.read_text():
            pid = int(log.read_text().split("process ")[1].split()[0])
            return psutil.Process(pid)
        time.sleep(0.2)
    raise AssertionError("the job did not begin")


@on_ray
def test_a_killed_worker_and_a_job_that_takes_too_long(cluster: tuple[str, Path], project: Path) -> None:
    killed, late, never = (jobs_of("train", seed=seed, epochs=100_000)[0] for seed in range(3))
    with ray_engine.Ray() as engine:
        for job in (killed, late, never):  # there is room for two
            engine.submit(job, 1)
        worker_of(killed).kill()
        process = worker_of(late)
        engine.kill(late)
        engine.kill(never)
        found, end = {}, time.monotonic() + 60
        while len(found) < 3 and time.monotonic() < end:
            found |= {job.id: (report, reason) for job, report, reason in engine.ended(1.0)}
        expected = {killed.id: engines.DIED, late.id: engines.TIMEOUT, never.id: engines.TIMEOUT}
        assert found == {name: (None, reason) for name, reason in expected.items()}
        process.wait(30)  # what is told as ended may take a moment to be gone; TimeoutExpired if it stays
        [again] = jobs_of("train", seed=9)
        assert finish(engine, [again])[again.id][0]["status"] == "done", "the engine goes on"


@on_ray
def test_a_node_with_other_code_is_refused(
    cluster: tuple[str, Path], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "source", lambda: "other")
    with ray_engine.Ray() as engine, pytest.raises(RunError, match="has another version of this package"):
        finish(engine, jobs_of("train", seed=0))


# ---------------------------------------------------------------- Ray in the driver
@on_ray
def test_embedded_ray_leaves_nothing_behind(project: Path) -> None:
    """As from a shell: no address; tokens, sockets and processes are gone afterwards."""
    plan_text = {"jobs": [{"compute": "train", "params": SMALL, "grid": {"seed": [0, 1]}}]}
    (project / "two.yaml").write_text(yaml.safe_dump(plan_text))
    variables = {"RAY_ADDRESS": "", "SSLMEM_TEST_NODE": project.name, "RAY_OVERRIDE_RESOURCES": '{"GPU": 2}'}
    done = sslmem(project, "grid", "two.yaml", "--engine", "ray", "--gpus-per-job", "1", **variables)
    assert done.returncode == 0, done.stderr
    state = json.loads((project / "_build" / "grid" / "two" / "state.json").read_text())
    assert sorted(job["device"] for job in state["jobs"]) == ["0", "1"]
    assert not list(project.rglob(".seen-*"))
    end = time.monotonic() + 30  # workers notice within a second or two that Ray is gone
    while left := [process for process in psutil.process_iter() if _marked(process, project.name)]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def _marked(process: psutil.Process, name: str) -> bool:
    try:
        return process.environ().get("SSLMEM_TEST_NODE") == name
    except psutil.Error:
        return False
