"""The score explorer: a page on which every scored image can be looked at, made from committed tables.

The directive `{sslmem-explorer}` puts into a page a block for the browser (`explorer.js`, no other library, nothing to
fetch, so that it works from a disk); `{sslmem-explorer-still}` its static twin, figures and a table, for print and for
browsers without scripts. What they show is bounded: of every experiment the first split, of every set at most
`series.EACH` images, views of at most `pictures.VIEWED` of them. Each dataset has one data file and one picture of all
thumbnails, loaded when the reader chooses it. Images come from the datasets on the machine that builds the page; where
they are missing, or others than those that were scored, a sentence says so and the numbers stand alone.
"""

from __future__ import annotations

from .series import Series, collect
from .sphinx import setup

__all__ = ["Series", "collect", "setup"]
