"""The book: a Sphinx extension that shows executed notebooks, and the command that builds the pages.

Notebooks in the tree have no outputs. When Sphinx reads one, this extension hands it the executed copy instead:

- `SSLMEM_BOOK=PROFILE` (set by `sslmem book --profile PROFILE`): this machine's run of that profile;
- otherwise (plain `jupyter-book build .`): the notebook executed with its committed results of the largest profile,
  which computes nothing.

A notebook with neither stops the build with one sentence that says what to run. It also provides the directive
`{sslmem-scorecard}`: one table of all claims, this machine's beside the committed profiles', and `{sslmem-benchmarks}`:
the measured speeds of every machine in `results/bench`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import batch, claims, figures, paths, runs
from .errors import RunError, SpecError, SSLMemError
from .runs import display, tables
from .store import write_atomic

PROFILE = "SSLMEM_BOOK"
MATHJAX = "tex-svg.js"
_NO_CLAIMS = "There are no claims yet: run `make paper`."
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # it has no __main__ to run with -m
_KEPT = ("kernelspec", "language_info")  # notebook metadata that pages need; the rest would be printed as fields
_HIDDEN = {"remove-cell", "remove-output", "hide-output", "hide-cell"}  # tags under which a figure stays in its cell


# ---------------------------------------------------------------- which executed copy a page shows
def pages(notebooks: Iterable[str], profile: str = "") -> dict[str, Path]:
    """The executed copy of each notebook: of this machine's run of `profile`, else rendered from committed results.

    A notebook that has no such profile is rendered from committed results too. Raises RunError, one sentence that says
    what to run, when there is nothing to show.
    """
    found: dict[str, Path] = {}
    committed: list[tuple[str, str]] = []
    for notebook in notebooks:
        if profile and profile in batch.profiles(notebook):
            copy = batch.executed(notebook, profile)
            if copy is None:
                command = f"sslmem run {notebook[:2]} --profile {profile}"
                raise RunError(f"notebook {notebook} was not run here with profile {profile}; run `{command}` first.")
            found[notebook] = copy
            continue
        best = next(iter(batch.committed_profiles(notebook)), None)
        if best is None:
            raise RunError(
                f"there are no results of notebook {notebook} to show; run `make paper`, or `sslmem run {notebook[:2]} "
                "--profile quick` and `sslmem book --profile quick`."
            )
        committed.append((notebook, best))
    rendered = batch.render_all(committed) if committed else []
    return found | {notebook: path for (notebook, _), path in zip(committed, rendered, strict=True)}


def page(path: Path) -> str:
    """The text of an executed notebook as the book reads it: figures as numbered figures with alt text."""
    notebook = tables.read_json(path)
    notebook["metadata"] = {key: value for key, value in notebook["metadata"].items() if key in _KEPT}
    notebook["cells"] = [part for cell in notebook["cells"] for part in _parts(cell)]
    return json.dumps(notebook, ensure_ascii=False)


def _parts(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """A cell, cut at its figures: caption, name and alt text are settings of a whole cell in MyST-NB."""
    cell["metadata"].pop("execution", None)
    tags = set(cell["metadata"].get("tags", []))
    if cell["cell_type"] != "code" or tags & _HIDDEN or not any(map(_figure, cell["outputs"])):
        return [cell]
    groups: list[tuple[dict[str, Any] | None, list[dict[str, Any]]]] = [(None, [])]
    for output in cell["outputs"]:
        about = _figure(output)
        if about is not None:
            groups += [(about, [output]), (None, [])]
        else:
            groups[-1][1].append(output)
    first = {**cell, "outputs": groups[0][1]}
    return [first, *(_part(cell, number, *group) for number, group in enumerate(groups[1:]) if group[1])]


def _figure(output: dict[str, Any]) -> dict[str, Any] | None:
    return output.get("metadata", {}).get(display.METADATA)


def _part(cell: dict[str, Any], number: int, about: dict[str, Any] | None, outputs: list[dict]) -> dict[str, Any]:
    """A cell without input that holds one figure, or what comes between two."""
    metadata: dict[str, Any] = {"tags": ["remove-input"]}
    if about is not None:
        metadata["mystnb"] = {"image": {"alt": about["alt"], "classes": display.DARK_LIGHT}}
        if about["caption"]:
            metadata["mystnb"]["figure"] = {key: about[key] for key in ("caption", "name") if about[key]}
        data = {kind: outputs[0]["data"][kind] for kind in ("image/svg+xml", "text/plain")}
        outputs = [{**outputs[0], "data": data, "metadata": {}}]
    identity = f"{cell.get('id', 'cell')}-{number}"[-64:]
    # MyST-NB leaves out cells without source
    return {**cell, "id": identity, "source": "# output", "metadata": metadata, "outputs": outputs}


# ---------------------------------------------------------------- the scorecard
@dataclass
class Source:
    """The claims of one profile: made on this machine, or committed."""

    label: str
    claims: list[claims.Claim] = field(default_factory=list)
    made: list[str] = field(default_factory=list)  # hardware, commit and date of each notebook's run


def sources(profile: str = "") -> list[Source]:
    """Claims of this machine's run of `profile` first, then those of every committed profile, the largest first."""
    found = [_here(profile)] if profile else []
    names = {path.parent.name for path in paths.RESULTS.glob(f"*/*/{tables.CLAIMS}")}
    order = [name for name in batch.BEST_FIRST if name in names]
    for name in order + sorted(names - set(order)):
        found.append(_source(f"committed, {name}", sorted(paths.RESULTS.glob(f"*/{name}/{tables.CLAIMS}"))))
    return [source for source in found if source.claims]


