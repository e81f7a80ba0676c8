"""Memory that is freed in every step is kept for the next one: a tenth to a quarter of a training's time on a CPU."""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library (glibc only) not to give freed memory back to the system; whether it was told.

    A step allocates and frees tensors of megabytes, each time with fresh pages that the system must map and clear. The
    price is that this process keeps the most that it ever used until it ends, 2 GiB at most.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    large = mallopt(_MMAP, 1 << 30) or mallopt(_MMAP, 1 << 25)  # some versions refuse more than 32 MiB
    return bool(large and mallopt(_TRIM, 2**31 - 1))
