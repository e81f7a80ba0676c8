"""Draw the README's figure from the committed results: `python book/readme_figure.py`."""

import pandas as pd

from sslmem_utils import figures, paths

TARGET = paths.BOOK / "_static" / "four_sets.svg"


def svg() -> str:
    """Notebook 03's figure of the quick profile."""
    scores = pd.read_parquet(paths.RESULTS / "03_four_sets" / "quick" / "scores.parquet")
    return figures.to_svg(figures.distribution_of_sets(scores))


if __name__ == "__main__":
    TARGET.write_text(svg(), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(paths.ROOT)}")
