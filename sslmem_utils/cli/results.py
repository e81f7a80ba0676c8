"""`sslmem results`: hand tables on in one file, take them from one, fill `results/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def results_export(
    file: Annotated[
        Path | None, typer.Argument(help="write an archive, .zip or .tar.gz (default: into results/, ready to commit)")
    ] = None,
    profile: Annotated[str, typer.Option(help="profile that was run here")] = "quick",
    notebook: Annotated[
        list[str] | None, typer.Option(metavar="NN", help="number or name; give it again for more (default: all)")
    ] = None,
    grid: Annotated[str, typer.Option(metavar="PLAN", help="what a grid computed here, instead of a profile")] = "",
    weights: Annotated[bool, typer.Option("--weights", help="also the encoders that the grid trained")] = False,
    without_pictures: Annotated[
        bool, typer.Option("--without-pictures", help="blank out pictures that may not be redistributed")
    ] = False,
) -> None:
    """Pack tables and claims of finished runs, with the sidecars that say how they were made."""
    from .. import sharing
    from .status import named

    for line in sharing.export(file, profile, notebook or [], named(grid), weights, without_pictures):
        print(line)


def results_import(
    file: Annotated[Path, typer.Argument(help="archive that `sslmem results export` made")],
    into: Annotated[str, typer.Option(help="only its part for: results or store")] = "",
) -> None:
    """Unpack results into results/ and the store, after checking every name and checksum."""
    from .. import sharing

    for line in sharing.import_results(file, into):
        print(line)
