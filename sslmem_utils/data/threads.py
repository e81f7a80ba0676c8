"""Threads for work that releases the GIL (Pillow): results in order, little held in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .. import paths

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], pieces: Sequence[T], most: int) -> Iterator[R]:
    """`work` of each piece, in order, by at most `most` threads with two pieces each begun and not yet consumed."""
    count = min(most, paths.jobs())
    pool = ThreadPoolExecutor(count)
    begun: deque[Future[R]] = deque()
    try:
        for piece in pieces:
            begun.append(pool.submit(work, piece))
            if len(begun) >= 2 * count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
