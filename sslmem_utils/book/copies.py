"""Which executed copy of a notebook a page shows, and how the book reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import batch, paths, runs
from ..errors import RunError
from ..runs import display, tables
from . import editions

_KEPT = ("kernelspec", "language_info")  # notebook metadata that pages need; the rest would be printed as fields
_HIDDEN = {"remove-cell", "remove-output", "hide-output", "hide-cell"}  # tags under which a figure stays in its cell


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


def page(path: Path, edition: str = "reader", notebook_name: str = "") -> str:
    """The text of an executed notebook as an edition of the book reads it: figures as numbered figures with alt text.

    Code whose result is a figure is folded: a click, or Enter on the fold, shows it. The instructor's edition tells
    how long the committed results of `notebook_name` took.
    """
    notebook = tables.read_json(path)
    notebook["cells"] = editions.cells(notebook["cells"], edition)
    if edition == "instructor" and notebook_name:
        notebook["cells"].insert(1, _timings(notebook_name))
    notebook["metadata"] = {key: value for key, value in notebook["metadata"].items() if key in _KEPT}
    notebook["cells"] = [part for cell in notebook["cells"] for part in _parts(cell)]
    return json.dumps(notebook, ensure_ascii=False)


def _timings(notebook: str) -> dict[str, Any]:
    """For teachers: how long each committed profile computed, on what."""
    lines = []
    for profile in batch.committed_profiles(notebook):
        found = list(tables.sidecars(paths.RESULTS / notebook / profile).values())
        seconds = sum(one["seconds"] for one in found)
        where = "; ".join(dict.fromkeys(runs.machine(one) for one in found))
        lines.append(f"- profile `{profile}`: {_duration(seconds)} ({where})")
    text = "```{admonition} For teachers: how long the committed results took\n" + "\n".join(lines) + "\n```"
    return {"cell_type": "markdown", "id": "timings", "metadata": {}, "source": text}


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


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
    folded = {**cell["metadata"], "tags": sorted(tags | {"hide-input"})}
    first = {**cell, "metadata": folded, "outputs": groups[0][1]}
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
