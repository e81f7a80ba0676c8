"""The command `sslmem`: a thin layer over the package; every error is one sentence and an exit code.

Exit codes: 0 done, 1 something failed, 2 a wrong command, parameter or plan (nothing was started), 130 interrupted.
`SSLMEM_DEBUG=1` shows tracebacks. Modules that load torch are imported inside the commands that need them.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import RunError, SSLMemError

UsageError = typer.BadParameter.__base__  # typer exports no name for it


class Interrupted(SSLMemError):
    """Ctrl-C: finished work is kept."""

    exit_code = 130


class _Group(TyperGroup):
    """Turns Ctrl-C into an error of ours before the command line library words it in its own way."""

    def invoke(self, ctx: Any) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; finished work is kept, and the same command goes on from there.") from None


_OPTIONS = {"no_args_is_help": True, "pretty_exceptions_enable": False, "rich_markup_mode": None}
app = typer.Typer(cls=_Group, add_completion=False, help="Memorization in self-supervised learning.", **_OPTIONS)
data_app = typer.Typer(help="Import and list datasets.", **_OPTIONS)
results_app = typer.Typer(help="Hand results on, take them in.", **_OPTIONS)
store_app = typer.Typer(help="What is kept of past computations.", **_OPTIONS)
app.add_typer(data_app, name="data")
app.add_typer(results_app, name="results")
app.add_typer(store_app, name="store")

Notebooks = Annotated[list[str] | None, typer.Argument(metavar="[NN]...", help="numbers or names; none means all")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    debug = os.environ.get("SSLMEM_DEBUG") == "1"
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="sslmem", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            command = error.ctx.command_path if error.ctx else "sslmem"
            print(f"error: {error.format_message().rstrip('.')}; see `{command} --help`.", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except SSLMemError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        what = (error.strerror or str(error)).lower()
        print(f"error: {where}{what}; mend that and run again, finished work is kept.", file=sys.stderr)
        return 1
    return 0


def _version(wanted: bool) -> bool:
    if wanted:
        try:
            number = importlib.metadata.version("sslmem")
        except importlib.metadata.PackageNotFoundError:
            number = "(not installed, run from its folder)"
        print(f"sslmem {number}")
        raise typer.Exit()
    return wanted


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def run(
    notebooks: Notebooks = None,
    profile: Annotated[str, typer.Option(help="which parameters: smoke, quick, laptop, ...")] = "quick",
    parameter: Annotated[list[str] | None, typer.Option("-p", metavar="NAME=VALUE", help="one parameter")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say how long and how much memory")] = False,
    force: Annotated[bool, typer.Option("--force", help="execute finished ones too")] = False,
    timeout: Annotated[float | None, typer.Option(min=0, help="minutes allowed to each notebook")] = None,
    together: Annotated[int, typer.Option("--jobs", min=1, help="notebooks at a time, sharing the cores")] = 1,
) -> None:
    """Execute notebooks; finished ones are left alone."""
    from .. import batch

    jobs = batch.plan(notebooks or [], profile, parameter)
    if dry_run:
        print(batch.forecast(jobs, force, together))
        return
    outcomes = batch.run(jobs, force, timeout, together=together)
    print("\n" + batch.summary(outcomes))
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise RunError(f"{len(failed)} of {len(outcomes)} notebooks failed; what is finished is kept.")


@app.command()
def book(
    profile: Annotated[str, typer.Option(help="show this machine's run of this profile")] = "",
    committed: Annotated[bool, typer.Option("--committed", help="show the committed results (the default)")] = False,
    edition: Annotated[str, typer.Option(help="reader, student, instructor or offline")] = "reader",
    pdf: Annotated[bool, typer.Option("--pdf", help="print every page to PDF, too (needs Chromium)")] = False,
) -> None:
    """Build the pages."""
    from .. import book as pages

    if committed and profile:
        raise typer.BadParameter("choose one of --profile and --committed")
    print("building the book ...", file=sys.stderr, flush=True)
    print(f"open {pages.build(profile, edition, pdf)}")


@app.command()
def claims(
    as_json: Annotated[bool, typer.Option("--json", help="all records, for programs")] = False,
    profile: Annotated[str, typer.Option(help="only this profile")] = "",
) -> None:
    """Print the scorecard: all claims with their verdicts.

    This machine's runs come first, then the committed results.
    """
    from .. import batch
    from .. import book as pages

    found = pages.everything(profile)
    if profile and not found:
        batch.plan([], profile)  # SpecError for a profile that no notebook has
    print(pages.as_json(found) if as_json else pages.as_text(found))


@app.command()
def doctor() -> None:
    """Show versions, device, folders and data, and what is wrong with them."""
    from .diagnosis import examine

    problems = examine()
    if problems:
        raise RunError(problems[0] if len(problems) == 1 else f"{len(problems)} problems, marked above.")


@data_app.command("import")
def data_import(
    name: Annotated[str, typer.Argument(help="name to load it by")],
    path: Annotated[Path, typer.Argument(help="folder or zip file of images; class folders are labels")],
    size: Annotated[int | None, typer.Option(help="resize to a square of so many pixels")] = None,
    channels: Annotated[str | None, typer.Option(help="grey or rgb: convert all images")] = None,
    background: Annotated[str | None, typer.Option(help="white or black: put transparent images on it")] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="text file of the images to take: a path or number a line")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="put them in the place of another dataset")] = False,
) -> None:
    """Import images as a dataset."""
    from .. import data

    options = {"size": size, "channels": channels, "background": background, "listed": listed, "replace": replace}
    images = data.import_images(name, path, **options)
    c, h, w = images.shape
    print(f"{name}: {len(images):,} images of {c} x {h} x {w}, {len(images.classes)} classes")
    for note in images.notes:
        print(f"note: {note}")


@data_app.command("list")
def data_list() -> None:
    """List known and imported datasets."""
    from .. import data
    from ..runs.display import aligned

    rows = [("name", "images", "shape", "classes", "here", "licence")]
    for row in data.catalogue():
        shape = " x ".join(map(str, row["shape"]))
        here = row["where"] if row["found"] else f"no ({row['where']})"
        rows.append((row["name"], f"{_images(row):,}", shape, str(row["classes"]), here, row["licence"]))
    print(aligned(rows))


@data_app.command("show")
def data_show(name: Annotated[str, typer.Argument(help="dataset")]) -> None:
    """Show what is known about one dataset."""
    from .. import data
    from ..errors import SpecError
    from ..runs.display import aligned
    from ..runs.parameters import unknown

    rows = {row["name"]: row for row in data.catalogue()}
    if name not in rows:
        raise SpecError(unknown("dataset", name, list(rows)))
    print(aligned([(f"{key}:", str(value)) for key, value in rows[name].items() if value not in ("", [], {})]))


def _images(row: dict) -> int:
    return sum(row["parts"].values()) or row["images"]


from .grid import grid  # noqa: E402
from .plan import plan  # noqa: E402
from .results import results_export, results_import  # noqa: E402
from .score import remove, score  # noqa: E402  (long lists of options, kept in their own files)
from .status import status  # noqa: E402
from .store import store_export, store_import, store_list, store_prune, store_show, store_verify  # noqa: E402
from .train import train  # noqa: E402

app.command()(train)
app.command()(plan)
app.command()(score)
app.command()(remove)
app.command()(grid)
app.command()(status)
results_app.command("export")(results_export)
results_app.command("import")(results_import)
store_app.command("list")(store_list)
store_app.command("show")(store_show)
store_app.command("verify")(store_verify)
store_app.command("prune")(store_prune)
store_app.command("export")(store_export)
store_app.command("import")(store_import)
