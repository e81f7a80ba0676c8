"""What to run: notebooks, profiles and overrides resolved and checked before anything starts. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import paths, runs
from ..errors import SpecError
from ..runs import parameters, tables
from ..specs import digest

BEST_FIRST = ("paper", "gpu", "laptop", "classroom", "quick", "smoke")  # by the size of what a profile computes
_ABOUT = re.compile(r"^#\s*about:\s*([\d.]+)\s*min,\s*([\d.]+)\s*GB", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """One notebook to execute: where it is, its profile and all parameters to inject.

    `into` is the folder of its outputs; None is the usual one of its notebook and profile.
    """

    notebook: str
    path: Path
    profile: str
    params: dict[str, Any]
    into: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the run keeps its outputs."""
        return self.into or runs.folder_of(self.notebook, self.profile)

    @property
    def kept(self) -> Path:
        """Where the finished run is kept while the job is executed again."""
        if self.into:
            return self.into.with_name(f"{self.into.name}.kept")
        return paths.BUILD / "kept" / self.profile / self.notebook

    @property
    def lock(self) -> Path:
        """The file that is locked while the job is executed."""
        if self.into:
            return self.into.with_name(f".{self.into.name}.lock")
        return paths.BUILD / "locks" / f"{self.profile}-{self.notebook}.lock"


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a job; `basis` says where the numbers come from."""

    minutes: float | None
    gigabytes: float | None
    basis: str


def notebooks() -> list[str]:
    """Names of all notebooks of the project, in the order of their numbers."""
    return sorted(path.stem for path in paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def select(names: list[str]) -> list[str]:
    """Notebooks by number or name (`3`, `03`, `03_four_sets`, with or without `.ipynb`); none given means all."""
    known = notebooks()
    if not known:
        raise SpecError(f"there are no notebooks in {paths.NOTEBOOKS}; run from the project's top level.")
    chosen = []
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        found = [full for full in known if full == stem or (stem.isdigit() and int(full[:2]) == int(stem))]
        if not found:
            raise SpecError(parameters.unknown("notebook", name, known))
        chosen += [full for full in found if full not in chosen]
    return chosen or known


def profiles(notebook: str) -> list[str]:
    """Names of a notebook's profiles, the largest first."""
    found = [path.stem for path in (paths.PROFILES / notebook).glob("*.yaml")]
    return sorted(found, key=lambda name: (BEST_FIRST.index(name) if name in BEST_FIRST else len(BEST_FIRST), name))


def plan(names: list[str], profile: str, overrides: list[str] | None = None) -> list[Job]:
    """Jobs for notebooks under one profile with `key=value` overrides; raises SpecError before anything runs.

    Without names all notebooks that have the profile are meant.
    """
    chosen = select(names)
    having = [name for name in chosen if profile in profiles(name)]
    lacking = [name for name in chosen if name not in having]
    if lacking and (names or not having):
        raise SpecError(parameters.unknown("profile", profile, profiles(lacking[0]), f"notebook {lacking[0]}"))
    return [_job(name, profile, overrides or []) for name in having]


def _job(notebook: str, profile: str, overrides: list[str]) -> Job:
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    declared = parameters.declared(parameters.read_notebook(path), notebook)
    params = _params(notebook, profile, declared) | _overrides(notebook, declared, overrides)
    return Job(notebook, path, profile, params)


def _params(notebook: str, profile: str, declared: dict[str, parameters.Parameter]) -> dict[str, Any]:
    file = paths.PROFILES / notebook / f"{profile}.yaml"
    where = f"profile {tables.shown(file)}"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise SpecError(f"{where} is not valid YAML{f' (line {mark.line + 1})' if mark else ''}; correct it.") from None
    if not isinstance(values, dict):
        raise SpecError(f"{where} must hold lines `name: value`, found {type(values).__name__}; correct it.")
    if values.get("profile", profile) != profile:
        raise SpecError(f"{where} says profile {values['profile']!r}; make it {profile!r}, the name of the file.")
    return parameters.check({**values, "profile": profile}, declared, where)


