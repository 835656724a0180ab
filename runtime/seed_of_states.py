"""A seed for chains that go on from states, where nobody gave one."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["seed_of_states"]

_BYTES = 4
"""Few enough for whoever types it, and for readers of JSON whose numbers are floats."""


def seed_of_states(states: np.ndarray) -> int:
    """Returns a seed that follows from the states [n, *S] alone: another one than theirs, whose noise would be repeated.

    The same states have the same seed, so a run can be repeated; where chains went on, as from turn to turn, the states are other ones.
    """
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(states).data).digest()[:_BYTES], "little")
