"""Lengths of the samples in a batch."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["finite_rows", "moderate_square_sums", "square_sums"]

# float32 squares of numbers near these sums neither vanish nor overflow; outside, float64 is asked.
_TRUSTED_LOW = 1e-30
_TRUSTED_HIGH = 1e30


def square_sums(batch: np.ndarray) -> np.ndarray:
    """Returns the sum of squares of each sample, which does not depend on the samples beside it.

    A product of each row with itself in float32, without a temporary array (2.3 us for 8 x 3072 numbers; summing
    in float64 takes 14 us). Where a sum is so small or large that squares may have vanished or overflowed, that sample's
    are done again in float64.

    Args:
        batch: [B, *S] float32, B at least 1.

    Returns:
        [B] float64, a new array; not finite exactly where the sample holds a number that is not finite.
    """
    sums, moderate = _float32_sums(batch)
    if not moderate:
        again = ~((sums >= _TRUSTED_LOW) & (sums <= _TRUSTED_HIGH))  # true for NaN
        wide = batch.reshape(len(batch), -1)[again].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            sums[again] = np.einsum("bd,bd->b", wide, wide)
    return sums


def finite_rows(batch: np.ndarray) -> np.ndarray:
    """Returns of each sample whether all of its numbers are finite.

    Args:
        batch: [B, *S] float32, C-contiguous, B at least 1.

    Returns:
        [B] bool.
    """
    if math.isfinite(np.vdot(batch, batch)):  # one sum for all, in a tenth of the time
        return np.ones(len(batch), bool)
    return np.isfinite(square_sums(batch))


def moderate_square_sums(batch: np.ndarray) -> np.ndarray | None:
    """Returns what `square_sums` does where every sum lies from 1e-30 to 1e30, else None.

    For those who have a short way for numbers that they need not look at one by one.
    """
    sums, moderate = _float32_sums(batch)
    return sums if moderate else None


def _float32_sums(batch: np.ndarray) -> tuple[np.ndarray, bool]:
    """Returns the sums [B] float64 that float32 gives, and whether all of them can be trusted."""
    rows = batch.reshape(len(batch), -1)
    with np.errstate(over="ignore", invalid="ignore"):  # both are looked for
        sums = np.matmul(rows[:, None, :], rows[:, :, None]).reshape(-1).astype(np.float64)
        # The ufuncs' own reductions are half as long on their way as the methods of an array. False for NaN.
        moderate = np.minimum.reduce(sums) >= _TRUSTED_LOW and np.maximum.reduce(sums) <= _TRUSTED_HIGH
    return sums, bool(moderate)
