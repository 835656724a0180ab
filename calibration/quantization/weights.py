"""INT8 weights: a scale for each output channel, and the rounding of each weight.

A layer computes W X for inputs X, and its INT8 form Q Y, with Q the weights on their grid and Y the inputs on theirs.
Rounding every weight to the nearest grid point makes Q - W small, which is not what counts: here Q Y - W X is made
small in the mean square over the inputs that the layer sees along trajectories.

1. Least squares: V = argmin ||V Y - W X||^2 + damping ||V - W||^2. It also takes back what the grid of the
   inputs does systematically, such as the shrinking of values that were clipped.
2. The columns of V are rounded one by one, and what each rounding adds to the output is handed on to the columns that
   are not rounded yet: Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
   transformers", arXiv:2210.17323, equations 2 and 3 in the Cholesky form of section 3.3, for all rows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Moments", "channel_scales", "round_nearest", "round_to_inputs"]

_CHUNK = 1024
"""Rows that are multiplied at once: a few at a time would spend the time on adding up results."""
_SMALLEST_SCALE = 2.0**-100
_SHARES = np.linspace(0.6, 1.0, 21)  # of the largest weight of a channel that are tried as the end of its grid
_DAMPING = 0.01  # of the mean diagonal of the second moments; the value of the paper


@dataclass
class Moments:
    """Second moments of a layer's inputs, summed over the rows that were seen.

    Attributes:
        rounded: sum of y y^T, [K, K] float32, y being an input on its grid.
        crossed: sum of x y^T, [K, K] float32, x being the same input as it is.
    """

    rounded: np.ndarray
    crossed: np.ndarray
    _waiting: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @classmethod
    def of_size(cls, size: int) -> Moments:
        """Moments of nothing, for K inputs."""
        return cls(np.zeros((size, size), np.float32), np.zeros((size, size), np.float32))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adds rows [R, K] of inputs and of the same on their grid."""
        self._waiting.append((x, y))
        if sum(len(rows) for rows, _ in self._waiting) >= _CHUNK:
            self.settle()

    def settle(self) -> None:
        """Counts the rows that were added last; to be called once all are."""
        if self._waiting:
            x, y = (np.concatenate(rows) for rows in zip(*self._waiting, strict=True))
            self.rounded += y.T @ y
            self.crossed += x.T @ y
            self._waiting.clear()


def channel_scales(weights: np.ndarray, limit: int = 127) -> np.ndarray:
    """Returns for each row the scale of the symmetric INT8 grid that is closest to it in the mean square.

    Args:
        weights: [N, K].
        limit: largest number of the grid.

    Returns:
        [N] float32, above 0.
    """
    weights = weights.astype(np.float64)
    largest = np.abs(weights).max(axis=1)
    largest = np.where(largest > 0, largest, 1.0)
    best = np.full(len(weights), np.inf)
    scales = largest / limit
    for share in _SHARES[::-1]:
        candidate = share * largest / limit
        error = ((round_nearest(weights, candidate, limit) * candidate[:, None] - weights) ** 2).sum(axis=1)
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, candidate, scales)
    # Decayed weights end as denormal numbers, which engines take for zero; a scale must stay above it.
    return np.maximum(scales, _SMALLEST_SCALE).astype(np.float32)


def round_nearest(weights: np.ndarray, scales: np.ndarray, limit: int = 127) -> np.ndarray:
    """Returns the INT8 numbers of at most `limit` that are nearest to weights [N, K] on grids of scale [N]."""
    return np.clip(np.rint(weights / scales[:, None]), -limit, limit).astype(np.int8)


def round_to_inputs(weights: np.ndarray, scales: np.ndarray, moments: Moments, limit: int = 127) -> np.ndarray:
    """Returns INT8 numbers whose products with the layer's inputs on their grid are close to the layer's own.

    A row keeps the numbers of `round_nearest` where those are closer: greedy rounding and damping promise nothing.

    Args:
        weights: [N, K].
        scales: [N].
        moments: of the layer's inputs, with at least one row.
        limit: largest number of the grid.

    Returns:
        [N, K] int8.
    """
    size = weights.shape[1]
    mean = float(np.trace(moments.rounded)) / size
    if mean == 0:  # the inputs are zero: any weights would do
        return round_nearest(weights, scales, limit)
    damping = _DAMPING * mean * np.eye(size)
    damped = moments.rounded.astype(np.float64) + damping
    target = weights.astype(np.float64) @ (moments.crossed.astype(np.float64) + damping)
    solved = np.linalg.solve(damped, target.T).T  # [N, K]
    # Columns with the largest moments first: what is rounded last has nobody left to take its error.
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T  # inverse = upper^T upper
    wide = scales.astype(np.float64)
    rest = np.ascontiguousarray(solved[:, order].T)  # [K, N], a row for each column of the weights
    numbers = np.empty((size, len(weights)), np.int8)
    block = 128
    for start in range(0, size, block):
        stop = min(start + block, size)
        errors = np.empty((stop - start, len(weights)))
        for column in range(start, stop):
            numbers[column] = np.clip(np.rint(rest[column] / wide), -limit, limit)
            errors[column - start] = (rest[column] - numbers[column] * wide) / upper[column, column]
            rest[column + 1 : stop] -= np.outer(upper[column, column + 1 : stop], errors[column - start])
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    back = np.empty_like(numbers)
    back[order] = numbers
    fitted, nearest = np.ascontiguousarray(back.T), round_nearest(weights, scales, limit)
    better = _errors(fitted, weights, scales, moments) <= _errors(nearest, weights, scales, moments)
    return np.where(better[:, None], fitted, nearest)


def _errors(numbers: np.ndarray, weights: np.ndarray, scales: np.ndarray, moments: Moments) -> np.ndarray:
    """[N] float64: sum over the inputs of (q y - w x)^2 for each row, less the sum of (w x)^2."""
    q, w = numbers * scales[:, None].astype(np.float64), weights.astype(np.float64)
    squares = np.einsum("nk,nk->n", q @ moments.rounded.astype(np.float64), q)
    return np.asarray(squares - 2 * np.einsum("nk,nk->n", w @ moments.crossed.astype(np.float64), q))