def _overrides(notebook: str, declared: dict[str, parameters.Parameter], overrides: list[str]) -> dict[str, Any]:
    values = {}
    where = f"notebook {notebook}"
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise SpecError(f"a parameter is given as name=value, found {override!r}; write for example -p k=20.")
        if name == "profile":
            raise SpecError(f"the profile is chosen with --profile, found -p {override}; write --profile {text}.")
        if name not in declared:
            raise SpecError(parameters.unknown("parameter", name, list(declared), where))
        values[name] = parameters.from_text(declared[name], text, where)
    return values


def rendering_job(notebook: str, profile: str) -> Job:
    """The job that renders a notebook from its committed results, with the parameters that made them."""
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    declared = parameters.declared(parameters.read_notebook(path), notebook)
    found = tables.sidecars(runs.results_of(notebook, profile))
    params = next(iter(found.values()))["params"] if found else {"profile": profile}
    where = f"results/{notebook}/{profile}"
    return Job(notebook, path, profile, parameters.check(params, declared, where))


def committed_profiles(notebook: str) -> list[str]:
    """Profiles whose results are committed for a notebook, the largest first."""
    folder = paths.RESULTS / notebook
    found = {path.parent.name for path in folder.glob("*/*.parquet")}
    order = [name for name in BEST_FIRST if name in found]
    return order + sorted(found - set(order))


def estimate(job: Job) -> Estimate:
    """Minutes and memory of a job: of the longest past run here, else as its profile says.

    Unknown for parameters other than the profile's with which it was never run.
    """
    past = history().get(cost_key(job))
    if past:
        return Estimate(past["seconds"] / 60, past["memory_mb"] / 1024, "longest run here")
    if job.params != plan([job.notebook], job.profile)[0].params:
        return Estimate(None, None, "never run with these parameters")
    match = _ABOUT.search((paths.PROFILES / job.notebook / f"{job.profile}.yaml").read_text(encoding="utf-8"))
    return Estimate(float(match[1]), float(match[2]), "profile") if match else Estimate(None, None, "unknown")


def cost_key(job: Job) -> str:
    """Under which name the cost of a job is remembered."""
    return f"{job.profile}/{job.notebook}/{digest(job.params, length=8)}"


def history_file() -> Path:
    """Where the cost of past runs is kept."""
    return paths.BUILD / "runs" / "history.json"


def history() -> dict[str, dict[str, Any]]:
    """Seconds and memory of the longest run of each profile and notebook on this machine."""
    return tables.read_json(history_file()) if history_file().is_file() else {}


# ---------------------------------------------------------------- digests: what a finished run depended on
def run_digest(job: Job) -> str:
    """Hash of what a computed run depends on: the notebook's source, parameters, the package's source and versions."""
    return digest("run", notebook_source(job.path), job.params, package_source(), _versions())


def rendering_digest(job: Job) -> str:
    """As `run_digest`, for a rendering: the committed tables take part too."""
    folder = runs.results_of(job.notebook, job.profile)
    files = {path.name: tables.sha256(path) for path in sorted(folder.glob("*")) if path.is_file()}
    return digest("render", notebook_source(job.path), job.params, package_source(), _versions(), files)


def notebook_source(path: Path) -> list[list[Any]]:
    """Type, tags and source of each cell: what a notebook is, without outputs and editor metadata."""
    cells = parameters.read_notebook(path)["cells"]
    return [[c.get("cell_type"), c.get("metadata", {}).get("tags", []), parameters.source(c)] for c in cells]


CALLERS = {"book", "cli"}  # rooms that call notebooks and that no other room imports


@functools.cache
def package_source() -> str:
    """Hash of the source of every module that a notebook can come to use."""
    total = hashlib.sha256()
    for path in sorted(paths.PACKAGE.rglob("*.py")):
        name = path.relative_to(paths.PACKAGE)
        if name.parts[0] not in CALLERS:
            total.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def _versions() -> list[str]:
    names = ("torch", "numpy", "pandas", "matplotlib")
    return [platform.python_version(), *(importlib.metadata.version(name) for name in names)]


def canonical(params: dict[str, Any]) -> str:
    """Parameters as one line of JSON, to compare and to show."""
    return json.dumps(params, sort_keys=True, ensure_ascii=False)
