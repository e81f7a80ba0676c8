"""The one figure style and the few figure types of the book.

Every figure is a transparent SVG in neutral ink and Okabe-Ito colours, readable on white, on black and in print; a set
or a method has the same colour everywhere, text stays text, and equal data give equal bytes. Figure functions take
tables, compute no more than means and intervals over seeds (`stats`), and write their own factual alt text, which
`alt(figure)` returns. Their layout is settled when they return. Draw inside `style()` for the same looks in a figure of
your own. A mean of one seed has no interval and is drawn hollow.
"""

from .along import along
from .confounds import against
from .disagreements import disagreements
from .doses import dose_response
from .lines import convergence, curves, roofline
from .matrices import heatmap, table_with_bars
from .scenes import scenes
from .scores import distribution_of_sets, forest, gallery, scatter_rank, set_means
from .style import COLORS, INK, LABELS, RC, SIZES, alt, colors, label, style, to_svg

__all__ = [
    "COLORS",
    "INK",
    "LABELS",
    "RC",
    "SIZES",
    "against",
    "along",
    "alt",
    "colors",
    "convergence",
    "curves",
    "disagreements",
    "distribution_of_sets",
    "dose_response",
    "forest",
    "gallery",
    "heatmap",
    "label",
    "roofline",
    "scatter_rank",
    "scenes",
    "set_means",
    "style",
    "table_with_bars",
    "to_svg",
]
