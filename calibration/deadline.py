"""The time that a search has."""

from __future__ import annotations

import math
import time

__all__ = ["Deadline"]


class Deadline:
    """A moment after which nothing new is begun; what runs then is finished.

    Args:
        seconds: from now on; None for never.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether it is now or was before."""
        return time.monotonic() >= self._end
