"""The score for anybody's encoders and images: two models in, one table out.

    import sslmem_utils
    table = sslmem_utils.score(f, g, "path/to/images", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

`score` takes any `nn.Module` or function, `audit` turns one encoder's alignments into membership p-values,
`load_scores` reads published tables, `report` writes a page of results. The command line has the same for weight files
(`sslmem score`, `sslmem remove`).
"""

from .adapters import Adapter
from .audit import audit, removal
from .pictures import Pictures, pictures
from .published import load_scores
from .report import report
from .scores import paper_code_score, score

__all__ = [
    "Adapter",
    "Pictures",
    "audit",
    "load_scores",
    "paper_code_score",
    "pictures",
    "removal",
    "report",
    "score",
]
