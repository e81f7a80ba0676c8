"""Jobs of a grid as Ray tasks: on this machine, or on the cluster that RAY_ADDRESS names.

Ray starts jobs where there is room, binds GPUs to them through CUDA_VISIBLE_DEVICES and notices lost workers and nodes.
It retries nothing: that is the driver's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import paths
from ..errors import RunError, SpecError, SSLMemError
from . import storage
from .engines import DIED, TIMEOUT, Ended, Engine
from .jobs import GridJob

LOST = "its machine was lost"
_OBJECTS = 256 * 2**20  # bytes of the object store of an embedded Ray; reports are small and results are files
_SLOW = "rfc3987_syntax"  # jsonschema's check of IRIs, which Ray imports and never needs: 2.4 s a process
_LOOK_SECONDS = 5.0  # between two looks at the head and the nodes
_HEAD_SECONDS = 3.0  # a head that does not take a connection for so long, twice, is gone


class Ray(Engine):
    """Engine on Ray: at most `jobs` at a time (None: as many as there is room for), each with `gpus_per_job` GPUs.

    A job has one core. `slots` follows the nodes that come and go. SpecError when a job fits nowhere; RunError when
    there is no cluster at RAY_ADDRESS, when its head is lost, or when a node has another version of this package.
    """

    def __init__(self, jobs: int | None = None, gpus_per_job: float = 0.0) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SpecError(
                'the engine ray needs the package ray: install it (uv pip install "ray>=2.50") or choose another '
                "engine, process for example."
            )
        self._jobs, self._gpus = jobs, gpus_per_job
        self._address = os.environ.get("RAY_ADDRESS", "")
        self._running: dict[Any, tuple[GridJob, int]] = {}
        self._killed: set[str] = set()
        self._apart = False  # whether a worker was met that does not see this machine's folders
        self._nodes: dict[str, int] = {}
        self._looked, self._missed = 0.0, 0
        self._folder = ""
        self._tokens: storage.Tokens | None = None
        self._start()

    # ------------------------------------------------------------ start and end
    def _start(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without GPUs asked for, none are hidden
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        sys.modules.setdefault(_SLOW, None)  # type: ignore[arg-type]
        import ray

        self._ray = ray
        try:
            self._join()
            self._tokens = storage.Tokens.write()
            options = {"num_cpus": 1, "num_gpus": self._gpus, "max_calls": 1 if self._gpus else 0, "max_retries": 0}
            self._task = ray.remote(**options)(_task(self._tokens))
            self._look(force=True)
            if not sum(self._nodes.values()):
                raise SpecError(self._no_room())
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        """Start Ray here, or connect to the cluster."""
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address:
            _reachable(self._address)
            try:
                self._ray.init(address=self._address, **quiet)
            except Exception as error:  # whatever Ray raises, the cure is the same
                raise _no_cluster(self._address, str(error)) from None
        else:
            # Sockets lie in it, whose paths may have about 100 characters
            self._folder = tempfile.mkdtemp(prefix="sslmem-ray-", dir=None if os.name == "nt" else "/tmp")
            options = {"include_dashboard": False, "object_store_memory": _OBJECTS, "_temp_dir": self._folder}
            try:
                with _sooner(Path(self._folder)):
                    self._ray.init(address="local", num_cpus=self._jobs or paths.jobs(), **options, **quiet)
            except Exception as error:
                reason = " ".join(str(error).split())[:200].rstrip(".")
                raise RunError(f"Ray did not start on this machine ({reason}); choose --engine process.") from None
        host, _, port = self._ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = (host.strip("[]"), int(port))

    def close(self) -> None:
        """End what runs and leave the cluster; an embedded Ray ends with all its processes."""
        self._running.clear()
        self._ray.shutdown()
        if self._tokens is not None:
            self._tokens.remove()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------ nodes
    @property
    def slots(self) -> int:
        """Jobs for which there is room now, at least 1: the last node may be followed by a new one."""
        room = max(1, sum(self._nodes.values()))
        return min(room, self._jobs) if self._jobs else room

    def workers(self) -> list[str]:
        """The nodes, each with the jobs it has room for."""
        return [f"{name}: {room}" for name, room in self._nodes.items()]

    def _look(self, force: bool = False) -> None:
        """Ask from time to time whether the head is there and which nodes are. RunError when the head is lost."""
        if not force and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            socket.create_connection(self._head, timeout=_HEAD_SECONDS).close()
        except OSError:
            self._missed += 1
            if self._missed > 1:
                raise _lost_head() from None
            self._looked -= _LOOK_SECONDS - 1  # look again soon
            return
        self._missed = 0
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        self._cores = sum(int(node["Resources"].get("CPU", 0)) for node in nodes) if self._address else paths.jobs()
        self._nodes = {
            f"{node['NodeManagerHostname']}:{node['NodeManagerPort']}": self._room(node["Resources"]) for node in nodes
        }

    def _room(self, resources: dict[str, float]) -> int:
        """Jobs that fit on a node."""
        cores, gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
        if not self._gpus:
            return cores
        each = int(gpus) * int(1 / self._gpus + 1e-9) if self._gpus <= 1 else int(gpus / self._gpus)
        return min(cores, each)

    def _no_room(self) -> str:
        gpus = sum(node["Resources"].get("GPU", 0) for node in self._ray.nodes() if node["Alive"])
        where = f"the cluster at {self._address}" if self._address else "this machine"
        return (
            f"no node of {where} has room for a job with a core and {self._gpus:g} GPUs (it has {gpus:g} GPUs in all); "
            "lower --gpus-per-job or start nodes."
        )

    # ------------------------------------------------------------ jobs
    def submit(self, job: GridJob, attempt: int) -> str:
        """Give a job to Ray, with the artifacts it builds on where workers do not see the store; Ray chooses where."""
        brought = storage.needed(job) if self._apart else {}
        share = 0 if self._gpus else max(1, self._cores // self.slots)
        reference = self._task.options(name=job.label).remote(job.canonical(), attempt, share, brought)
        self._running[reference] = (job, attempt)
        return ""

    def ended(self, timeout: float) -> Ended:
        """The jobs that have ended. RunError when the head of the cluster is gone."""
        self._look()
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        found = (self._outcome(reference, *self._running.pop(reference)) for reference in ready)
        return [outcome for outcome in found if outcome is not None]

    def kill(self, job: GridJob) -> None:
        """End the worker of a job, or take the job back when it has not begun."""
        for reference, (one, _) in self._running.items():
            if one.id == job.id:
                self._killed.add(job.id)
                self._ray.cancel(reference, force=True)

    def _outcome(self, reference: Any, job: GridJob, attempt: int) -> tuple[GridJob, dict[str, Any] | None, str] | None:
        """What became of a job; None when it was sent again with what its worker lacked."""
        killed = job.id in self._killed
        self._killed.discard(job.id)
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:  # of ours, on the worker, outside of the work itself
            return job, _failed(job, str(error.cause)), ""
        except (errors.NodeDiedError, errors.ObjectLostError):
            return job, None, TIMEOUT if killed else LOST
        except (errors.RaySystemError, errors.RpcError, errors.LocalRayletDiedError):
            self._look(force=True)
            return job, None, TIMEOUT if killed else LOST
        except errors.OutOfMemoryError:
            return job, None, "its machine ran out of memory"
        except errors.RayError:  # its process is gone: crashed, cancelled
            return job, None, TIMEOUT if killed else DIED
        if "refused" in answer:
            raise RunError(answer["refused"])
        if "report" not in answer:
            self._apart = True
            self.submit(job, attempt)
            return None
        if "folder" in answer:
            self._apart = True
            try:
                storage.receive(job, answer)
            except SSLMemError as error:
                return job, _failed(job, str(error)), ""
        return job, json.loads(answer["report"]), ""


@contextlib.contextmanager
def _sooner(folder: Path) -> Iterator[None]:
    """Let the processes that are started inside import Ray in a third of the time.

    Ray gives a node 15 seconds to start, in which several of them import it: too short on a busy machine.
    """
    (folder / "without").mkdir()
    (folder / "without" / f"{_SLOW}.py").write_text('raise ImportError("left out")\n')
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder / "without"), before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _task(tokens: storage.Tokens) -> Callable[..., dict[str, Any]]:
    """What workers run. It travels by value (a function in a function does): a worker may lack this package.

    It only finds the folders to work in; nothing of this package is imported before.
    """
    files, text = [str(file) for file in tokens.files], tokens.text
    code, source, variables = str(paths.PACKAGE.parent), storage.source(), storage.variables()

    def job(canonical: str, attempt: int, share: int, brought: dict[str, dict[str, bytes]]) -> dict[str, Any]:
        import os
        import socket
        import sys

        shared = True
        for file in files:  # no function in here: what tests wrap around functions would travel with it
            try:
                with open(file) as opened:
                    shared = shared and opened.read() == text
            except OSError:
                shared = False
        if shared:
            os.environ.update(variables)
            if code not in sys.path and os.path.isdir(os.path.join(code, "sslmem_utils")):
                sys.path.insert(0, code)
        if share:
            os.environ["SSLMEM_JOBS"] = str(share)
        refused = f"{socket.gethostname()} {{}}; bring every node to the same commit (git pull), or share the folder."
        try:
            from sslmem_utils.grid import storage
        except ImportError as error:
            return {"refused": refused.format(f"cannot run this package ({error})")}
        if storage.source() != source:
            return {"refused": refused.format("has another version of this package than the driver")}
        return (storage.work_here if shared else storage.work_apart)(canonical, attempt, brought)

    return inspect.unwrap(job)  # without the checks of types that tests wrap around it, which cannot travel


def _failed(job: GridJob, message: str) -> dict[str, Any]:
    """The report of a job whose worker could not even write one."""
    last = (message.strip().splitlines() or ["unknown error"])[-1]
    empty = {"seconds": 0.0, "memory_mb": 0.0, "host": "", "pid": 0, "device": "", "verdicts": {}, "files": []}
    return {"id": job.id, "status": "failed", "message": last, "again": False, **empty}


def _reachable(address: str) -> None:
    """RunError at once where nobody listens: Ray itself tries for a minute. SpecError for what is no address."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not (colon and port.isdigit()):
        raise SpecError(
            f"RAY_ADDRESS is HOST:PORT of the head, or auto on one of its nodes, found {address!r}; correct it."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2 * _HEAD_SECONDS).close()
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from None


def _no_cluster(address: str, reason: str) -> RunError:
    reason = " ".join(reason.split())[:200].rstrip(".")
    return RunError(
        f"cannot join the Ray cluster at RAY_ADDRESS={address} ({reason}); this machine must be one of its nodes (ray "
        "start --address=...) with the same RAY_AUTH_MODE and RAY_AUTH_TOKEN as the head; without RAY_ADDRESS the grid "
        "runs on this machine alone."
    )


def _lost_head() -> RunError:
    return RunError(
        "the head of the Ray cluster is gone; start it and run the same command again: it goes on from there."
    )
