"""The book: a Sphinx extension that shows executed notebooks, and the command that builds the pages.

Notebooks in the tree have no outputs. When Sphinx reads one, this extension hands it the executed copy instead:

- `SSLMEM_BOOK=PROFILE` (set by `sslmem book --profile PROFILE`): this machine's run of that profile;
- otherwise (plain `jupyter-book build .`): the notebook executed with its committed results of the largest profile,
  which computes nothing.

A notebook with neither stops the build with one sentence that says what to run. It also provides the directive
`{sslmem-scorecard}`: one table of all claims, this machine's beside the committed profiles', `{sslmem-benchmarks}`: the
measured speeds of every machine in `results/bench`, and the role `{sslmem-verdict}`: the verdict on one claim.
"""

from __future__ import annotations

from .building import PROFILE, build
from .copies import page, pages
from .extension import setup
from .speeds import Machine, benchmarks, machines
from .verdicts import Source, as_json, as_text, best, everything, scorecard, sources

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
    "scorecard",
    "setup",
    "sources",
]
