"""What a notebook talks to: checked parameters, stored tables, figures with alt text, claims and provenance.

    from sslmem_utils import runs
    run = runs.start("03_four_sets", globals())            # second code cell: checks the parameters
    scores = run.table("scores", lambda: compute(seeds))   # computed and stored, or read when rendering
    run.show(figure, alt="...", caption="...")
    run.download("scores")

In compute mode every table is computed and written to `_build/runs/PROFILE/NOTEBOOK/`. In render mode (environment
variable `SSLMEM_RENDER=1`, set when the book is built from committed results) it is read from
`results/NOTEBOOK/PROFILE/` instead, `compute` is never called and torch never imported; figures and claims are made
anew from the tables in both modes.
"""

from __future__ import annotations

import html
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from .. import paths
from .. import versions as result_versions
from ..errors import SpecError
from ..store import write_json
from . import display, parameters, tables

__all__ = ["Run", "folder_of", "rendering", "results_of", "start"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def rendering() -> bool:
    """Whether notebooks show committed results instead of computing (`SSLMEM_RENDER=1`)."""
    return os.environ.get("SSLMEM_RENDER", "") == "1"


def folder_of(notebook: str, profile: str) -> Path:
    """Where a notebook's run on this machine keeps its tables, claims and executed copy."""
    return paths.BUILD / "runs" / profile / notebook


def results_of(notebook: str, profile: str) -> Path:
    """Where a notebook's committed results are."""
    return paths.RESULTS / notebook / profile


def start(notebook: str, namespace: dict[str, Any]) -> Run:
    """Check the parameters in a notebook's namespace, show where its numbers come from, return its `Run`.

    Raises SpecError (one sentence) for a value of the wrong type and for an injected name that is no parameter.
    """
    named(notebook, "notebook")
    params = parameters.in_namespace(namespace, f"notebook {notebook}")
    profile, folder = named(params["profile"], "profile"), paths.PROFILES / notebook
    if folder.is_dir() and not (folder / f"{profile}.yaml").is_file():
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        raise SpecError(parameters.unknown("profile", profile, known, f"notebook {notebook}"))
    run = Run(notebook, params, rendering())
    run.provenance()
    return run


def named(name: str, what: str) -> str:
    """`name` if it can be a file name everywhere, else a SpecError."""
    if not _NAME.fullmatch(name):
        raise SpecError(f"a {what} is named with letters a to z, digits and underscores, found {name!r}; rename it.")
    return name


class Run:
    """One run of one notebook under one profile; made by `start`.

    Attributes: `notebook`, `profile`, `params` (name -> value), `render` (True when committed results are shown and
    nothing is computed), `folder` (outputs of this run), `tables` and `claims` made so far.
    """

    def __init__(self, notebook: str, params: dict[str, Any], render: bool) -> None:
        self.notebook, self.params, self.render = notebook, params, render
        self.profile: str = params["profile"]
        self.folder = paths.run_folder() or folder_of(notebook, self.profile)
        self.source = results_of(notebook, self.profile) if render else self.folder
        self.tables: dict[str, pd.DataFrame] = {}
        self.sidecars: dict[str, dict[str, Any]] = tables.sidecars(self.source) if render else {}
        self.claims: list[Any] = []
        self._origin = {} if render else tables.origin()
        self._shown: Any = None

    @property
    def command(self) -> str:
        """The command that makes this run's results anew."""
        command = f"sslmem run {self.notebook[:2]} --profile {self.profile}"
        return f"{command} && sslmem results export --profile {self.profile}" if self.render else command

    def need(self, name: str, *values: Any, least: int | None = None) -> None:
        """Refuse, before anything is computed, a parameter that the page's claims cannot do with.

        A list must hold `values`, a number be at least `least`. Raises SpecError.
        """
        found, where = self.params[name], f"notebook {self.notebook}: parameter {name!r}"
        missing = [value for value in values if value not in found]
        if missing:
            words = ", ".join(map(str, values))
            raise SpecError(f"{where} must hold {words}, which its claims compare, found {found!r}; add {missing[0]}.")
        if least is not None and found < least:
            raise SpecError(f"{where} must be at least {least}, found {found!r}; raise it.")

    def table(
        self, name: str, compute: Callable[[], pd.DataFrame], caption: str = "", pictures_of: str | None = None
    ) -> pd.DataFrame:
        """A tidy table: computed and stored with its sidecar, or read and verified when rendering.

        With a caption the table is shown. `pictures_of` names the dataset whose images a column of bytes or arrays
        holds; such a table may be published only if that dataset may. What comes back was read from the file, so that
        types are the same in both modes; a named index becomes columns. Raises SpecError for a second table of the
        same name, RunError or StoreError for one that is missing or damaged.
        """
        if named(name, "table") in self.tables:
            raise SpecError(f"notebook {self.notebook} makes table {name!r} twice; give the second another name.")
        if not self.render:
            self._compute(name, compute, caption, pictures_of)
        self.tables[name], self.sidecars[name] = tables.read(self.source, name, self.command)
        if withheld := self.sidecars[name].get("withheld"):
            display.show_markdown(
                f"*Pictures of {self.sidecars[name]['pictures_of']} ({', '.join(withheld)}) may not be redistributed "
                "and are blank here. With the dataset on your machine (`sslmem data list`), "
                f"`sslmem run {self.notebook[:2]} --profile {self.profile}` shows them.*"
            )
        if caption:
            frame = self.tables[name]
            display.show(display.table_html(frame, caption), f"{caption}\n{display.rounded(frame, 3).head(20)}")
        self.provenance()
        return self.tables[name].copy()

    def _compute(self, name: str, compute: Callable[[], pd.DataFrame], caption: str, pictures_of: str | None) -> None:
        began = time.perf_counter()
        frame = compute()
        seconds = round(time.perf_counter() - began, 2)
        if not self.tables:  # an earlier run is forgotten only now that this one has something to put in its place
            tables.clear(self.folder)
        if not hasattr(frame, "to_parquet") or frame.empty:
            raise SpecError(f"table {name!r} must be a DataFrame with rows, found {type(frame).__name__}.")
        if any(frame.index.names):
            frame = frame.reset_index()
        pictures = [column for column in frame.columns if display.is_pictures(frame[column])]
        if pictures and pictures_of is None:
            raise SpecError(f"table {name!r} holds pictures in {pictures[0]!r}; say whose with pictures_of='dataset'.")
        facts = {
            "notebook": self.notebook,
            "profile": self.profile,
            "table": name,
            "caption": caption,
            "pictures_of": pictures_of,
            "pictures": pictures,
            "params": self.params,
            "seconds": seconds,
            **self._origin,
            "hardware": tables.hardware(),  # asked again: torch, hence the GPU, is known after computing
        }
        tables.write(self.folder, name, frame, facts)

    def show(self, figure: Any, alt: str = "", caption: str = "", name: str = "") -> None:
        """Display a Matplotlib figure as SVG with alt text and caption, then close it.

        `alt` says in words what the figure shows, for readers who do not see it (default: what the figure's type wrote,
        `figures.alt`). `name` (`fig-...`) is what prose refers to with {numref}. Raises SpecError without alt text.
        """
        from .. import figures

        alt = alt.strip() or figures.alt(figure)
        if not alt:
            raise SpecError("a figure needs alt text that says what it shows; pass run.show(figure, alt='...').")
        display.show_figure(figure, " ".join(alt.split()), " ".join(caption.split()), name)
        from matplotlib import pyplot

        pyplot.close(figure)

    def download(self, name: str) -> None:
        """Show a fold with the first rows of a table of this run and a link that saves all of it as CSV."""
        if name not in self.tables:
            raise SpecError(parameters.unknown("table", name, list(self.tables), f"notebook {self.notebook}"))
        file = tables.shown(self.source / f"{name}.parquet")
        display.show(display.download_html(self.tables[name], name, file), f"table {name}: {file}")

    def claim(self, id: str, sentence: str, endpoints: Any, *, primary: bool = True) -> Any:
        """Judge one claim, show it with its verdict, and (when computing) keep it in `claims.json` of this run.

        Arguments as `claims.judge`: endpoints are made with `claims.measure`.
        """
        from .. import claims  # imports SciPy, which the command line does without

        where = {"profile": self.profile, "hardware": machine(self._facts()), "notebook": self.notebook}
        claim = claims.judge(id, sentence, endpoints, primary=primary, **where)
        if any(other.id == id for other in self.claims):
            raise SpecError(f"notebook {self.notebook} makes claim {id!r} twice; give the second another id.")
        self.claims.append(claim)
        if not self.render:
            records = json.loads(claims.dumps(self.claims))
            write_json(self.folder / tables.CLAIMS, {**self._facts(), "params": self.params, "claims": records})
        display.show_markdown(claims.to_markdown(claim))
        return claim

    # ------------------------------------------------------------------ provenance
    def provenance(self) -> None:
        """Show what makes, or made, the numbers of this page; shown once and kept up to date as tables come in."""
        facts = self._facts()
        seconds = sum((sidecar["seconds"] for sidecar in self.sidecars.values()), 0.0)
        line = describe(facts, self.profile, self.params, seconds, committed=self.render)
        markup = f'<p class="sslmem-provenance">{html.escape(line, quote=False)}</p>'
        if stale := self._stale():
            markup += f'<p class="sslmem-stale"><strong>Older than the code.</strong> {html.escape(stale)}</p>'
        text = f"{line}\n{stale}".strip()
        self._shown = display.show(markup + display.parameters_html(self.params), text, self._shown)

    def _facts(self) -> dict[str, Any]:
        """What made the numbers: of the newest table, else of this process."""
        made = max(self.sidecars.values(), key=lambda sidecar: sidecar["created"], default=self._origin)
        return {name: made[name] for name in tables.ORIGIN if name in made}

    def _stale(self) -> str:
        made = {str(car.get("result_version")) for car in self.sidecars.values()}
        old = ", ".join(sorted(text for text in made if result_versions.is_older(text)))
        now = result_versions.current()
        return (
            f"These results were made with result version {old}; the code is at {now}. Run {self.command}"
            if old
            else ""
        )


def describe(facts: dict[str, Any], profile: str, params: dict[str, Any], seconds: float, committed: bool) -> str:
    """One line: profile, where the numbers come from, hardware, commit, seeds, time."""
    parts = [
        f"Profile {profile}",
        ("committed results of " if committed else "computed here on ") + str(facts.get("created", ""))[:10],
        machine(facts),
        f"commit {facts.get('commit')}",
    ]
    parts += [f"{name} {params[name]}" for name in ("seed", "seeds") if name in params]
    parts += [f"tables in {duration(seconds)}"] if seconds else []
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as `4.2 s`, `3:05 min` or `1:02 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def machine(facts: dict[str, Any]) -> str:
    """The hardware in a few words."""
    hardware = facts.get("hardware", {})
    cores = hardware.get("cores")
    return f"{hardware.get('cpu')}, {cores} core{'s' * (cores != 1)}, {hardware.get('gpu') or 'no GPU'}"
