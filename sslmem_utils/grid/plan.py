"""Read a plan: notebooks and plain computations with grids of typed parameters. Imports no torch.

    name: methods                  # default: the name of the file
    jobs:
      - notebook: 02_mnist_toy     # by number or name
        profile: quick
        params: {epochs: 60}       # the same in all jobs of this entry
        grid: {seeds: [2, 3]}      # every combination ...
        zip: {a: [1, 2], b: [3, 4]}  # ... with each of these sets of values, taken together
        exclude: [{seeds: 3, a: 2}]  # but not where all of these hold
      - compute: score             # or train, probe
        params: {dataset: digits, shared: 40, candidate: 40, external: 80}
        grid: {method: [simclr, vicreg], seed: [0, 1]}

Everything is checked before anything starts: names, types, sizes, and that the whole is not larger than meant.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from .. import batch
from ..errors import SpecError
from ..runs import parameters
from ..specs import digest
from . import computations
from .jobs import GridJob

MANY = 10_000  # jobs that a plan may have without being asked twice
_NODES = 200_000  # values in a plan, aliases written out
_BYTES = 4_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ENTRY = ("notebook", "compute", "profile", "params", "grid", "zip", "exclude")
_FLOAT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")


@dataclass(frozen=True)
class Wanted:
    """One notebook or computation of a plan with all that the plan says; `varied` names what differs between them."""

    kind: str
    params: dict[str, Any]
    varied: tuple[str, ...]
    notebook: str = ""


@dataclass(frozen=True)
class Plan:
    """A checked plan: its name, its file, and what it wants, in order and without repetitions.

    `many`: it asks for more than MANY jobs and was read with `yes`.
    """

    name: str
    path: str
    wanted: tuple[Wanted, ...]
    many: bool = False

    def jobs(self) -> list[GridJob]:
        """All jobs, each after what it needs; loads torch when there are computations.

        Raises SpecError, SplitError or DataError for a computation that cannot be done.
        """
        found: dict[str, GridJob] = {}
        once = computations.Once()
        for wanted in self.wanted:
            for job in _jobs(wanted, self.name, once):
                if job.id not in found or (job.wanted and not found[job.id].wanted):
                    found[job.id] = job  # a key that is there keeps its place
        known = Counter(job.label for job in found.values())
        told = (f"{job.label} ({job.id[:6]})" if known[job.label] > 1 else job.label for job in found.values())
        return [replace(job, label=label) for job, label in zip(found.values(), told, strict=True)]


def _jobs(wanted: Wanted, plan: str, once: computations.Once) -> Iterator[GridJob]:
    if wanted.kind != "notebook":
        yield from computations.jobs_of(wanted.kind, wanted.params, wanted.varied, plan, once)
        return
    profile = wanted.params["profile"]
    told = [f"{name}={_short(wanted.params[name])}" for name in wanted.varied]
    yield GridJob(
        plan=plan,
        id=digest("notebook", wanted.notebook, wanted.params),
        kind="notebook",
        label=" ".join([wanted.notebook, profile, *told]),
        params=wanted.params,
        family=f"notebook/{wanted.notebook}/{profile}/{digest(wanted.params, length=8)}",
        notebook=wanted.notebook,
    )


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def read(path: Path, yes: bool = False) -> Plan:
    """The plan in a YAML file; SpecError of one sentence for whatever is wrong with it.

    More than MANY jobs are refused, before they are written out, unless `yes`.
    """
    values = _load(path)
    where = f"plan {path.name}"
    if not isinstance(values, dict):
        raise SpecError(f"{where} must hold `jobs:` with a list of entries, found {_kind(values)}.")
    _known(values, ("name", "jobs"), "key", where)
    name = values.get("name", re.sub(r"[^a-z0-9_-]", "_", path.stem.lower()))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(f"{where}: a name has letters a to z, digits, - and _ only, found {name!r}; rename it.")
    entries = values.get("jobs")
    if not isinstance(entries, list) or not entries:
        raise SpecError(f"{where} must have a list `jobs` of at least one entry, found {_kind(entries)}.")
    checked = [_Entry(entry, f"{where}, entry {number}") for number, entry in enumerate(entries, 1)]
    total = sum(entry.size for entry in checked)
    if total > MANY and not yes:
        raise SpecError(f"{where} asks for {total:,} jobs, more than {MANY:,}; make it smaller or add --yes.")
    found: dict[str, Wanted] = {}
    for entry in checked:
        for wanted in entry.expand():
            found.setdefault(digest(wanted.kind, wanted.notebook, wanted.params), wanted)
    return Plan(name, str(path), tuple(found.values()), total > MANY)


class _Entry:
    """One entry of a plan with its values checked; `size` is how many jobs it makes before `exclude`."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise SpecError(f"{where} must hold `notebook:` or `compute:`, found {_kind(values)}.")
        _known(values, _ENTRY, "key", where)
        if ("notebook" in values) == ("compute" in values):
            raise SpecError(
                f"{where} must have one of `notebook` and `compute`, found {', '.join(values) or 'nothing'}."
            )
        self.where = where
        self.kind, self.notebook, self._fit, names, self.fixed = _target(values, where)
        params = _mapping(values, "params", where)
        self.grid, zipped = (self._axes(_mapping(values, part, where), part) for part in ("grid", "zip"))
        for name in (*params, *self.grid, *zipped):
            self._name(name, names)
        for one, other, words in (
            (params, self.grid, "`params` and in `grid`"),
            (params, zipped, "`params` and in `zip`"),
            (self.grid, zipped, "`grid` and in `zip`"),
        ):
            if twice := sorted(set(one) & set(other)):
                raise SpecError(f"{where}: {twice[0]!r} is given both in {words}; take one of them away.")
        self.fixed |= {name: self._fit(name, value) for name, value in params.items()}
        fitted = {name: [self._fit(name, value) for value in some] for name, some in self.grid.items()}
        self.grid = {name: self._distinct("grid", name, some) for name, some in fitted.items()}
        self.zipped = self._rows({name: [self._fit(name, value) for value in some] for name, some in zipped.items()})
        self.varied = (*self.grid, *zipped)
        self.exclude = self._excluded(values.get("exclude", []), names)
        self.size = max(1, len(self.zipped)) * math.prod(map(len, self.grid.values()))

    def _name(self, name: Any, names: list[str]) -> None:
        if name == "profile" and self.kind == "notebook":
            raise SpecError(f"{self.where}: the profile is chosen with `profile: NAME` beside `notebook`, not in here.")
        if name not in names:
            what = f"{self.where}, {self.notebook or self.kind}"
            raise SpecError(parameters.unknown("parameter", str(name), names, what))

    def _axes(self, values: dict[str, Any], part: str) -> dict[str, list[Any]]:
        for name, some in values.items():
            if not isinstance(some, list) or not some:
                found = "an empty list" if some == [] else repr(some)
                raise SpecError(f"{self.where}: `{part}` needs a list of values for {name!r}, found {found}.")
        return values

    def _distinct(self, part: str, name: str, values: list[Any]) -> list[Any]:
        seen: set[str] = set()
        for value in values:
            if (mark := repr(value)) in seen:
                raise SpecError(f"{self.where}: `{part}` has {value!r} twice for {name!r}; take one of them away.")
            seen.add(mark)
        return values

    def _rows(self, zipped: dict[str, list[Any]]) -> list[dict[str, Any]]:
        lengths = {name: len(values) for name, values in zipped.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
            raise SpecError(f"{self.where}: `zip` takes values together, so it needs equally many, found {found}.")
        rows = [dict(zip(zipped, row, strict=True)) for row in zip(*zipped.values(), strict=True)]
        return self._distinct("zip", " and ".join(zipped), rows)

    def _excluded(self, values: Any, names: list[str]) -> list[dict[str, Any]]:
        if not isinstance(values, list) or not all(isinstance(one, dict) and one for one in values):
            raise SpecError(f"{self.where}: `exclude` is a list of values such as [{{seed: 1}}], found {values!r}.")
        for one in values:
            for name in one:
                self._name(name, names)
                if name not in self.varied:
                    raise SpecError(f"{self.where}: `exclude` names {name!r}, which neither `grid` nor `zip` varies.")
        return [{name: self._fit(name, value) for name, value in one.items()} for one in values]

    def expand(self) -> Iterator[Wanted]:
        """Each combination that is not excluded, checked as a whole."""
        hits, left = [0] * len(self.exclude), 0
        for row in self.zipped or [{}]:
            for combination in itertools.product(*self.grid.values()):
                point = {**row, **dict(zip(self.grid, combination, strict=True))}
                matching = [all(point[name] == value for name, value in one.items()) for one in self.exclude]
                hits = [hit + match for hit, match in zip(hits, matching, strict=True)]
                if any(matching):
                    continue
                left += 1
                params = self.fixed | point
                if self.kind != "notebook":
                    _checked(self.kind, params, self.where)
                yield Wanted(self.kind, params, self.varied, self.notebook)
        for one, hit in zip(self.exclude, hits, strict=True):
            if not hit:
                raise SpecError(f"{self.where}: `exclude` {one} is true of no job; correct it or take it away.")
        if not left:
            raise SpecError(f"{self.where}: `exclude` leaves no job; correct it or take the entry away.")


Fit = Callable[[str, Any], Any]


def _target(values: dict[str, Any], where: str) -> tuple[str, str, Fit, list[str], dict[str, Any]]:
    """Kind, notebook, check of one value, names of parameters, and the values that hold unless the plan says others."""
    if "compute" in values:
        kind = values["compute"]
        if not isinstance(kind, str):
            raise SpecError(f"{where}: `compute` must be one name, found {_kind(kind)}; make one entry of each.")
        if kind not in computations.COMPUTATIONS:
            raise SpecError(parameters.unknown("computation", kind, list(computations.COMPUTATIONS), where))
        if "profile" in values:
            raise SpecError(
                f"{where}: `profile` belongs to notebooks, and this is the computation {kind!r}; remove it."
            )
        return kind, "", lambda name, value: value, computations.names_of(kind), {}
    given, profile = values["notebook"], values.get("profile", "quick")
    for key, value in (("notebook", given), ("profile", profile)):
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise SpecError(f"{where}: `{key}` must be one name, found {value!r}.")
    try:
        job = batch.plan([str(given)], str(profile))[0]
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    declared = parameters.declared(parameters.read_notebook(job.path), job.notebook)

    def fit(name: str, value: Any) -> Any:
        if declared[name].kind.startswith("list") and not isinstance(value, list):
            value = [value]  # as on the command line, where seeds=2 is a list of one
        return parameters.check({name: value}, declared, f"{where}, {job.notebook}")[name]

    return "notebook", job.notebook, fit, list(declared), dict(job.params)


def _checked(kind: str, params: dict[str, Any], where: str) -> None:
    missing = [
        name
        for name, field in computations.COMPUTATIONS[kind].model_fields.items()
        if field.is_required() and name not in params
    ]
    if missing:
        raise SpecError(f"{where}: {kind} needs a value for {', '.join(missing)}; add it under `params` or `grid`.")
    try:
        computations.COMPUTATIONS[kind](**params)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _mapping(values: dict[str, Any], part: str, where: str) -> dict[str, Any]:
    found = values.get(part, {})
    if not isinstance(found, dict):
        raise SpecError(f"{where}: `{part}` must hold lines `name: value`, found {_kind(found)}.")
    if part in values and not found and part != "params":
        raise SpecError(f"{where}: `{part}` is empty; give it lists of values or take it away.")
    return dict(found)


def _known(values: dict[Any, Any], known: tuple[str, ...], what: str, where: str) -> None:
    for name in values:
        if name not in known:
            raise SpecError(parameters.unknown(what, str(name), list(known), where))


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value), repr(value))