def _here(profile: str) -> Source:
    return _source(f"here, {profile}", sorted((paths.BUILD / "runs" / profile).glob(f"*/{tables.CLAIMS}")))


def _source(label: str, files: Sequence[Path]) -> Source:
    source = Source(label)
    for file in files:
        record, records = tables.read_claims(file)
        source.claims += claims.loads(json.dumps(records))
        made = f"{runs.machine(record)}, commit {record.get('commit')}, {str(record.get('created'))[:10]}"
        if made not in source.made:
            source.made.append(made)
    source.claims = claims.adjust(source.claims)
    return source


def everything(profile: str = "") -> list[Source]:
    """Claims of every profile run on this machine, then of every committed one; or of one profile only."""
    names = {path.parent.parent.name for path in (paths.BUILD / "runs").glob(f"*/*/{tables.CLAIMS}")}
    order = [name for name in batch.BEST_FIRST if name in names] + sorted(names - set(batch.BEST_FIRST))
    found = [_here(name) for name in order] + sources()
    return [source for source in found if source.claims and (not profile or source.label.endswith(f", {profile}"))]


def as_json(found: Sequence[Source]) -> str:
    """All records: a list of sources, each with its claims."""
    records = [
        {"source": one.label, "made": one.made, "claims": [claim.model_dump(mode="json") for claim in one.claims]}
        for one in found
    ]
    return json.dumps(records, indent=1, ensure_ascii=False)


def as_text(found: Sequence[Source]) -> str:
    """The scorecard for the terminal, one block per source."""
    if not found:
        return _NO_CLAIMS
    blocks = []
    for source in found:
        rows = [("claim", "verdict", "value [95 % interval]", "n", "endpoint")]
        for claim in source.claims:
            status = claims.status(claim)
            rows += [(claim.id, status, one.value, str(one.n), one.name) for one in claim.endpoints]
        sentences = "\n".join(f"{claim.id}: {claim.sentence}" for claim in source.claims)
        blocks.append(f"{source.label} ({'; '.join(source.made)})\n{display.aligned(rows)}\n{sentences}")
    return "\n\n".join(blocks)


