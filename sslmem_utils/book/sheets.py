"""Pages that are made of what is committed: counts of verdicts, tables of results, the citation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from .. import batch, paths, runs
from .. import versions as result_versions
from ..errors import SpecError, SSLMemError, StoreError
from ..runs import display, tables
from ..store import write_atomic
from .building import PROFILE
from .paper import tally
from .verdicts import cell, sources

ROWS, COLUMNS = 6, 10  # of a table that are shown; the notebooks show more of those that matter
_COPIED = 1_000_000  # bytes; larger files stay in results/
_CSV_CELLS = 40_000  # larger tables are handed out as Parquet only
_KINDS = {"conference-paper": ("inproceedings", "wang2024memorization"), "software": ("software", "sslmembook")}


def text_pages(app: Any) -> None:
    """Register the roles and directives of these pages with Sphinx."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective, SphinxRole

    class Tally(SphinxRole):
        """`{sslmem-tally}`: how many of the paper's claims have which verdict, after words such as "So far"."""

        def run(self) -> tuple[list[Any], list[Any]]:
            self.env.metadata[self.env.docname]["sslmem_scorecard"] = True
            return [nodes.Text(f"{self.text}, {tally(sources(os.environ.get(PROFILE, '')))}")], []

    class Results(SphinxDirective):
        """`{sslmem-results} 01_name 02_name`: the committed tables of notebooks, or of folders of published scores."""

        required_arguments, final_argument_whitespace = 1, True

        def run(self) -> list[Any]:
            self.env.note_dependency(__file__)
            page = Path(self.env.doc2path(self.env.docname)).parent
            names = self.arguments[0].split()
            for file in (path for name in names for path in (paths.RESULTS / name).rglob("*.json")):
                self.env.note_dependency(str(file))
            try:
                text = "\n".join(results(name, page) for name in names)
            except SSLMemError as error:
                raise self.error(str(error)) from None
            return self.parse_text_to_nodes(text, allow_section_headings=True)

    class Citation(SphinxDirective):
        """`{sslmem-citation}`: BibTeX of the paper and of the book, from CITATION.cff."""

        def run(self) -> list[Any]:
            self.env.note_dependency(str(paths.ROOT / "CITATION.cff"))
            return self.parse_text_to_nodes(f"```bibtex\n{citation()}\n```")

    app.setup_extension("sphinx.ext.autodoc")
    app.connect("config-inited", _docstrings)
    app.connect("autodoc-process-docstring", _as_text)
    app.add_role("sslmem-tally", Tally())
    app.add_directive("sslmem-results", Results)
    app.add_directive("sslmem-citation", Citation)


# ---------------------------------------------------------------- results
def results(name: str, page: Path) -> str:
    """All committed tables of a notebook, the largest profile first, as MyST for a page in the folder `page`.

    `name` may be `scores/DATASET` too. Raises SpecError when there is no such folder, StoreError for a table that lacks
    its sidecar or does not match it.
    """
    folder = paths.RESULTS / name
    found = [folder / profile for profile in batch.committed_profiles(name)] or [folder]
    if not any(one.glob("*.parquet") for one in found if one.is_dir()):
        raise SpecError(
            f"there are no committed tables in results/{name}; run the notebook and `sslmem results export`."
        )
    lines = [f"## {_title(name)}\n"]
    for number, one in enumerate(found):
        facts = {path.stem: _sidecar(path) for path in sorted(one.glob("*.parquet"))}
        parts = [_table(one / f"{table}.parquet", about, page, number == 0) for table, about in facts.items()]
        made = _made(name, one, facts)
        if number == 0:
            lines += [f"````{{margin}} {one.name}\n{made}\n````\n", *parts]
        else:
            rest = "\n".join(parts)
            lines.append(f"::::{{dropdown}} The same with the profile {one.name}\n{made}\n\n{rest}\n::::\n")
    return "\n".join(lines)


def _sidecar(file: Path) -> dict[str, Any]:
    if not file.with_suffix(tables.SIDECAR).is_file():
        raise StoreError(f"{tables.shown(file)} lacks its sidecar; restore it from version control or export it again.")
    return tables.verified(file)


def _title(name: str) -> str:
    notebook = paths.NOTEBOOKS / f"{name}.ipynb"
    if not notebook.is_file():
        return f"`{name}`"
    first = "".join(tables.read_json(notebook)["cells"][0]["source"]).splitlines()[0]
    return f"{name[:2]} {first.removeprefix('# ')}"


