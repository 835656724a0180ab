"""Which rows of some arrays are the same."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["distinct_rows"]

_LARGE = 2**12
"""Bytes of a row from which one is compared with that before it."""


def distinct_rows(arrays: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the different rows of arrays that belong together, bit by bit.

    Args:
        arrays: each [count, ...]; one that repeats a row by a stride of 0 costs nothing. Without any, all rows are the same.
        count: of rows.

    Returns:
        [R] int64, where each different row is met first, in order, and [count] int64, which of these each row is.
    """
    varying = [array for array in arrays if array.strides[0] != 0]
    bits = [np.ascontiguousarray(array).reshape(count, -1).view(np.uint8) for array in varying]
    # The candidates of an observation follow one another, and to compare images takes a fifth of hashing them.
    large = sum(one.shape[1] for one in bits) >= _LARGE
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    which = np.zeros(count, np.int64)
    for row in range(count if varying else min(count, 1)):
        if row and large and all(np.array_equal(one[row], one[row - 1]) for one in bits):
            which[row] = which[row - 1]
            continue
        key = b"".join(one[row].tobytes() for one in bits)
        if key not in numbers:
            numbers[key] = len(first)
            first.append(row)
        which[row] = numbers[key]
    return np.array(first, np.int64), which
