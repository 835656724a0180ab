"""What the arrays of a metric must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.errors import UsageError

__all__ = ["as_numbers", "as_rows", "check_finite", "check_width"]


def as_numbers(name: str, values: Any, minimum: int = 1) -> np.ndarray:
    """Returns one number per sample.

    Args:
        name: of the argument, for the message.
        values: [N], any real type.
        minimum: fewest samples that the metric has a meaning for.

    Returns:
        [N] float64.

    Raises:
        UsageError: another shape or type, too few samples, or a number that is not finite.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        raise UsageError(f"{name}: expected one real number per sample, [N], got {array.dtype} {list(array.shape)}")
    return check_finite(name, _enough(name, array, minimum).astype(np.float64))


def as_rows(name: str, values: Any, minimum: int = 1, dtype: Any = np.float64) -> np.ndarray:
    """Returns one row of numbers per sample.

    Args:
        name: of the argument, for the message.
        values: [N, *S], any real type.
        minimum: fewest samples that the metric has a meaning for.
        dtype: float type to return.

    Returns:
        [N, D], D being the product of S.

    Raises:
        UsageError: another shape or type, too few samples, or a number that is not finite.
    """
    array = np.asarray(values)
    if array.ndim < 2 or array.dtype.kind not in "fiub" or not array.size:
        raise UsageError(f"{name}: expected real numbers of shape [N, *S], got {array.dtype} {list(array.shape)}")
    return check_finite(name, _enough(name, array, minimum).reshape(len(array), -1).astype(dtype))


def check_width(first: tuple[str, np.ndarray], second: tuple[str, np.ndarray]) -> None:
    """Refuses two sets of rows of different widths, given as (name, [N, D]).

    Raises:
        UsageError: D differs.
    """
    (one, rows), (other, others) = first, second
    if rows.shape[1:] != others.shape[1:]:
        raise UsageError(f"{other}: expected {rows.shape[1]} numbers per sample as {one} has, got {others.shape[1]}")


def check_finite(name: str, array: np.ndarray) -> np.ndarray:
    """Returns the array, or refuses it where a number in it is NaN or infinite.

    Raises:
        UsageError: it holds such a number; the message counts the samples that do.
    """
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array.reshape(len(array), -1)).all(axis=1)).sum())
        raise UsageError(f"{name}: expected finite numbers, got NaN or infinity in {bad} of {len(array)} samples")
    return array


def _enough(name: str, array: np.ndarray, minimum: int) -> np.ndarray:
    if len(array) < minimum:
        raise UsageError(f"{name}: expected at least {minimum} samples, got {len(array)}")
    return array
