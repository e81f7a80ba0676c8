"""Show how notebooks get on: a bar in a terminal, else the notebook's own lines, each behind its name."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any


class Progress:
    """Hears what a running notebook writes and how many of its cells are done; says nothing (pages being rendered)."""

    def write(self, text: str) -> None:
        """A piece of the notebook's standard output or error."""

    def flush(self) -> None:
        """Called after each `write`."""

    def cell(self, done: int, total: int) -> None:
        """So many cells are done."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The notebook has ended."""


class Lines(Progress):
    """Prints each finished line behind the notebook's name; for logs and pipes."""

    def __init__(self, notebook: str, stream: Any = None) -> None:
        self.notebook, self.stream = notebook, stream or sys.stderr
        self._rest = ""

    def write(self, text: str) -> None:
        """Take a piece of output; of a line rewritten with carriage returns only the last state counts."""
        *lines, self._rest = (self._rest + text).replace("\r\n", "\n").split("\n")
        for line in lines:
            if line := line.rstrip("\r").rpartition("\r")[2].strip():
                print(f"[{self.notebook}] {line}", file=self.stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.write("\n")


class Bar(Progress):
    """One line in a terminal: cells done, time, and the last line the notebook wrote."""

    _lock = threading.Lock()
    _shown: Any = None  # what draws the bars of all notebooks that run
    _running = 0

    def __init__(self, notebook: str) -> None:
        self._notebook = notebook

    @staticmethod
    def _drawing() -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Rich
        from rich.table import Column

        last = TextColumn("{task.fields[last]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
        columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), last)
        return Rich(*columns, console=Console(stderr=True), transient=True)

    def write(self, text: str) -> None:
        """Show the last line."""
        lines = text.replace("\r", "\n").strip().splitlines()
        if lines:
            self._rich.update(self._task, last=lines[-1])

    def cell(self, done: int, total: int) -> None:
        """Move the bar."""
        self._rich.update(self._task, completed=done, total=total)

    def __enter__(self) -> Bar:
        with Bar._lock:
            if not Bar._running:
                Bar._shown = self._drawing()
                Bar._shown.start()
            Bar._running += 1
            self._rich = Bar._shown
        self._task = self._rich.add_task(self._notebook, total=None, last="starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with Bar._lock:
            Bar._running -= 1
            self._rich.remove_task(self._task)
            if not Bar._running:
                self._rich.stop()


def following(notebook: str) -> Progress:
    """What shows the progress of one notebook here."""
    return Bar(notebook) if sys.stderr.isatty() else Lines(notebook)
