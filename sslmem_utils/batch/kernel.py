"""Execute one notebook through papermill in a fresh kernel of the running interpreter."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .. import paths
from ..errors import RunError
from ..runs.parameters import INJECTED
from ..runs.tables import shown
from ..store import explained
from . import warm
from .progress import Progress

_START_SECONDS = 300  # a loaded machine may need long to import what a kernel needs
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_QUIET = "ignore:IProgress not found"  # tqdm would rather draw a widget, which no page could show
HIDDEN = "remove-cell"  # tag by which the book leaves a cell out
OUTPUT_LIMIT = 5_000_000  # characters that a cell may write and keep; beyond, its beginning and its end are kept
_LOOKS = 100  # times as long as a look at the memory takes, between two: the more memory, the longer a look
LEFT_OUT = "\n[... some output is left out here ...]\n"


class Killed(RunError):
    """The kernel was killed, perhaps while it started: another attempt may succeed."""


class TooLong(RunError):
    """The notebook took longer than allowed."""


@dataclass(frozen=True)
class Limits:
    """What a kernel may take: `minutes` in all (None: any), and `jobs`, the cores: encoders at a time, threads.

    Without `jobs` the environment decides (`paths.jobs`, OMP_NUM_THREADS).
    """

    minutes: float | None = None
    jobs: int | None = None


@dataclass
class Usage:
    """What a kernel and its children used: the most memory that was seen, in MB."""

    memory_mb: float = 0.0
    pid: int | None = None
    timed_out: bool = False
    stopped: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self, minutes: float | None) -> None:
        """Sample the memory, once a second where that is cheap; kill the kernel when its time is up."""
        waited, due = 0.0, 0.0
        while not self.done.wait(1.0):
            waited += 1.0
            if self.pid is None:
                continue
            if self.stopped:
                self.kill()
            if waited >= due:
                began = time.thread_time()
                self._look()
                due = waited + _LOOKS * (time.thread_time() - began)
            if minutes is not None and waited > minutes * 60:
                self.timed_out = True
                self.kill()

    def _look(self) -> None:
        import psutil

        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            used = sum(_private(one) for one in [process, *process.children(recursive=True)])
            self.memory_mb = max(self.memory_mb, used / 2**20)

    def stop(self) -> None:
        """End the kernel at once, or as soon as it has started; from any thread."""
        self.stopped = True
        self.kill()

    def kill(self) -> None:
        """End the kernel and every process it started (they share its process group)."""
        if self.pid is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def _private(process: Any) -> int:
    """Bytes of a process; pages that several processes share count once in all where the system says so (Linux)."""
    info = process.memory_full_info()
    return getattr(info, "pss", 0) or info.uss


def execute(
    source: Path,
    output: Path,
    params: dict[str, Any],
    progress: Progress,
    *,
    render: bool = False,
    forked: bool = False,
    limits: Limits | None = None,
    usage: Usage | None = None,
) -> None:
    """Execute `source` with injected parameters into `output`; raises RunError with the error's last line.

    The notebook is saved after each cell to `executing.ipynb` beside `output`, moved to `output` when all went well
    and to `failed.ipynb` otherwise; what the kernel itself said is then in `kernel.log`. `usage` tells what was used,
    also of one that fails. With `render` nothing is lost on a kill, and it is saved once. With `forked` the kernel is a
    warm one where that can be.
    """
    partial, failed, log = (output.with_name(name) for name in ("executing.ipynb", "failed.ipynb", "kernel.log"))
    with explained(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        failed.unlink(missing_ok=True)
    limits, usage = limits or Limits(), usage or Usage()
    environment = _environment(render, output.parent, limits.jobs)
    forked = forked and (warm.AVAILABLE if render else warm.COMPUTING)
    if forked:
        warm.ready(environment, not render)  # it imports while this process does
    watcher = threading.Thread(target=usage.watch, args=(limits.minutes,), daemon=True)
    watcher.start()
    try:
        with _connection() as connection, log.open("wb") as stream, _event_loop():
            start = functools.partial(warm.launch, computing=not render, log=stream) if forked else None
            manager = _manager(environment, connection, stream, usage, start)
            notebook = _papermill(source, partial, params, progress, manager, keep=not render)
        _finish(notebook, partial)
        os.replace(partial, output)
        log.unlink()
    except RunError as error:
        kind, message = type(error), str(error)
        if usage.timed_out:
            kind, message = TooLong, f"it took longer than the {limits.minutes:g} minutes allowed."
        if partial.is_file():
            os.replace(partial, failed)
            message = f"{message} (see {shown(failed)})"
        raise kind(message) from None
    finally:
        usage.done.set()
        usage.kill()
        watcher.join()


def _papermill(
    source: Path, partial: Path, params: dict[str, Any], progress: Progress, manager: type, keep: bool
) -> Any:
    """Run papermill, turning whatever it raises into a RunError of one line; `keep` saves after each cell."""
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # jsonschema's check of IRIs: 2.4 s
    import nbformat
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook

    with source.open(encoding="utf-8") as file:
        notebook = nbformat.read(file, as_version=4)
    total, heard = len(notebook.cells), _Heard(progress)
    try:
        return execute_notebook(
            notebook,
            str(partial),
            params,
            kernel_name="python3",  # only a label: the manager starts this interpreter whatever is installed
            language="python",
            progress_bar=False,
            request_save_on_cell_execute=keep,
            start_timeout=_START_SECONDS,
            iopub_timeout=_START_SECONDS,
            kernel_manager_class=manager,
            stdout_file=heard,
            stderr_file=heard,
            on_cell_start=lambda cell, cell_index: heard.begin(cell),
            on_cell_complete=lambda cell, cell_index: progress.cell(cell_index + 1, total + 1),
            resources={"metadata": {"path": str(source.parent)}},  # the kernel's folder, as in Jupyter
        )
    except PapermillExecutionError as error:
        lines = _ANSI.sub("", str(error.evalue)).strip().splitlines() or [""]
        raise RunError(f"{error.ename}: {lines[-1]}") from None
    except DeadKernelError:
        raise Killed("its kernel was killed; if it ran out of memory, choose a smaller profile.") from None
    except RuntimeError as error:
        raise Killed(f"its kernel did not start ({error}); try `sslmem doctor`.") from None


class _Heard:
    """Passes on what a notebook writes; of a cell that writes too much, the middle is dropped from the notebook."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.begin(None)

    def begin(self, cell: Any) -> None:
        """The cell whose output follows."""
        self.cell, self.written, self.held, self.mark = cell, 0, 0, LEFT_OUT
        self.tail: deque[tuple[Any, str, deque[str]]] = deque()  # outputs: what of each is kept, the end in pieces

    def write(self, text: str) -> None:
        """Take a piece that papermill has put at the end of the cell's outputs."""
        self.progress.write(text)
        self.written += len(text)
        over = self.written - OUTPUT_LIMIT // 2
        if over <= 0 or self.cell is None or not self.cell.outputs:
            return
        first = max(0, len(text) - over)
        self.tail.append((self.cell.outputs[-1], text[:first], deque(pieces(text[first:]))))
        self.held += len(text) - first
        while self.held > OUTPUT_LIMIT // 2:
            output, head, rest = self.tail[0]  # it stays in its place, because displays are known by theirs
            while rest and self.held > OUTPUT_LIMIT // 2:
                self.held -= len(rest.popleft())
            output.text = head + self.mark + "".join(rest)
            if not rest:
                self.tail.popleft()
                self.mark = ""

    def flush(self) -> None:
        """Called after each `write`."""
        self.progress.flush()