def scorecard(found: Sequence[Source]) -> str:
    """All claims as one MyST table: a row per endpoint, a column per source; below it what made each column."""
    if not found:
        return _NO_CLAIMS
    texts: dict[tuple[str, str], tuple[str, str]] = {}
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for source in found:
        for claim in source.claims:
            for one in claim.endpoints:
                key = (claim.id, one.name)
                texts.setdefault(key, (claim.sentence, claim.notebook))
                cells.setdefault(key, {})[source.label] = _verdict(claim, one)
    head = ["claim", "endpoint", *(source.label for source in found)]
    lines = [head, ["---"] * len(head)]
    before = ""
    for id_, endpoint in sorted(texts, key=lambda key: key[0]):
        sentence, notebook = texts[id_, endpoint]
        first = "" if before == id_ else f"[**{id_}**](/notebooks/{notebook}.ipynb) {_cell(sentence)}"
        before = id_
        lines.append([first, _cell(endpoint), *(cells[id_, endpoint].get(source.label, "") for source in found)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    made = "\n".join(f"- **{source.label}**: {_cell('; '.join(source.made))}" for source in found)
    return f":::{{div}} sslmem-scroll sslmem-scorecard\n{table}\n:::\n\n{made}\n"


def _verdict(claim: claims.Claim, one: claims.Endpoint) -> str:
    kind = claim.verdict.replace(" ", "-")
    return f"[{_cell(claims.status(claim))}]{{.sslmem-{kind}}}, {_cell(one.value)}, n = {one.n}"


def _cell(text: str) -> str:
    """One line that does not end a table cell."""
    return " ".join(text.split()).replace("|", r"\|")


# ---------------------------------------------------------------- the benchmarks
_COMPARED = {"ratio", "ours", "usual", "bound"}  # one row of the first table; all other quantities have their own
_FOLDED = {"peak", "achieved", "operations", "time"}


@dataclass(frozen=True)
class Machine:
    """What `make bench` measured on one machine (benchmarks/table.py has the columns)."""

    name: str
    about: dict[str, Any]
    rows: pd.DataFrame

    def text(self) -> str:
        """Where, then the ratios and the other numbers, as MyST tables."""
        of, about = self.rows, self.about
        what = ["line", "case", "setting"]
        found = of.pivot_table(index=what, columns="quantity", values="median", sort=False)
        head = ["line", "what", "ours", "usual", "**ratio** [quartiles]", "at the peak", "target", "met", "images"]
        lines = [head, ["---"] * len(head)]
        for row in of[of["quantity"] == "ratio"].to_dict("records"):
            numbers = found.loc[tuple(row[name] for name in what)]
            rates = [f"{_number(numbers[side])} {row['unit_of_rate']}" for side in ("ours", "usual")]
            ratio = f"**{_number(row['median'])}** [{_number(row['low'])}, {_number(row['high'])}]"
            bound = _number(numbers.get("bound", np.nan))
            aim = "" if pd.isna(row["target"]) else f"≥ {row['target']:g}"
            met = aim and ("yes" if row["median"] >= row["target"] else "no")
            text = _join(row["case"], row["setting"], row["note"])
            lines.append([row["line"], text, *rates, ratio, bound, aim, met, row["images"]])
        parts = [_table(lines)] if len(lines) > 2 else []
        rest = of[~of["quantity"].isin(_COMPARED)]
        for fold in (False, True):
            others = [["line", "what", "measured [quartiles]"], ["---"] * 3]
            for row in rest[rest["quantity"].isin(_FOLDED) == fold].to_dict("records"):
                spread = f" [{_number(row['low'])}, {_number(row['high'])}]" if row["n"] > 1 else ""
                value = f"{row['quantity']} {_number(row['median'])}{spread} {row['unit']}".replace("  ", " ").strip()
                others.append([row["line"], _join(row["case"], row["setting"], row["note"]), value])
            if len(others) > 2:
                parts.append(f"::::{{dropdown}} More numbers\n{_table(others)}\n::::" if fold else _table(others))
        where = f"{runs.machine(about)}, {about['instructions']}, {'' if about['amx'] else 'no '}AMX"
        made = f"torch {about['versions']['torch']}; {_join(*sorted(set(of['measured'] + ', commit ' + of['commit'])))}"
        return "\n\n".join([f"**{where}** ({made})", *parts, ""])


def machines(folder: Path | None = None) -> list[Machine]:
    """What was measured on every machine, by name; from `results/bench` unless another folder is named."""
    folder, found = folder or paths.RESULTS / "bench", []
    for path in sorted(folder.glob("*.parquet")):
        rows, about = tables.read(folder, path.stem, "make bench")
        rates = rows[rows["quantity"] == "ours"].set_index(["line", "case", "setting"])["unit"]
        keys = zip(rows["line"], rows["case"], rows["setting"], strict=True)
        found.append(Machine(path.stem, about, rows.assign(unit_of_rate=[rates.get(key, "") for key in keys])))
    return found


def benchmarks(found: Sequence[Machine], folder: Path, seen_from: Path) -> str:
    """The tables of every machine and its roofline, drawn into `folder`, as MyST for a page in `seen_from`."""
    parts = []
    for one in found:
        parts.append(one.text())
        rows = one.rows[one.rows["quantity"].isin(["peak", "achieved"])]
        if rows.groupby(rows["setting"].str.split(", ").str[-1])["quantity"].nunique().eq(2).any():
            figure = figures.roofline(rows)
            path = folder / f"{one.name}.svg"
            write_atomic(path, lambda file, figure=figure: file.write_text(figures.to_svg(figure), encoding="utf-8"))
            options = f":name: fig-roofline-{one.name}\n:alt: {figures.alt(figure)}\n:class: {display.DARK_LIGHT}"
            chip = one.about["hardware"]["gpu"] or one.about["hardware"]["cpu"]
            caption = f"{chip}: measured peaks of matrix products, and what training reaches of them."
            parts.append(f"```{{figure}} {os.path.relpath(path, seen_from)}\n{options}\n\n{caption}\n```\n")
    return "\n".join(parts) or "Nothing was measured yet: run `make bench`."


def _number(value: float) -> str:
    """Three significant digits, thousands apart; nothing for NaN."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _join(*texts: str) -> str:
    return ", ".join(filter(None, texts))


def _table(lines: Sequence[Sequence[str]]) -> str:
    rows = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return f":::{{div}} sslmem-scroll sslmem-scorecard\n{rows}\n:::"


# ---------------------------------------------------------------- Sphinx
def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx (listed in _config.yml under sphinx.extra_extensions)."""
    from sphinx.util.docutils import SphinxDirective

    class Scorecard(SphinxDirective):
        """`{sslmem-scorecard}`: the table of all claims."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname]["sslmem_scorecard"] = True
            return self.parse_text_to_nodes(scorecard(sources(os.environ.get(PROFILE, ""))))

    class Benchmarks(SphinxDirective):
        """`{sslmem-benchmarks}`: measured speeds and rooflines."""

        def run(self) -> list[Any]:
            self.env.metadata[self.env.docname]["sslmem_benchmarks"] = True
            here = Path(self.env.doc2path(self.env.docname)).parent
            return self.parse_text_to_nodes(benchmarks(machines(), paths.BUILD / "bench", here))

    app.add_directive("sslmem-scorecard", Scorecard)
    app.add_directive("sslmem-benchmarks", Benchmarks)
    app.connect("env-get-outdated", _outdated)
    app.connect("source-read", _replace)
    app.connect("env-merge-info", _merge)
    app.config.mathjax_path = MATHJAX  # relative to the page's _static folder: no page asks for another host
    app.connect("build-finished", _copy_mathjax)
    return {"version": "1", "env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}


def _copy_mathjax(app: Any, error: Exception | None) -> None:
    """Put MathJax with SVG output, one file that needs no others, beside the pages."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if error is None and app.builder.format == "html":
        if package is None or package.origin is None:
            sys.exit("error: MathJax is missing, so formulas cannot be shown; install sphinx-mathjax-offline.")
        shutil.copyfile(Path(package.origin).parent / "static" / "mathjax" / MATHJAX, app.outdir / "_static" / MATHJAX)


def _outdated(app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Find or make the executed copies before anything is read; name the pages whose content is another than before."""
    try:
        copies = pages(_notebooks(app, env), os.environ.get(PROFILE, ""))
        app.sslmem_pages = {f"notebooks/{name}": page(path) for name, path in copies.items()}
        shown = {"sslmem_scorecard": scorecard(sources(os.environ.get(PROFILE, "")))}
        shown["sslmem_benchmarks"] = repr([(one.name, one.about) for one in machines()])
    except SSLMemError as error:
        sys.exit(f"error: {error}")  # not an exception that Sphinx would wrap: one sentence, exit code 1
    texts = dict(app.sslmem_pages)
    for mark, text in shown.items():
        texts |= dict.fromkeys((name for name, about in env.metadata.items() if mark in about), text)
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    before = getattr(env, "sslmem_digests", {})
    env.sslmem_digests = digests
    return [name for name, digest in digests.items() if before.get(name) != digest]


def _notebooks(app: Any, env: Any) -> list[str]:
    names = [Path(name).name for name in sorted(env.found_docs) if name.startswith("notebooks/")]
    if Path(app.srcdir).resolve() != paths.ROOT.resolve():
        raise SpecError(
            f"the book in {app.srcdir} is built with the package of {paths.ROOT}; install its own (pip install -e .)."
        )
    return names


def _replace(app: Any, docname: str, source: list[str]) -> None:
    if docname in app.sslmem_pages:
        source[0] = app.sslmem_pages[docname]


def _merge(app: Any, env: Any, docnames: Sequence[str], other: Any) -> None:
    """The digests are complete before documents are read, so parallel readers have nothing to add."""


def build(profile: str = "") -> Path:
    """Build the pages with warnings as errors; returns the first page.

    `profile`: show this machine's run of it; else the committed results. Raises RunError when a page has no results, or
    the build warns.
    """
    if profile and profile not in {name for notebook in batch.notebooks() for name in batch.profiles(notebook)}:
        known = sorted({name for notebook in batch.notebooks() for name in batch.profiles(notebook)})
        raise SpecError(runs.parameters.unknown("profile", profile, known))
    pages(batch.notebooks(), profile)  # one sentence instead of a Sphinx log if something is missing
    output = paths.BUILD.parent if paths.BUILD.name == "_build" else paths.BUILD  # Jupyter Book adds _build/html
    command = [sys.executable, "-c", _JUPYTER_BOOK, "build", str(paths.ROOT), "--path-output", str(output)]
    command += ["-n", "-W", "--keep-going", "--quiet"]
    environment = {**os.environ, "SSLMEM_ROOT": str(paths.ROOT), "SSLMEM_BUILD": str(paths.BUILD.resolve())}
    environment[PROFILE] = profile
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RunError(f"the book was not built:\n{_complaints(result.stdout + result.stderr)}")
    return output / "_build" / "html" / "index.html"


def _complaints(log: str) -> str:
    """The lines of a build's log that say what is wrong (all of it if none stands out)."""
    lines = [line for line in log.splitlines() if "WARNING" in line or "ERROR" in line or line.startswith("error:")]
    return "\n".join(lines or log.splitlines()[-20:])
