"""The book: a Sphinx extension that shows executed notebooks, and the command that builds the pages.

Notebooks in the tree have no outputs. When Sphinx reads one, this extension hands it the executed copy instead:

- `SSLMEM_BOOK=PROFILE` (set by `sslmem book --profile PROFILE`): this machine's run of that profile;
- otherwise (plain `jupyter-book build .`): the notebook executed with its committed results of the largest profile,
  which computes nothing.

A notebook with neither stops the build with one sentence that says what to run.

Directives: `{sslmem-scorecard}` (all claims of book/claims.yaml and of the runs), `{sslmem-explorer}` (single images
and their scores) with its static twin `{sslmem-explorer-still}`, `{sslmem-results}` (the committed tables of some
notebooks), `{sslmem-citation}` (BibTeX from CITATION.cff), `{sslmem-benchmarks}` (the measured speeds of every machine
in `results/bench`). Roles: `{sslmem-verdict}` (the verdict on one claim), `{sslmem-tally}` (how many have which).
"""

from __future__ import annotations

from .building import PROFILE, build
from .copies import page, pages
from .extension import setup
from .paper import paper_claims, scorecard, tally
from .speeds import Machine, benchmarks, machines
from .verdicts import Source, as_json, as_text, best, everything, sources

__all__ = [
    "PROFILE",
    "Machine",
    "Source",
    "as_json",
    "as_text",
    "benchmarks",
    "best",
    "build",
    "everything",
    "machines",
    "page",
    "pages",
    "paper_claims",
    "scorecard",
    "setup",
    "sources",
    "tally",
]
