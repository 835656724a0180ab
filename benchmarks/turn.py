"""A turn of one of several contestants."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["seconds_of"]

_PAUSE = 0.3
_LONG = 1.0
"""Seconds between two runs, and of a run that needs no other one before it."""


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of a run, by itself: after the one before has let go of the cores, and with its own data in the caches.

    Threads of OpenMP wait for their next work with a loop that keeps a core busy, for up to a fifth of a second.
    """
    time.sleep(_PAUSE)
    begun = time.perf_counter()
    run()
    first = time.perf_counter() - begun
    if first > _LONG:
        return first  # what is in the caches at its start makes no difference
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun
