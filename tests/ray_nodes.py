"""Ray nodes on this machine, each a process tree of its own that tests start and kill."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "SSLMEM_TEST_NODE"  # in the environment of every process of a node


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Node:
    """`ray start --block`: the head of a cluster at `address`, or a node that joins it.

    `variables` are added to the environment; `hide` is a folder that the node's processes see empty (Linux, root).
    """

    def __init__(self, address: str, head: bool, *options: str, hide: Path | None = None, **variables: str) -> None:
        # Sockets lie in this folder, whose paths may have about 100 characters
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.name = self.folder.name
        host, _, port = address.rpartition(":")
        where = ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
        where = where if head else [f"--address={address}"]
        ray = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        command = [ray, "start", "--block", "--disable-usage-stats", *where, f"--temp-dir={self.folder}", *options]
        if hide is not None:
            inner = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", inner, str(hide), *command]
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
        (self.folder / "rfc3987_syntax.py").write_text("raise ImportError\n")  # as the engine does: it starts sooner
        search = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        self._command, self._env = command, env | variables | {MARK: self.name, "PYTHONPATH": search}
        self._start()

    def _start(self) -> None:
        with (self.folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self, attempts: int = 4) -> Node:
        """Wait until the node has started. RuntimeError with what Ray said when it does not.

        Ray gives a node 30 seconds, which is too short on a busy machine: hence the attempts.
        """
        log = self.folder / "log.txt"
        while "Ray runtime started" not in log.read_text():
            if self.process.poll() is not None:
                attempts -= 1
                if not attempts:
                    raise RuntimeError(f"ray start failed: {log.read_text()[-2000:]}")
                self._end()
                self._start()
            time.sleep(0.2)
        return self

    def processes(self) -> list[psutil.Process]:
        """All processes of this node."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.name:
                    found.append(process)
        return found

    def kill(self) -> None:
        """End the node at once, as a machine that loses its power."""
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        for _ in range(3):  # what was being started meanwhile
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.2)
        self.process.wait()


@contextlib.contextmanager
def nodes() -> Iterator[list[Node]]:
    """A list for the nodes that are started inside; they end with it."""
    found: list[Node] = []
    try:
        yield found
    finally:
        for node in reversed(found):
            if node.folder.exists():
                node.kill()