# ---------------------------------------------------------------- the YAML file
class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _load(path: Path) -> Any:
    """The file's values; aliases are written out, within reason."""
    try:
        if path.stat().st_size > _BYTES:
            raise SpecError(f"plan {path.name} is larger than {_BYTES // 1_000_000} MB; write ranges as grids instead.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise SpecError(f"plan {path} cannot be read: {reason.lower()}; give the path of a YAML file.") from None
    try:
        values = yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1}: {error.problem})" if mark and getattr(error, "problem", None) else ""
        raise SpecError(f"plan {path.name} is not valid YAML{line}; correct it.") from None
    except (RecursionError, ValueError, TypeError):
        raise SpecError(f"plan {path.name} is not valid YAML (nested too deeply, or a value that is none).") from None
    _finite(values, path.name)
    return values


def _finite(values: Any, name: str) -> None:
    """Refuse aliases that contain themselves, and those that would write out to very much."""
    count = 0

    def walk(value: Any, above: tuple[int, ...]) -> None:
        nonlocal count
        count += 1
        if count > _NODES:
            raise SpecError(
                f"plan {name} has more than {_NODES:,} values with its aliases written out; make it smaller."
            )
        if isinstance(value, dict | list):
            if id(value) in above or len(above) > 50:
                raise SpecError(
                    f"plan {name} has an alias that contains itself (or is nested too deeply); write it out."
                )
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            for one in inner:
                walk(one, (*above, id(value)))

    walk(values, ())
