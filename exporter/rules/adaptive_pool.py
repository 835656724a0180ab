"""Pools whose windows are given by the size of their output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .constant import constant
from .first_maximum import first_maximum, pool_indices
from .linear_map import along
from .pool_batch import add_batch
from .repeat_each import repeat_each

__all__ = ["RULES"]

aten = torch.ops.aten


def _bounds(n: int, out: int) -> list[tuple[int, int]]:
    """Window [start, end) of each output, as PyTorch defines adaptive pools."""
    return [(i * n // out, -(-(i + 1) * n // out)) for i in range(out)]


def _mean_matrix(n: int, out: int) -> torch.Tensor:
    """[out, n] matrix of an adaptive average pool along one axis."""
    matrix = torch.zeros(out, n, dtype=torch.float64)
    for row, (start, end) in enumerate(_bounds(n, out)):
        matrix[row, start:end] = 1 / (end - start)
    return matrix.float()


def _adaptive_avg(rank: int) -> Any:
    pool = {2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}[rank]

    def rule(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """[B, C, *n] -> [B, C, *size]: a mean, an ordinary pool, or a matrix along each axis."""
        n = x.shape[2:]
        if all(o == 1 for o in size):
            return x.mean(list(range(2, 2 + rank)), keepdim=True)
        if all(a % o == 0 for a, o in zip(n, size, strict=True)):
            k = [a // o for a, o in zip(n, size, strict=True)]
            return pool(x, k, k)  # type: ignore[no-any-return]
        for axis, (a, o) in enumerate(zip(n, size, strict=True)):
            if a != o:
                x = along(x, 2 + axis, constant(lambda a=a, o=o: _mean_matrix(a, o)))  # type: ignore[misc]
        return x

    return add_batch(rule, rank)


def _adaptive_avg_backward(rank: int) -> Any:
    def rule(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """[B, C, *size] -> [B, C, *n]: the transposed matrices."""
        n, size = x.shape[2:], grad.shape[2:]
        if all(a % o == 0 for a, o in zip(n, size, strict=True)):
            k = [a // o for a, o in zip(n, size, strict=True)]
            share = grad / math.prod(k)
            return share.expand(x.shape) if all(o == 1 for o in size) else repeat_each(share, k)
        for axis, (a, o) in enumerate(zip(n, size, strict=True)):
            if a != o:
                grad = along(grad, 2 + axis, constant(lambda a=a, o=o: _mean_matrix(a, o).t().contiguous()))  # type: ignore[misc]
        return grad

    return add_batch(rule, rank)


def _adaptive_windows(x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, list[list[int]]]:
    """[B, C, *n] -> [B, C, K, *size]; a window shorter than the longest repeats its last element."""
    places: list[list[int]] = []
    longest: list[int] = []
    for n, o in zip(x.shape[2:], size, strict=True):
        bounds = _bounds(n, o)
        most = max(end - start for start, end in bounds)
        longest.append(most)
        places.append([min(start + j, end - 1) for j in range(most) for start, end in bounds])
    for axis, flat in enumerate(places):
        x = x.index_select(2 + axis, constant(lambda flat=flat: torch.tensor(flat)))  # type: ignore[misc]
    split: list[int] = []
    for most, o in zip(longest, size, strict=True):
        split += [most, o]
    rank = len(size)
    spread = x.reshape(*x.shape[:2], *split)
    order = [0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    return spread.permute(order).reshape(*x.shape[:2], math.prod(longest), *size), places


def _adaptive_max(rank: int) -> Any:
    def rule(x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The maxima [B, C, *size], and a stand-in for their indices."""
        windows, _ = _adaptive_windows(x, size)
        maximum = windows.amax(2)
        return maximum, pool_indices(maximum)

    return add_batch(rule, rank)


def _reads(places: list[int], n: int) -> torch.Tensor:
    """[n, len(places)] 0/1 matrix: which of n elements each place reads."""
    return constant(lambda: F.one_hot(torch.tensor(places), n).t().float().contiguous())


def _adaptive_max_backward(rank: int) -> Any:
    def rule(grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        size = grad.shape[2:]
        windows, places = _adaptive_windows(x, size)
        parts = first_maximum(windows, windows.amax(2), grad)
        longest = [len(flat) // o for flat, o in zip(places, size, strict=True)]
        spread = parts.reshape(*parts.shape[:2], *longest, *size)
        order = [0, 1]
        for axis in range(rank):
            order += [2 + axis, 2 + rank + axis]
        flat_size = [k * o for k, o in zip(longest, size, strict=True)]
        placed = spread.permute(order).reshape(*parts.shape[:2], *flat_size)
        for axis, (flat, n) in enumerate(zip(places, x.shape[2:], strict=True)):
            placed = along(placed, 2 + axis, _reads(flat, n))
        return placed

    return add_batch(rule, rank)


RULES = {
    aten._adaptive_avg_pool2d.default: _adaptive_avg(2),
    aten._adaptive_avg_pool3d.default: _adaptive_avg(3),
    aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_backward(2),
    aten._adaptive_avg_pool3d_backward.default: _adaptive_avg_backward(3),
    aten.adaptive_max_pool2d.default: _adaptive_max(2),
    aten.adaptive_max_pool3d.default: _adaptive_max(3),
    aten.adaptive_max_pool2d_backward.default: _adaptive_max_backward(2),
    aten.adaptive_max_pool3d_backward.default: _adaptive_max_backward(3),
}