def pieces(text: str, size: int = 50_000) -> Iterator[str]:
    """A text in pieces of at most so many characters."""
    return (text[start : start + size] for start in range(0, len(text), size))


def _finish(notebook: Any, path: Path) -> None:
    """Hide the injected cell, drop this machine's paths from the metadata, and save."""
    import nbformat

    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []) and cell.source.startswith(INJECTED):
            cell.metadata.tags = [*cell.metadata.tags, HIDDEN]
        cell.metadata.pop("papermill", None)
    notebook.metadata.pop("papermill", None)
    path.write_text(nbformat.writes(notebook), encoding="utf-8")


def _environment(render: bool, outputs: Path, jobs: int | None) -> dict[str, str]:
    """Environment of the kernel: this project, this package, no startup files of the user, no needless warnings."""
    known = {name: value for name, value in os.environ.items() if name not in ("SSLMEM_RENDER", "SSLMEM_RUN")}
    search = [str(paths.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **known,
        "SSLMEM_ROOT": str(paths.ROOT),
        "SSLMEM_BUILD": str(paths.BUILD.resolve()),  # whole paths: a notebook works in its own folder
        "SSLMEM_DATA": str(paths.data_dir().resolve()),
        "SSLMEM_STORE": str(paths.store_dir().resolve()),
        "PYTHONPATH": os.pathsep.join(search),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), _QUIET])),
        "IPYTHONDIR": str(paths.BUILD.resolve() / "ipython"),
        **({"SSLMEM_JOBS": str(jobs), "OMP_NUM_THREADS": str(jobs)} if jobs else {}),
        **({"SSLMEM_RENDER": "1"} if render else {"SSLMEM_RUN": str(outputs.resolve())}),
    }


@contextlib.contextmanager
def _connection() -> Iterator[Path]:
    """A connection file in a short-named folder of its own: socket paths may have 100 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="sslmem-"))
    try:
        yield folder / "k.json"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _event_loop() -> Iterator[None]:
    """Close the event loop that the kernel's client leaves open in this thread."""
    from jupyter_core.utils import ensure_event_loop

    try:
        yield
    finally:
        loop = ensure_event_loop()
        if not loop.is_running():  # a running one belongs to the caller
            loop.close()


def _manager(
    environment: dict[str, str],
    connection: Path,
    log: IO[bytes],
    usage: Usage,
    fork: Callable[..., warm.Fork] | None,
) -> type:
    """A kernel manager class that starts `sys.executable` (or a warm kernel), whatever kernel specs are installed.

    Sockets are files where the system has them: no open ports, and runs where the loopback network is down.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = KernelSpec(argv=command, display_name="Python 3", language="python")

    class Forking(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
            self.process = fork(cmd[cmd.index("-f") :], options["env"], folder=options["cwd"])
            self.pid = self.pgid = self.process.pid
            return self.connection_info

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            transport = "tcp" if os.name == "nt" else "ipc"
            super().__init__(**{**options, "transport": transport, "connection_file": str(connection)})

        @property
        def kernel_spec(self) -> KernelSpec:
            return spec

        async def _async_start_kernel(self, **options: Any) -> None:
            if fork is not None:
                self.provisioner = Forking(kernel_id=self.kernel_id, kernel_spec=spec, parent=self)
            # Output of cells arrives as messages; what remains are words of the kernel about itself
            added = {"env": dict(environment), "stdout": log, "stderr": log}
            await super()._async_start_kernel(**{**options, **added})
            usage.pid = self.provisioner.pid

        start_kernel = _async_start_kernel

    return Manager
