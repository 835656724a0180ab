"""What must not take memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room_for(numbers: int) -> Iterator[None]:
    """Fails where, at any time within, so many numbers of a byte each were held at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < numbers
