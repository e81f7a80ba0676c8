"""Tests, effect sizes, intervals, rank agreement and reliability.

The unit of replication is one (split seed x training seed): every interval and every test that decides is taken over
such replications. Images of one pair share two networks, so tests over images are description only. Score tables have
one row an image: `set`, `index`, a score and, when stacked, `seed` (the replication) and `representation`.
scipy, statsmodels and scikit-learn do the work and are imported where they are used, to keep start-up short.
"""

from ..specs import SETS
from .agreement import (
    Ceiling,
    Overlap,
    disattenuated,
    disattenuated_interval,
    kendall,
    seed_ceiling,
    spearman,
    top_overlap,
)
from .atypicality import atypicality, centroid_distance, knn_distance, nearness
from .checks import Floats, Number, finite, require
from .components import Components, variance_components
from .effects import auc, cliffs_delta, cohens_d, density, paper_t_tests
from .hierarchical import detectable, hierarchical, power, seeds_needed
from .intervals import Interval, bootstrap, holm, interval, over_seeds, paired_test, show
from .partial import partial_correlation
from .planning import Plan, planner
from .reliability import (
    Reliability,
    reliability,
    replicate_matrix,
    spearman_brown,
    split_half,
    top_probability,
    view_reliability,
)
from .sets import ranking, replications, scores_by_set, set_means, summary

__all__ = [
    "SETS",
    "Ceiling",
    "Components",
    "Floats",
    "Interval",
    "Number",
    "Overlap",
    "Plan",
    "Reliability",
    "atypicality",
    "auc",
    "bootstrap",
    "centroid_distance",
    "cliffs_delta",
    "cohens_d",
    "density",
    "detectable",
    "disattenuated",
    "disattenuated_interval",
    "finite",
    "hierarchical",
    "holm",
    "interval",
    "kendall",
    "knn_distance",
    "nearness",
    "over_seeds",
    "paired_test",
    "paper_t_tests",
    "partial_correlation",
    "planner",
    "power",
    "ranking",
    "reliability",
    "replicate_matrix",
    "replications",
    "require",
    "scores_by_set",
    "seed_ceiling",
    "seeds_needed",
    "set_means",
    "show",
    "spearman",
    "spearman_brown",
    "split_half",
    "summary",
    "top_overlap",
    "top_probability",
    "variance_components",
    "view_reliability",
]
