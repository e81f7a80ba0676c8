"""How a grid is run: the options of the command, checked before anything starts. Imports no torch."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, fields

from .. import paths
from ..errors import SpecError
from ..runs import parameters
from .jobs import GridJob
from .plan import Plan

ENGINES = ("serial", "process", "ray")
_YEAR = 525_600  # minutes; timers take no more than some years


@dataclass(frozen=True)
class Options:
    """How a plan is run; SpecError for what cannot be.

    `jobs` at a time (default: the cores; one for the engine serial), each with a share of a GPU on the engine ray. A
    job that was killed or took longer than `timeout` minutes is tried again `retries` times.
    """

    engine: str = "serial"
    jobs: int | None = None
    gpus_per_job: float = 0.0
    retries: int = 2
    timeout: float | None = None

    def __post_init__(self) -> None:
        engine, jobs, gpus = self.engine, self.jobs, self.gpus_per_job
        if engine not in ENGINES:
            raise SpecError(parameters.unknown("engine", engine, list(ENGINES)))
        if jobs is not None and jobs < 1:
            raise SpecError(f"at least one job runs at a time, found --jobs {jobs}; give 1 or more.")
        if engine == "serial" and jobs not in (None, 1):
            raise SpecError(f"the engine serial runs one job at a time, found --jobs {jobs}; choose --engine process.")
        if gpus and engine != "ray":
            raise SpecError(f"only the engine ray shares out GPUs, found --gpus-per-job {gpus:g}; add --engine ray.")
        if not (0 <= gpus <= 1 or (math.isfinite(gpus) and gpus > 1 and gpus == int(gpus))):
            raise SpecError(
                f"GPUs a job are a share of one (0.25 for example) or a whole number, found {gpus:g}; "
                "change --gpus-per-job."
            )
        if self.retries < 0:
            raise SpecError(f"the number of retries is 0 or more, found {self.retries}; correct it.")
        if self.timeout is not None and not 0 < self.timeout <= _YEAR:
            raise SpecError(
                f"the timeout is a positive number of minutes, {_YEAR:,} (a year) at most, found {self.timeout:g}; "
                "correct it."
            )

    def slots(self, left: int) -> int | None:
        """Jobs at a time when so many are left; None when only Ray can tell."""
        if self.engine == "serial":
            return 1
        if self.engine == "ray" and (self.gpus_per_job or os.environ.get("RAY_ADDRESS")):
            return None
        return max(1, min(self.jobs or paths.jobs(), left))

    def check_devices(self, jobs: Iterable[GridJob]) -> None:
        """SpecError for a computation on a GPU when all are done on this machine and it has none."""
        asking = next((job for job in jobs if job.kind != "notebook" and job.params["device"] == "cuda"), None)
        if asking is None or self.engine == "ray":
            return
        import torch

        if not torch.cuda.is_available():
            raise SpecError(
                f"{asking.label!r} asks for the device cuda, and this machine has no GPU that works; remove `device` "
                "from the plan or run it where there is one."
            )

    def command(self, plan: Plan) -> str:
        """What to type to go on: everything that is not as the command has it by itself."""
        words = ["sslmem", "grid", plan.path, "--engine", self.engine]
        for field in fields(self)[1:]:
            if (value := getattr(self, field.name)) != field.default:
                words += [f"--{field.name.replace('_', '-')}", str(value)]
        return shlex.join([*words, "--yes"] if plan.many else words)