def _made(name: str, folder: Path, facts: dict[str, dict[str, Any]]) -> str:
    """What made the tables of one profile."""
    any_ = next(iter(facts.values()))
    seconds = sum(about.get("seconds", 0) for about in facts.values())
    older = " **Older than the code.**" if result_versions.is_older(any_["result_version"]) else ""
    versions = ", ".join(f"{package} {any_['versions'][package]}" for package in ("python", "torch"))
    lines = [f"{runs.machine(any_)}; commit {any_['commit']}, {any_['created'][:10]}; {versions}.{older}"]
    if (paths.NOTEBOOKS / f"{name}.ipynb").is_file():
        spent = f"{len(facts)} tables in {runs.duration(seconds)}, stored encoders not counted."
        lines.append(f"{spent} Page {{doc}}`/notebooks/{name}`.")
        lines.append(f"`sslmem run {name[:2]} --profile {folder.name}`")
    return "\n\n".join(lines)


def _table(file: Path, about: dict[str, Any], page: Path, shown: bool) -> str:
    """One table: caption, size and downloads; its first rows too where `shown`."""
    links = [_link("Parquet", file, page), _link("sidecar", file.with_suffix(tables.SIDECAR), page)]
    what = cell(str(about.get("caption") or (about.get("notes") or [""])[0]))
    size = f"{about['rows']:,} rows, {len(about['columns'])} columns"
    if not shown:
        return f"- `{file.stem}`: {what} {size}. {', '.join(links)}"
    frame = display.rounded(pd.read_parquet(file))
    if frame.size <= _CSV_CELLS:
        csv = paths.BUILD / "tables" / file.relative_to(paths.RESULTS).with_suffix(".csv")
        write_atomic(csv, lambda path: frame.to_csv(path, index=False))
        links.insert(0, _link("CSV", csv, page))
    narrow = frame.iloc[:, :COLUMNS]
    markup = display.table_html(narrow, rows=ROWS)
    return (
        f"::::{{dropdown}} {file.stem} ({size})\n{what}\n\n```{{raw}} html\n{markup}\n```\n{', '.join(links)}\n::::\n"
    )


def _link(word: str, file: Path, page: Path) -> str:
    """A download, or where the file is when it is too large for a book."""
    if file.stat().st_size > _COPIED:
        return f"{word} in `{tables.shown(file)}`"
    return f"{{download}}`{word} <{os.path.relpath(file, page)}>`"


# ---------------------------------------------------------------- citation
def citation() -> str:
    """BibTeX of the paper and of this book, made from CITATION.cff."""
    about = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return "\n\n".join(map(_entry, (about["preferred-citation"], about)))


def _entry(about: dict[str, Any]) -> str:
    (kind, key), fields = _KINDS[about["type"]], dict(_fields(about))
    width = max(map(len, fields))
    lines = [f"  {name:<{width}} = {{{value}}}" for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"


def _fields(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    people = [
        f"{{{one['name']}}}" if "name" in one else f"{one['family-names']}, {one['given-names']}"
        for one in about["authors"]
    ]
    yield "title", about["title"]
    yield "author", " and ".join(people)
    for name, field in (("booktitle", "collection-title"), ("year", "year"), ("version", "version"), ("url", "url")):
        if field in about:
            yield name, str(about[field])
    if numbers := [one["value"] for one in about.get("identifiers", [])]:
        yield "note", str(numbers[0])


# ---------------------------------------------------------------- docstrings
def _docstrings(app: Any, config: Any) -> None:
    """Docstrings as they are written here: single backticks are code; names of other projects' types are no links."""
    config.default_role = "code"
    config.toc_object_entries = False  # a thousand names in the contents of every page cost more than all the rest
    config.autodoc_member_order = "bysource"
    config.autodoc_default_options = {"members": True, "exclude-members": "model_config"}
    config.nitpick_ignore_regex = [("py:(class|obj|data|exc|meth|attr)", ".*")]


def _as_text(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Examples are indented in the docstrings of modules: show them as code; bars, stars, underscores are plain."""
    code, out = False, []
    for line in lines:
        if what == "module" and line.startswith("    ") and not code:
            out += [".. code-block:: python", "   :force:", ""]
        code = what == "module" and (line.startswith("    ") or (code and not line))
        parts = line.split("`")
        parts[::2] = [re.sub(r"\*(?=\*)|(?<=\*)\*|\||_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        out.append(line if code else "`".join(parts))
    lines[:] = out
