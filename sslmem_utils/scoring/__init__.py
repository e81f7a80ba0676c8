"""From encoders to scores: alignment tables, and every estimator as a function of alignments and inclusion.

The stored unit is one encoder's alignment table under one setting (`align`). A score never trains anything: it
combines rows of the alignment matrix `A[encoder, image]` by the inclusion mask `M[encoder, image]`, which says whether
the image was in that encoder's training data. Definition and sets: arXiv 2401.12233, section 3.
"""

from .alignment import BLOCK, align, align_each, align_features, faster, jackknife, rows_of_pass
from .estimators import (
    Estimate,
    leave_one_out,
    mirrored,
    noise_floor,
    pair,
    ranged,
    relative_to_sum,
    replicated,
    standardised,
    subsampled,
)
from .tables import COLUMNS, membership, replicated_table, score_table

__all__ = [
    "BLOCK",
    "COLUMNS",
    "Estimate",
    "align",
    "align_each",
    "align_features",
    "faster",
    "jackknife",
    "leave_one_out",
    "membership",
    "mirrored",
    "noise_floor",
    "pair",
    "ranged",
    "relative_to_sum",
    "replicated",
    "replicated_table",
    "rows_of_pass",
    "score_table",
    "standardised",
    "subsampled",
]
