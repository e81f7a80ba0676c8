"""Pages that are made of what is committed: counts of verdicts, tables of results, the citation."""

from __future__ import annotations

import os
from typing import Any

from .building import PROFILE
from .paper import tally
from .verdicts import sources


def text_pages(app: Any) -> None:
    """Register the roles and directives of these pages with Sphinx."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxRole

    class Tally(SphinxRole):
        """`{sslmem-tally}`: how many of the paper's claims have which verdict, after a word such as "so far"."""

        def run(self) -> tuple[list[Any], list[Any]]:
            self.env.metadata[self.env.docname]["sslmem_scorecard"] = True
            return [nodes.Text(f"{self.text}, {tally(sources(os.environ.get(PROFILE, '')))}")], []

    app.add_role("sslmem-tally", Tally())
