def __getattr__(name: str) -> object:
    """`score`, `load_scores` and `paper_code_score` of `own`, which loads torch when one is first asked for."""
    if name in ("score", "load_scores", "paper_code_score"):
        return getattr(__import__(f"{__name__}.own", fromlist=[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
