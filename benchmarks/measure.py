"""Measuring by turns, on one core or with several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Work = Callable[[], object]


def cpu_rate(work: Work, items: int, times: int = 1) -> Callable[[], float]:
    """A measurement: items a second of this process's CPU clock, `work` done so many times."""

    def measure() -> float:
        start = time.process_time()
        for _ in range(times):
            work()
        return items * times / (time.process_time() - start)

    return measure


def by_turns(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """What each side measured in every repetition, the sides taking turns; a first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name, measure in sides.items():
            value = measure()
            if number:
                found[name].append(value)
    return found


class Pause(Protocol):
    """Called by a worker before each round of work: waits until the round is asked for.

    `seconds` is what the round before took, where the worker knows better than the clock of the one who asked.
    """

    def __call__(self, seconds: float | None = None) -> None: ...


class _Over(Exception):
    """No more rounds."""


def _serve(pipe: Any, cores: list[int]) -> None:
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)

    def pause(seconds: float | None = None) -> None:
        pipe.send(seconds)
        if not pipe.recv():
            raise _Over

    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            function, arguments = pipe.recv()
            try:
                function(pause, *arguments)
                pipe.send(f"{function.__name__} ended before it was told to")
            except (_Over, EOFError):
                continue
            except Exception as error:  # shown by the process that waits
                pipe.send(f"{type(error).__name__}: {error}")


class Crew:
    """Processes that work in rounds. Each runs `function(pause, *arguments)`, which calls `pause()` before each round.

    Between rounds they sleep, so that two crews can be measured by turns. Start and imports are not measured.
    """

    def __init__(self, size: int, cores: list[int] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, cores or []))
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()  # ends what waits for it
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.terminate()
                process.join()

    def give(self, function: Callable[..., None], *arguments: tuple[Any, ...]) -> None:
        """Start `function`, with one tuple of arguments a process; returns when all have been built."""
        for pipe, some in zip(self._pipes, arguments, strict=True):
            pipe.send((function, some))
        self._wait()

    def seconds(self) -> float:
        """Seconds of one round of all processes: as they say, else on the wall clock."""
        start = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(True)
        said = self._wait()
        return time.perf_counter() - start if None in said else max(said)

    def stop(self) -> None:
        """No more rounds of this function."""
        for pipe in self._pipes:
            pipe.send(False)

    def _wait(self) -> list[float | None]:
        said = [pipe.recv() for pipe in self._pipes]
        for one in said:
            if isinstance(one, str):
                raise RuntimeError(f"a process of the benchmark failed: {one}")
        return said


def two_cores() -> list[int]:
    """Two of the cores this process may use ([] where the system does not tell)."""
    return sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
