"""Compare methods and architectures: how much each memorizes, how good it is, and whether they agree on the images.

    bases = {name: comparison.experiment("digits", name, "mlp", candidate=125, shared=125, external=500)
             for name in ("simclr", "byol", "supervised")}
    comparison.cell(bases["simclr"], range(5))          # one cell of the paper's Table 1: one row a split seed
    found = comparison.agreement(bases, range(5))       # how far methods rank the same images alike
    comparison.over_ceiling(found)                      # the same beside what their noise allows

What is fair: levels of m_rel are compared between encoders that are scored with the same views, since m_rel depends on
them. MAE is scored as it was trained, with 75 % of the patches hidden, so its level stands apart; AUC(S_C, S_E), which
any increasing change of the score leaves alone, and ranks are compared instead. `agreement` marks the pairs of methods
that differ in the method alone (`alike`): same encoder, same views, same representation.
"""

from .agreement import agree, agreement, contrast, contrasts, over_ceiling, resemblance, scores_of
from .cells import above, cell, levels, noise, rank_with_accuracy
from .experiments import experiment, matched, setting, size_of, variants, ways

__all__ = [
    "above", "agree", "agreement", "cell", "contrast", "contrasts", "experiment", "levels", "matched", "noise",
    "over_ceiling", "rank_with_accuracy", "resemblance", "scores_of", "setting", "size_of", "variants", "ways",
]  # fmt: skip
