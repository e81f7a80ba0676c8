"""Kernels forked from one process that has already imported what they need.

A page made from committed results spends most of its time importing pandas, matplotlib and IPython, and a small
notebook that computes a good part of it importing torch: a server process imports them once and forks a kernel for
each notebook (Linux; elsewhere kernels start as always). The server imports libraries only, nothing of this package,
and ends when the process that started it does.

This file is also the server's script, so it imports only the standard library at its top.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

AVAILABLE = sys.platform == "linux"
# A process forked from one that has asked for CUDA devices, as imports may, cannot use them
COMPUTING = AVAILABLE and not Path("/dev/nvidiactl").exists()
_PRELOADED = ("ipykernel.kernelapp", "ipykernel.ipkernel", "pandas", "pyarrow.parquet", "scipy.special", "pydantic")
_PRELOADED += ("matplotlib.figure", "matplotlib.backends.backend_svg", "matplotlib_inline.config", "filelock", "yaml")
_COMPUTING = ("torch._dynamo", "torchvision", "lightly.loss", "lightly.models.modules", "timm", "safetensors.torch")
_COMPUTING += ("scipy.stats", "sklearn.linear_model", "sklearn.model_selection")
_lock = threading.Lock()
_servers: dict[bool, subprocess.Popen[str]] = {}  # of kernels that compute, and of those that render


class Fork:
    """A forked kernel, with as much of `subprocess.Popen` as jupyter_client's provisioner uses."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while the kernel runs, else 0 (its exit status is the server's, and nobody asks for it)."""
        try:
            self.send_signal(0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        """To be called once `poll` says that it has ended."""
        return 0

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when the kernel has ended."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    terminate = kill


def ready(environment: dict[str, str], computing: bool) -> subprocess.Popen[str]:
    """A server of this process, started on first use; it imports while the caller goes on."""
    with _lock:
        if computing not in _servers or _servers[computing].poll() is not None:
            command = [sys.executable, "-P", __file__, *(_COMPUTING if computing else ())]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            _servers[computing] = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
        return _servers[computing]


def launch(arguments: list[str], environment: dict[str, str], computing: bool, folder: str, log: IO[bytes]) -> Fork:
    """Fork a kernel with these arguments of ipykernel; what it says itself goes to `log`.

    Raises RuntimeError when the server does not answer.
    """
    order = {"arguments": arguments, "environment": environment, "folder": folder, "log": str(Path(log.name).resolve())}
    server = ready(environment, computing)
    with _lock, contextlib.suppress(OSError, ValueError):
        print(json.dumps(order), file=server.stdin, flush=True)
        return Fork(int(server.stdout.readline()))
    raise RuntimeError("the process that forks kernels has ended")


@atexit.register
def stop() -> None:
    """End the server; a kernel that still runs notices and ends too."""
    with _lock:
        while _servers:
            _, server = _servers.popitem()
            for pipe in (server.stdin, server.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            server.wait()


def _serve() -> None:
    """Fork a kernel for each line of standard input, answering its process id."""
    import importlib

    for name in (*_PRELOADED, *sys.argv[1:]):
        with contextlib.suppress(ImportError):  # a kernel that needs it will say so
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended kernels leave no zombies
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
            os._exit(0)
        print(pid, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Turn this forked process into the kernel that the order asks for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for flags, numbers in ((os.O_RDONLY, (0,)), (os.O_WRONLY, (1, 2))):
        opened = os.open(os.devnull if flags == os.O_RDONLY else order["log"], flags | os.O_APPEND)
        for number in numbers:
            os.dup2(opened, number)
    sys.path[:0] = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part not in sys.path]
    from ipykernel.kernelapp import launch_new_instance

    # The kernel ends when its parent does; it read who that is from the environment when it was imported
    launch_new_instance(argv=[*order["arguments"], f"--IPKernelApp.parent_handle={os.getppid()}"])


if __name__ == "__main__":
    _serve()
