"""Exercises of the pages, and checks that say whether an answer is right.

    from sslmem_utils.exercises import check

    check("03.2", answer, scores=scores)  # "03.2: right.", or "03.2: not yet: " and a hint; True or False

One module holds the exercises of one page: a function for each, decorated with `exercise`, that takes the answer and
by name what the page has computed, and returns None where the answer is right, else a hint. What is right is computed
from what the page hands over, so that a check holds for every profile and every dataset.
"""

from __future__ import annotations

from .core import check, exercise, known

__all__ = ["check", "exercise", "known"]
