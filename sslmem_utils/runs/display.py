"""What a run shows in a notebook and, unchanged, on the book's page: HTML with a text twin.

A figure is shown as HTML (for Jupyter) and as SVG with its alt text and caption in the output's metadata, from which
the book (`sslmem_utils.book`) makes a numbered figure.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..wording import spelled

METADATA = "sslmem"  # key of output metadata that the book reads
DARK_LIGHT = "dark-light"  # class of figures drawn to be read on light and on dark pages
_SHOWN_ROWS = 20
_LINK_CELLS = 300_000  # beyond, writing the text alone takes seconds
_LINK_BYTES = 2_000_000  # a larger table is named by its file instead of being copied into the page


def show(markup: str, text: str, update: Any = None) -> Any:
    """Display HTML with a text twin; `update` is the handle of an earlier display to replace. Returns the handle."""
    from IPython.display import display

    bundle = {"text/html": markup, "text/plain": text}
    if update is not None:
        update.display(bundle, raw=True, update=True)
        return update
    return display(bundle, raw=True, display_id=True)


def show_markdown(text: str) -> None:
    """Display Markdown (tables allowed)."""
    from IPython.display import display

    display({"text/markdown": text, "text/plain": text}, raw=True)


def show_figure(figure: Any, alt: str, caption: str, name: str) -> None:
    """Display a figure with alt text and caption."""
    from IPython.display import display

    from .. import figures

    svg, alt, caption = figures.to_svg(figure), spelled(alt), spelled(caption)
    link = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    markup = f'<img class="{DARK_LIGHT}" src="{link}" alt="{html.escape(alt)}">'
    if caption:
        markup += f"<figcaption>{html.escape(caption, quote=False)}</figcaption>"
    bundle = {"image/svg+xml": svg, "text/html": f"<figure>{markup}</figure>", "text/plain": alt}
    display(bundle, raw=True, metadata={METADATA: {"alt": alt, "caption": caption, "name": name}})


def rounded(frame: pd.DataFrame, digits: int = 6) -> pd.DataFrame:
    """The table with floats cut to so many significant digits, and without columns of pictures."""
    out = frame.loc[:, [not is_pictures(frame[name]) for name in frame.columns]].copy()
    for name in out.select_dtypes("floating").columns:
        out[name] = [float(f"{value:.{digits}g}") for value in out[name]]
    return out


def is_pictures(column: pd.Series) -> bool:
    """Whether a column holds bytes or arrays, such as thumbnails."""
    arrays = (isinstance(value, bytes | list) or getattr(value, "ndim", 0) > 0 for value in column)
    return column.dtype == object and any(arrays)


def table_html(frame: pd.DataFrame, caption: str = "", rows: int = _SHOWN_ROWS) -> str:
    """The first rows as an HTML table with a caption; a note says how many are left out."""
    view = rounded(frame.head(rows), digits=3)
    markup = view.to_html(index=False, border=0, na_rep="", justify="left", classes="sslmem-table", escape=True)
    caption = spelled(caption)
    if len(frame) > rows:
        caption = f"{caption} (first {rows} of {len(frame):,} rows)".strip()
    head = f"<figcaption>{html.escape(caption, quote=False)}</figcaption>" if caption else ""
    return f'<figure class="sslmem-scroll">{head}{markup}</figure>'


def download_html(frame: pd.DataFrame, name: str, file: str) -> str:
    """A fold with the first rows of a table and a link that saves all of it as CSV, working offline."""
    plain = frame.loc[:, [not is_pictures(frame[name]) for name in frame.columns]]
    csv = plain.to_csv(index=False, float_format="%.6g") if plain.size <= _LINK_CELLS else ""
    if csv and len(csv) <= _LINK_BYTES:
        link = "data:text/csv;base64," + base64.b64encode(csv.encode()).decode()
        where = f'<a download="{html.escape(name)}.csv" href="{link}">Download all {len(frame):,} rows as CSV</a>'
    else:
        where = f"All {len(frame):,} rows are in <code>{html.escape(file)}</code>"
    return (
        f'<details class="sslmem-data"><summary>Data: table <code>{html.escape(name)}</code></summary>'
        f"<p>{where}.</p>{table_html(frame, rows=10)}</details>"
    )


def parameters_html(params: dict[str, Any]) -> str:
    """A fold with the parameters of a run."""
    cells = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td><code>{html.escape(json.dumps(value))}</code></td></tr>"
        for name, value in params.items()
    )
    return f'<details class="sslmem-data"><summary>Parameters</summary><table>{cells}</table></details>'


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text for the terminal, columns of equal width; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows)
