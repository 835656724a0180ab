"""Turns on engines, which answer into the same memory at every call, for threads and for energies that share them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from time import perf_counter

from .engine import Engine
from .errors import UsageError

__all__ = ["Turns"]


class Turns:
    """Holds some engines for one thread at a time; that thread may take further turns within its own.

    Args:
        engines: which to hold; those of a composition are its parts', so that it and they take turns too.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        locks = {id(lock): lock for engine in engines for lock in engine.locks}
        self._locks = [
            locks[key] for key in sorted(locks)
        ]  # everybody in the same order, so that nobody waits for ever

    @contextlib.contextmanager
    def taken(self, deadline: float | None = None) -> Iterator[None]:
        """Holds them while the block runs.

        Args:
            deadline: until when to wait, on the clock of `time.perf_counter`; None waits as long as it takes.

        Raises:
            UsageError: another thread held one of them until the deadline.
        """
        with contextlib.ExitStack() as held:
            for lock in self._locks:
                wait = -1.0 if deadline is None else max(0.0, deadline - perf_counter())
                if not lock.acquire(timeout=min(wait, threading.TIMEOUT_MAX)):
                    raise UsageError(
                        "deadline_ms: another thread's call kept the engine until then; load an Ebm of its own for calls with a deadline"
                    )
                held.callback(lock.release)
            yield
